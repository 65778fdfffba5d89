"""The SeedLink server that plays a recording: `PlaybackServer`."""

import asyncio
import itertools
import random
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from monitor.playback.clock import Clock
from monitor.playback.connection import Connection
from monitor.playback.faults import FaultInjector, Faults, Item
from monitor.playback.info import Inventory
from monitor.playback.packets import RECORD_BYTES, RECORD_SIZES
from monitor.playback.protocol import Access
from monitor.playback.recording import Recording
from monitor.playback.ring import Ring
from monitor.playback.selection import Request
from monitor.records import Segment
from monitor.sources.problems import Problem
from monitor.timebase import NS_PER_SECOND, seconds_to_ns

DEFAULT_RING_BYTES = 64 * 1024 * 1024
# As fast as clients take it, the slowest may be so many packets behind.
_AHEAD_PACKETS = 256
# Enough for clients that go on by time after sequence numbers were reset.
_KEPT_AT_RESET_NS = 10 * NS_PER_SECOND
# Requests that are remembered for whoever asks.
_MAX_REQUESTS = 1000
# Further connections are closed as soon as they are made.
_MAX_CLIENTS = 200
# A loop that has no pause lets nobody else run.
_PACKETS_WITHOUT_PAUSE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackSettings:
    """How a recording is played.

    Attributes:
        speed: Multiple of real time; None: as fast as the clients take it, and only while there is one.
        shift_to_now: Move the recording in time, by whole seconds, so that what is due when playing starts is now.
        loop: Start again at the end, later in time by the length of the recording.
        packet_s: Length of a packet, seconds; more samples than fit a record make several packets.
        record_bytes: Size of a miniSEED 2 record; SeedLink 3 has 512 only.
        preload_s: So much of the recording is in the ring from the start; infinite: all of it.
        wait_for_clients: So many clients must have asked for data before playing starts.
        ring_bytes: When more is held, the oldest packets go.
        first_sequence: Sequence number of the first packet.
        miniseed: What SeedLink 4 clients get, 2 or 3; SeedLink 3 has miniSEED 2 only.
        versions: Of SeedLink, 3, 4 or both.
        organization: Second line of HELLO.
        access: Who may have data; without users and tokens everybody.
        tls: Certificate and key; None: no TLS.
        faults: What goes wrong.
        clock: Where time comes from.
    """

    speed: float | None = 1.0
    shift_to_now: bool = False
    loop: bool = False
    packet_s: float = 1.0
    record_bytes: int = RECORD_BYTES
    preload_s: float = 0.0
    wait_for_clients: int = 0
    ring_bytes: int = DEFAULT_RING_BYTES
    first_sequence: int = 1
    miniseed: int = 2
    versions: tuple[int, ...] = (3, 4)
    organization: str = "monitor serve"
    access: Access = field(default_factory=Access)
    tls: ssl.SSLContext | None = None
    faults: Faults = field(default_factory=Faults)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        checks = {
            "speed": (self.speed is None or 0 < self.speed < float("inf"), "more than 0, or None"),
            "packet_s": (0 < self.packet_s <= 3600, "more than 0, at most 3600"),
            "preload_s": (self.preload_s >= 0, "0 or more"),
            "wait_for_clients": (self.wait_for_clients >= 0, "0 or more"),
            "ring_bytes": (self.ring_bytes > 0, "more than 0"),
            "first_sequence": (0 <= self.first_sequence < 1 << 63, "0 to 2**63"),
            "miniseed": (self.miniseed in {2, 3}, "2 and 3"),
            "record_bytes": (
                self.record_bytes in (RECORD_SIZES if self.versions == (4,) else (RECORD_BYTES,)),
                f"{RECORD_BYTES}, and where only SeedLink 4 is spoken one of {RECORD_SIZES[1:]}",
            ),
            "versions": (bool(self.versions) and set(self.versions) <= {3, 4}, "3, 4 or both"),
        }
        for name, (good, accepted) in checks.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {accepted}")


