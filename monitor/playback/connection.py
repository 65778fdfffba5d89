"""One client: its commands in, its packets out, and what goes wrong on the way on request."""

import asyncio
import struct
from typing import TYPE_CHECKING

from monitor.playback.packets import WirePacket
from monitor.playback.protocol import Catalogue, Close, Event, Info, Reply, ServerProtocol, Start
from monitor.playback.ring import V3_SEQUENCES
from monitor.playback.selection import Request, Wanted, place
from monitor.records import ChannelId

if TYPE_CHECKING:
    from monitor.playback.server import PlaybackServer

# What is put together before it is written: a few packets share a system call, none waits.
_BATCH_BYTES = 32 * 1024
_READ_BYTES = 4096
_TRICKLE_INTERVAL_S = 0.1
# For what is still on its way to the client, and for the goodbye of TLS.
_CLOSE_TIMEOUT_S = 1.0
_V4_HEADER = struct.Struct("<2sccIQB")
_GARBAGE = b"\x00not a SeedLink packet\xff" * 30


def frame(packet: WirePacket, sequence: int, *, version: int, miniseed: int) -> bytes:
    """Put a packet's header before it.

    Args:
        packet: The packet.
        sequence: Its number; SeedLink 3 has the lowest 24 bits of it.
        version: Of SeedLink.
        miniseed: Version of miniSEED, in SeedLink 4.
    """
    if version == 3:
        return b"SL%06X" % (sequence % V3_SEQUENCES) + packet.record
    return _frame_v4(str(miniseed).encode(), b"D", sequence, packet.station_id, packet.payload(miniseed))


def _frame_v4(kind: bytes, subformat: bytes, sequence: int, station_id: str, payload: bytes) -> bytes:
    station = station_id.encode()
    return _V4_HEADER.pack(b"SE", kind, subformat, len(payload), sequence, len(station)) + station + payload


