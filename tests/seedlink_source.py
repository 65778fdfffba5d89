"""A `SeedLinkSource` under test: what it passes on, what it tells, how long it wants to wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.records import ChannelId, Packet, Segment
from monitor.settings import SeedLinkSettings
from monitor.sources.seedlink import Disconnected, Position, SeedLinkSource, SourceEvent
from monitor.timebase import parse_time

# So that what hangs fails a test instead of stopping the run; nothing waits for it.
PATIENCE_S = 60.0
T0 = parse_time("2024-05-06T07:08:09.250Z")


def noise(seed_id: str, *, seconds: float = 20, rate: float = 100.0, start_ns: int = T0) -> Segment:
    rng = np.random.default_rng(sum(map(ord, seed_id)))
    samples = (1000 * rng.standard_normal(round(seconds * rate))).astype(np.int32)
    return Segment(ChannelId(*seed_id.split(".")), start_ns, rate, samples)


class Listener:
    """Runs a source until enough has come of it.

    Args:
        port: Of a server on this computer.
        positions: For the source.
        now_ns: Time of this computer.
        options: More settings.
    """

    def __init__(self, port: int, *, positions: Sequence[Position] = (), now_ns: int = T0, **options: Any) -> None:
        settings = {
            "host": "127.0.0.1",
            "port": port,
            "stations": ["XX.ABC"],
            "name": "here",
            "stall_timeout_s": 5.0,
            "backlog_s": 600.0,
            **options,
        }
        self.packets: list[Packet] = []
        self.events: list[SourceEvent] = []
        self.waits: list[float] = []
        self.put: Callable[[Packet], Awaitable[None]] = self._put
        self._changed = asyncio.Event()
        self.source = SeedLinkSource(
            SeedLinkSettings(**settings),
            positions=lambda: positions,
            on_event=self._note,
            clock=lambda: now_ns,
            sleep=self._sleep,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Run until something is true, looked at after each packet, event and wait."""
        task = asyncio.create_task(self.source.run(self.put))
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    changed = asyncio.create_task(self._changed.wait())
                    await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
                    changed.cancel()
                    if task.done():
                        task.result()
                    self._changed.clear()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.told(Disconnected)]

    @property
    def npts(self) -> int:
        return sum(segment.npts for packet in self.packets for segment in packet.segments)

    def received(self) -> dict[str, tuple[int, npt.NDArray[Any]]]:
        """First time and samples of each channel, which must follow one another without a break."""
        channels: dict[str, list[Segment]] = {}
        for packet in self.packets:
            for segment in packet.segments:
                run = channels.setdefault(segment.channel_id.seed_id, [])
                assert not run or abs(run[-1].next_ns - segment.starttime_ns) < 1000, (run[-1], segment)
                run.append(segment)
        return {k: (v[0].starttime_ns, np.concatenate([s.samples for s in v])) for k, v in channels.items()}

    def assert_received(self, *expected: Segment) -> None:
        received = self.received()
        assert received.keys() == {segment.channel_id.seed_id for segment in expected}
        for segment in expected:
            start_ns, samples = received[segment.channel_id.seed_id]
            assert start_ns == segment.starttime_ns
            assert np.array_equal(samples, segment.samples)

    async def _put(self, packet: Packet) -> None:
        self.packets.append(packet)
        self._changed.set()

    def _note(self, event: SourceEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._changed.set()
        await asyncio.sleep(0)


class ScriptedServer:
    """Answers each line by a script; for what no other server would do.

    Args:
        script: Given a connection's number and a line, returns what to send; None: close the connection.
    """

    def __init__(self, script: Callable[[int, str], bytes | None]) -> None:
        self._script = script
        self.lines: list[str] = []
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "ScriptedServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            while line := await reader.readline():
                text = line.decode().strip()
                self.lines.append(text)
                answer = self._script(number, text)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