class PlaybackServer:
    """A SeedLink server, an asynchronous context manager.

    Args:
        recording: What to play; None: only what `feed` is given.
        settings: How.
        host: Address to listen on.
        port: TCP port; 0: any that is free.

    Attributes:
        ring: What clients can ask for.
        requests: What clients asked for, the latest last.
        packets_sent: To all clients.
        connections_made: By all clients.
        finished: Whether the recording has been played to its end.
    """

    def __init__(
        self,
        recording: Recording | None,
        settings: PlaybackSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.settings = settings or PlaybackSettings()
        self._recording, self._host, self._port = recording, host, port
        self.ring = Ring(self.settings.ring_bytes, first_sequence=self.settings.first_sequence)
        self.requests: deque[Request] = deque(maxlen=_MAX_REQUESTS)
        self.packets_sent = self.connections_made = 0
        self.finished = False
        self._rng = random.Random(self.settings.faults.seed)
        self._injector = FaultInjector(self.settings.faults)
        self._shift_ns = 0
        self._started_ns = self.settings.clock.now_ns()
        self._listener: asyncio.Server | None = None
        self._clients: dict[Connection, asyncio.Task[None]] = {}
        self._begun, self._ready = asyncio.Event(), asyncio.Event()
        self._progress = asyncio.Event()
        self._failure: BaseException | None = None
        self._player: asyncio.Task[None] | None = None

    @classmethod
    def play(
        cls,
        source: Recording | Sequence[Segment] | Sequence[str | Path],
        *,
        speed: float | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
        settings: PlaybackSettings | None = None,
    ) -> Self:
        """Make a server, for use in `async with`; unlike `monitor serve` as fast as the clients take it.

        Args:
            source: Segments, names of files, or a recording.
            speed: Multiple of real time; None: as fast as the clients take it.
            host: Address to listen on.
            port: TCP port; 0: any that is free.
            faults: What goes wrong.
            settings: Everything else.
        """
        if not isinstance(source, Recording):
            segments = [item for item in source if isinstance(item, Segment)]
            paths = [item for item in source if not isinstance(item, Segment)]
            source = Recording.from_files(paths, on_problem=_refuse) if paths else Recording.from_segments(segments)
        chosen = replace(settings or PlaybackSettings(), speed=speed)
        return cls(source, chosen if faults is None else replace(chosen, faults=faults), host=host, port=port)

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return self._port

    @property
    def clients(self) -> int:
        """Number of connections."""
        return len(self._clients)

    @property
    def stalled(self) -> int:
        """Number of connections that say nothing because they were asked to."""
        return sum(connection.stalled for connection in self._clients)

    @property
    def all_sent(self) -> bool:
        """Whether nobody who asked for data is still to be sent any of what is held."""
        return all(connection.cursor >= self.ring.end for connection in self._followers())

    async def __aenter__(self) -> Self:
        await self.restart()
        self._player = asyncio.create_task(self._play())
        self._player.add_done_callback(self._note_player_end)
        if self.settings.wait_for_clients == 0:
            self._begun.set()
            try:
                await self.wait_until(self._ready.is_set)
            except BaseException:
                await self._end()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
        self._raise_failure()

    async def _end(self) -> None:
        if self._player is not None:
            self._player.cancel()
            await asyncio.gather(self._player, return_exceptions=True)
        await self.stop()

    async def restart(self, *, first_sequence: int | None = None) -> None:
        """Listen, again after `stop` on the same port.

        Args:
            first_sequence: Number the packets held anew from there, as a server does that lost its state.

        Raises:
            OSError: The address cannot be used.
        """
        if first_sequence is not None:
            self.ring.renumber(first_sequence)
        self._listener = await asyncio.start_server(self._accept, self._host, self._port, ssl=self.settings.tls)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close all connections; the recording goes on, as when only the network is lost."""
        if self._listener is not None:
            self._listener.close()
        tasks = list(self._clients.values())
        self.drop_connections()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.wait_closed()
            self._listener = None

    def drop_connections(self) -> None:
        """Close all connections at once, in the middle of whatever they send."""
        for connection, task in self._clients.items():
            connection.abort()
            task.cancel()

    def feed(self, segments: Iterable[Segment]) -> None:
        """Send segments now, after what has been played, cut to packets; faults count them too."""
        settings = self.settings
        packets = Recording.from_segments(segments).packets(settings.packet_s, record_bytes=settings.record_bytes)
        for item in self._injector.apply(Item(packet, 0) for packet in packets):
            self._append(item)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true of the server; looked at after each step of any client or the player."""
        while not condition():
            self._raise_failure()
            self._progress.clear()
            await self._progress.wait()

    async def wait_played(self) -> None:
        """Wait until the recording has ended and every client that is connected has been sent all it wants."""
        await self.wait_until(lambda: self.finished and self.all_sent)

    def inventory(self) -> Inventory:
        """What INFO answers are made of."""
        return Inventory(
            organization=self.settings.organization,
            spans=self.ring.spans(),
            started_ns=self._started_ns,
            native=self.settings.miniseed,
            access=self.settings.access,
            clients=[(*connection.peer, connection.sent) for connection in self._clients],
        )

    def note_request(self, request: Request) -> None:
        """A client has asked for data."""
        self.requests.append(request)
        self.note_progress()

    def note_progress(self) -> None:
        """Something has changed that the player, or whoever waits, may wait for."""
        self._progress.set()

    def count_sent(self) -> str | None:
        """Count a packet that is about to be sent, and name what is to go wrong before it."""
        number, faults = self.packets_sent, self.settings.faults
        self.packets_sent += 1
        if number == 0:
            return None
        points = {"stall": faults.stall, "cut": faults.cut, "hang": faults.hang, "garble": faults.garble}
        return next((name for name, when in points.items() if when.hits(number, self._rng)), None)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        refused = self.connections_made <= self.settings.faults.refuse_connections
        if refused or len(self._clients) >= _MAX_CLIENTS:
            writer.transport.abort()
            return
        connection = Connection(self, reader, writer)
        task = asyncio.create_task(self._serve(connection))
        self._clients[connection] = task
        task.add_done_callback(lambda _: self._clients.pop(connection))
        task.add_done_callback(self._note_client_end)
        self._begun.set()
        self.note_progress()

    async def _serve(self, connection: Connection) -> None:
        await self._ready.wait()
        await connection.serve()

    def _note_client_end(self, task: asyncio.Task[None]) -> None:
        """A connection has ended; that it broke is its client's affair."""
        if task.cancelled() or not isinstance(task.exception(), OSError):
            self._note_player_end(task)
        self.note_progress()

    def _note_player_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
        self.note_progress()

    async def _play(self) -> None:
        """Fill the ring, at the speed asked for."""
        await self._begun.wait()
        settings, clock = self.settings, self.settings.clock
        preload_ns = self._prepare()
        started: float | None = None
        for number, item in enumerate(self._injector.apply(self._items())):
            if started is None and item.due_ns > preload_ns:
                self._note_ready()
                await self.wait_until(lambda: len(self._followers()) >= settings.wait_for_clients)
                started = clock.monotonic()
            if started is not None and settings.speed is None:
                await self.wait_until(self._clients_keep_up)
            elif started is not None and settings.speed is not None:
                due = started + (item.due_ns - preload_ns) / NS_PER_SECOND / settings.speed
                if (delay := due - clock.monotonic()) > 0:
                    await clock.sleep(delay)
            if number % _PACKETS_WITHOUT_PAUSE == 0:
                await asyncio.sleep(0)
            self._append(item)
        self.finished = True
        self._note_ready()

    def _note_ready(self) -> None:
        self._ready.set()
        self.note_progress()

    def _prepare(self) -> int:
        """Fix the shift in time, and return how much is played before the first client, nanoseconds."""
        if self._recording is None:
            return 0
        first_ns, span_ns = self._recording.first_ns, self._recording.end_ns - self._recording.first_ns
        preload_ns = min(span_ns, seconds_to_ns(min(self.settings.preload_s, span_ns / NS_PER_SECOND + 1)))
        if self.settings.shift_to_now:
            shift_ns = self.settings.clock.now_ns() - preload_ns - first_ns
            self._shift_ns = shift_ns // NS_PER_SECOND * NS_PER_SECOND
        return preload_ns

    def _items(self) -> Iterator[Item]:
        """The packets of the recording, and when each is due after the first sample."""
        recording = self._recording
        if recording is None:
            return
        span_ns = -(-(recording.end_ns - recording.first_ns) // NS_PER_SECOND) * NS_PER_SECOND
        for number in itertools.count():
            shift_ns = self._shift_ns + number * span_ns
            packets = recording.packets(
                self.settings.packet_s, shift_ns=shift_ns, record_bytes=self.settings.record_bytes
            )
            for packet in packets:
                yield Item(packet, packet.next_ns - self._shift_ns - recording.first_ns)
            if not self.settings.loop:
                return

    def _append(self, item: Item) -> None:
        self.ring.append(item.packet)
        if item.reset:
            self._reset()
        for connection in self._clients:
            connection.wake()
        self.note_progress()

    def _reset(self) -> None:
        """Become a server that was restarted: other sequence numbers for the same data, and nobody connected."""
        behind = [connection.cursor for connection in self._followers()]
        newest = self.ring.get(self.ring.end - 1)
        if newest is not None:
            behind.append(self.ring.index_after(newest.next_ns - _KEPT_AT_RESET_NS))
        self.ring.forget_before(min(behind, default=self.ring.end))
        self.ring.renumber(1)
        self.drop_connections()

    def _followers(self) -> list[Connection]:
        return [connection for connection in self._clients if connection.following]

    def _clients_keep_up(self) -> bool:
        followers = self._followers()
        return bool(followers) and all(c.cursor >= self.ring.end - _AHEAD_PACKETS for c in followers)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _refuse(problem: Problem) -> None:
    raise ValueError(str(problem))


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Load what TLS needs.

    Args:
        certificate: PEM file of the certificate and those that sign it.
        key: PEM file of its key; None: in the same file.

    Raises:
        OSError: A file cannot be read, or does not hold what it should (`ssl.SSLError`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