class Connection:
    """Serves one client until it leaves, is cut off or the server ends.

    Args:
        server: Whose ring, settings and counters are used.
        reader: From the client.
        writer: To the client.
    """

    def __init__(self, server: "PlaybackServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        settings = server.settings
        self._protocol = ServerProtocol(
            organization=settings.organization,
            access=settings.access,
            versions=settings.versions,
            refused=settings.faults.refuse_stations,
            unanswered=settings.faults.unanswered,
        )
        self._writing = asyncio.Lock()
        self._more = asyncio.Event()
        self._wanted: list[Wanted] = []
        self._choices: dict[ChannelId, tuple[Wanted, int] | None] = {}
        self._ended: set[ChannelId] = set()
        self.request: Request | None = None
        self.cursor = 0
        self.sent = 0
        self.stalled = False
        # Whoever has drained has handed everything to the system: a connection may be closed right after.
        writer.transport.set_write_buffer_limits(high=0)

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the client."""
        name = self._writer.get_extra_info("peername") or ("", 0)
        return str(name[0]), int(name[1])

    @property
    def following(self) -> bool:
        """Whether it has asked for data and is not stalled on request."""
        return self.request is not None and not self.stalled

    def wake(self) -> None:
        """Tell that the ring has more."""
        self._more.set()

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Answer commands and send data until the connection ends."""
        tasks = [asyncio.create_task(self._obey()), asyncio.create_task(self._stream())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.close()
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._writer.wait_closed()
            except (OSError, TimeoutError):
                self.abort()
        for task in done:
            task.result()

    async def _obey(self) -> None:
        while data := await self._reader.read(_READ_BYTES):
            for event in self._protocol.receive(data):
                if isinstance(event, Close):
                    return
                if isinstance(event, Start):
                    self._begin(event.request)
                else:
                    await self._write(self._answer(event))

    def _answer(self, event: Event) -> bytes:
        match event:
            case Reply(data):
                return data
            case Info(version=3):
                return b"".join(self._server.inventory().frames_v3(event))
            case Info():
                document, known = self._server.inventory().json(event)
                return _frame_v4(b"J", b"I" if known else b"E", 0, "", document)
            case Catalogue():
                return self._server.inventory().catalogue()
        raise AssertionError(event)

    def _begin(self, request: Request) -> None:
        ring = self._server.ring
        self._wanted = [place(selection, ring, version=request.version) for selection in request.selections]
        self.cursor = min(wanted.first for wanted in self._wanted)
        self.request = request
        self._more.set()
        self._server.note_request(request)

    async def _stream(self) -> None:
        """Send what the ring holds and what comes, packet after packet."""
        server = self._server
        while self.request is None:
            self._more.clear()
            await self._more.wait()
        while True:
            batch = bytearray()
            while self.cursor < server.ring.end and len(batch) < _BATCH_BYTES:
                self.cursor = max(self.cursor, server.ring.first)  # what left the ring meanwhile is lost
                data = self._next_frame()
                self.cursor += 1
                if data is None:
                    continue
                fault = server.count_sent()
                if fault is not None:
                    await self._write(bytes(batch))
                    batch.clear()
                    if not await self._misbehave(fault, data):
                        return
                batch += data
                self.sent += 1
            await self._write(bytes(batch))
            server.note_progress()
            if self._window_done() or (self.request.dialup and self._caught_up()):
                await self._finish()
                return
            if self._caught_up():
                self._more.clear()
                await self._more.wait()

    def _caught_up(self) -> bool:
        return self.cursor >= self._server.ring.end

    def _next_frame(self) -> bytes | None:
        """The packet at the cursor, None if the client does not want it."""
        packet = self._server.ring.get(self.cursor)
        if packet is None or self.request is None:
            return None
        choice = self._choice(packet.channel_id)
        if choice is None:
            return None
        wanted, miniseed = choice
        end_ns, start_ns = wanted.selection.end_ns, wanted.selection.start_ns
        if end_ns is not None and packet.starttime_ns >= end_ns:
            self._ended.add(packet.channel_id)
            return None
        if self.cursor < wanted.first or (wanted.by_time and start_ns is not None and packet.next_ns <= start_ns):
            return None
        sequence = self._server.ring.sequence(self.cursor)
        return frame(packet, sequence, version=self.request.version, miniseed=miniseed)

    def _choice(self, channel_id: ChannelId) -> tuple[Wanted, int] | None:
        if channel_id not in self._choices:
            found = next((wanted for wanted in self._wanted if wanted.selection.has_station(channel_id)), None)
            native = self._server.settings.miniseed if self.request and self.request.version == 4 else 2
            miniseed = found.selection.version_for(channel_id, native) if found is not None else None
            self._choices[channel_id] = (found, miniseed) if found is not None and miniseed is not None else None
        return self._choices[channel_id]

    def _window_done(self) -> bool:
        """Whether every channel that was met has passed the end of the time asked for."""
        met = {channel for channel, choice in self._choices.items() if choice is not None}
        return bool(met) and met == self._ended

    async def _finish(self) -> None:
        if self._server.settings.faults.omit_end:
            await self._stall(None)
        await self._write(b"END")

    async def _misbehave(self, fault: str, data: bytes) -> bool:
        """Do what was asked to go wrong before this packet; whether to go on with it after that."""
        match fault:
            case "cut":
                await self._write(data[: len(data) // 2])
                return False
            case "hang":
                await self._write(data[: len(data) // 2])
                await self._stall(None)
            case "stall":
                await self._stall(self._server.settings.faults.stall_s)
            case "garble":
                await self._write(_GARBAGE)
        return True

    async def _stall(self, seconds: float | None) -> None:
        self.stalled = True
        self._server.note_progress()
        if seconds is None:
            await asyncio.Event().wait()  # until the client has had enough
        else:
            await self._server.settings.clock.sleep(seconds)
        self.stalled = False

    async def _write(self, data: bytes) -> None:
        """Write all of it before anything else; slowly if asked."""
        if not data:
            return
        rate = self._server.settings.faults.trickle_bytes_s
        async with self._writing:
            if rate is None:
                self._writer.write(data)
                await self._writer.drain()
                return
            step = max(1, round(rate * _TRICKLE_INTERVAL_S))
            for first in range(0, len(data), step):
                self._writer.write(data[first : first + step])
                await self._writer.drain()
                await self._server.settings.clock.sleep(step / rate)
