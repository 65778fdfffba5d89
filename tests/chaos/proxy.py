"""A TCP proxy on this computer that does to a connection what networks do."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar

_READ_BYTES = 16 * 1024
T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """What happens to one connection.

    Attributes:
        name: For the report.
        latency_s: Each piece of data comes so much later, both ways.
        bytes_s: No more than this a second, each way.
        after_bytes: So many bytes pass, both ways together, before `then`; None: it never comes.
        then: close: as in order, both sides; reset: RST to both; half: the server's side says that it has no more to
            send and the client's way stays open; hole: nothing passes any more, and nobody is told.
        drops: The server's bytes are thrown away from then on, until the client gives up (as a broken NAT does).
    """

    name: str
    latency_s: float = 0.0
    bytes_s: float | None = None
    after_bytes: int | None = None
    then: Literal["close", "reset", "half", "hole", "drops"] = "close"


CLEAN = Trouble("none")


class Proxy:
    """Passes connections on to a port of this computer.

    Args:
        port: Where to.
        troubles: One for each connection, in order; those after are passed on as they are.

    Attributes:
        port: Where it listens.
        connections: How many were made.
    """

    def __init__(self, port: int, troubles: Sequence[Trouble] = ()) -> None:
        self.port = 0
        self.connections = 0
        self._target = port
        self._troubles = deque(troubles)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def troubles_left(self) -> int:
        """How many troubles no connection has met yet."""
        return len(self._troubles)

    async def __aenter__(self) -> "Proxy":
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        trouble = self._troubles.popleft() if self._troubles else CLEAN
        self._writers.add(writer)
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(target_writer)
        passed = _Passed(trouble)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                _pump(reader, target_writer, passed, upward=True), _pump(target_reader, writer, passed, upward=False)
            )
        for one in (writer, target_writer):
            if passed.is_over and trouble.then == "reset":
                _reset(one)
            one.transport.abort() if passed.is_over else one.close()
            self._writers.discard(one)


class _Passed:
    """What has passed on a connection, and whether its trouble has come."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.nbytes = 0
        self.over = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return self.over.is_set()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: _Passed, *, upward: bool) -> None:
    trouble = passed.trouble
    ending = asyncio.ensure_future(passed.over.wait())
    try:
        while True:
            reading = asyncio.ensure_future(reader.read(_READ_BYTES))
            await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                return
            data = reading.result()
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            if trouble.latency_s:
                await asyncio.sleep(trouble.latency_s)
            if trouble.bytes_s is not None:
                await asyncio.sleep(len(data) / trouble.bytes_s)
            room = None if trouble.after_bytes is None else max(0, trouble.after_bytes - passed.nbytes)
            passed.nbytes += len(data)
            if room is None or len(data) <= room:
                writer.write(data)
                await writer.drain()
                continue
            writer.write(data[:room])
            match trouble.then:
                case "close" | "reset":
                    await writer.drain()
                    passed.over.set()
                    return
                case "half" if not upward:
                    await writer.drain()
                    writer.write_eof()
                    await _swallow(reader)
                    return
                case "half":
                    # The client may go on; the server does not hear it.
                    await _swallow(reader)
                    return
                case "drops" if upward:
                    writer.write(data[room:])
                case _:
                    await _swallow(reader)
                    return
    finally:
        ending.cancel()


async def _swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(_READ_BYTES):
        pass


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def unanswering() -> Iterator[int]:
    """Give a port that drops each SYN: its queue of connections is full."""
    listener = socket.socket()
    fillers: list[socket.socket] = []
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
    finally:
        for one in [*fillers, listener]:
            one.close()


@contextlib.contextmanager
def in_thread(make: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Run an asynchronous context manager in a thread of its own."""
    ready, done = threading.Event(), threading.Event()
    made: list[T] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        async with make() as one:
            made.append(one)
            ready.set()
            await asyncio.to_thread(done.wait)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
            ready.set()
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ready.wait()
        if failed:
            raise failed[0]
        yield made[0]
    finally:
        done.set()
        thread.join()
