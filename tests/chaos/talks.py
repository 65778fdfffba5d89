"""Who talks with others over a connection, told any bytes by the other side: a SeedLink client and server, the page."""

import asyncio
import contextlib
import tempfile
from functools import lru_cache
from pathlib import Path

from monitor.http_messages import BadRequestError, parse_head
from monitor.playback.protocol import ServerProtocol
from monitor.records import Packet
from monitor.settings import PageSettings, SeedLinkSettings
from monitor.sources.files import FileSource
from monitor.sources.problems import Problem
from monitor.sources.seedlink import SeedLinkSource
from monitor.sources.seedlink_events import Disconnected, SourceEvent
from tests.station_page import StationPage, quake

# A client that waits for an answer that never comes gives up then.
_PATIENCE_S = 0.5
_ANSWER_BYTES = 1 << 20
# A file of so many bytes can hold no more, at seven samples in four bytes.
_SAMPLES_A_BYTE = 2


class _EndedError(Exception):
    """The source has lost its connection, and waits for the next attempt."""


async def answering(data: bytes, *, after_bytes: int = 0) -> asyncio.Server:
    """A server that tells whoever connects these bytes and no more; where wanted, once it has heard something."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if after_bytes:
                await reader.read(after_bytes)
            writer.write(data)
            writer.write_eof()
            while await reader.read(4096):
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def listened(data: bytes) -> None:
    """Let a SeedLink client be told these bytes by its server, whatever it asks, and no more."""

    async def talk() -> None:
        async def sleep(_: float) -> None:
            raise _EndedError

        async def put(packet: Packet) -> None:
            assert packet.segments

        told: list[SourceEvent] = []
        async with await answering(data) as server:
            settings = SeedLinkSettings(
                host="127.0.0.1", port=server.sockets[0].getsockname()[1], stations=["*.*"], keepalive_s=1.0,
                connect_timeout_s=1.0, stall_timeout_s=2.0,
            )  # fmt: skip
            source = SeedLinkSource(settings, positions=list, on_event=told.append, sleep=sleep)
            with contextlib.suppress(_EndedError, TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await source.run(put)
                raise AssertionError("the source has ended")
        for event in told:
            if isinstance(event, Disconnected):
                assert event.detail, event

    asyncio.run(talk())


def served(data: bytes) -> None:
    """Let the server that plays be told these bytes by a client."""
    protocol = ServerProtocol()
    for first in range(0, len(data), 500):
        protocol.receive(data[first : first + 500])


def read_files(data: bytes) -> None:
    """Read a file of these bytes, as replay does."""
    path = Path(_folder()) / "file.mseed"
    path.write_bytes(data)
    problems: list[Problem] = []
    source = FileSource([str(path)], on_problem=problems.append)
    source.scan()
    samples = sum(segment.npts for segment in source)
    assert samples <= _SAMPLES_A_BYTE * len(data)
    assert samples or problems or not data, "nothing is said of a file without samples"


@lru_cache(maxsize=1)
def _folder() -> str:
    return tempfile.mkdtemp(prefix="chaos-fuzz-")


def requested(data: bytes) -> None:
    """Send these bytes to the page, and read its answer."""
    with contextlib.suppress(BadRequestError):
        parse_head(data)
    loop, page, running = _page()

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(*page.page.addresses[0])
        answer = b""
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            writer.write_eof()
            # What streams goes on until the client goes.
            async with asyncio.timeout(5.0):
                while len(answer) < _ANSWER_BYTES and b"text/event-stream" not in answer:
                    piece = await reader.read(65536)
                    if not piece:
                        break
                    answer += piece
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return answer

    answer = loop.run_until_complete(ask())
    if running.done():
        running.result()
    assert not data or answer.startswith(b"HTTP/1.1 ") or not answer, answer[:100]
    assert b"Traceback" not in answer


@lru_cache(maxsize=1)
def _page() -> tuple[asyncio.AbstractEventLoop, StationPage, "asyncio.Task[None]"]:
    """A page that runs while somebody asks it."""
    loop = asyncio.new_event_loop()
    station = StationPage(quake(), Path(_folder()), PageSettings(port=0))
    station.player.play(90.0)

    async def begin() -> "asyncio.Task[None]":
        station.open()
        running = asyncio.create_task(station.page.run())
        while not station.page.addresses:  # noqa: ASYNC110, said by nobody
            await asyncio.sleep(0.01)
        return running

    return loop, station, loop.run_until_complete(begin())


PATHS = (
    *("/", "/static/app.js", "/api/live", "/api/live?station=XX.ABC..HH", "/api/history?station=XX.ABC..HH"),
    *("/api/drum?station=XX.ABC..HH", "/api/events?before=1", "/api/event?id=XX.ABC-20240506T070909.5-01234567"),
    *("/api/detection?id=XX.ABC-20240506T070909.5-01234567", "/archive/XX.ABC-20240506T070909.5-01234567/event.png"),
)


def requests() -> list[bytes]:
    """What browsers ask."""
    return [
        f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nAuthorization: Basic YTpi\r\n\r\n".encode()
        for path in PATHS
    ]
