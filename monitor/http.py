"""A small HTTP/1.1 listener: metrics, health, and what else is put into its routing table.

    bytes -> parse_head -> Request -> Routes -> handler -> Response -> bytes

One request per connection: Prometheus, probes and browsers are content with that, and nothing is left to be confused by
a body that was not read. GET and HEAD only. A fault of the client gets a 4xx; one of a handler is ours and propagates.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import NamedTuple

from monitor.http_messages import JSON, BadRequestError, Request, Response, parse_head, plain, response_head

# Line by line of a request with cookies of other services on the same host; more is not for us.
MAX_HEAD_BYTES = 16 * 1024
# A scrape, a probe, some open pages with their streams; one more is told to come later, twice as many are cut off.
MAX_CONNECTIONS = 64
# For the whole head, and for the client to take each piece of the answer.
HEAD_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 30.0
# How long and how much of what the client still sends is thrown away, so that it gets to read the answer.
_LINGER_S = 1.0
_LINGER_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024


class _ClientGoneError(Exception):
    """The client has gone, or does not take its answer."""


Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """Which handler answers for which path: an exact one first, else the longest prefix."""

    def __init__(self) -> None:
        self._exact: dict[str, Handler] = {}
        self._prefixes: dict[str, Handler] = {}

    def add(self, path: str, handler: Handler) -> None:
        """Answer for `path`, or for all below it where it ends in `/*`.

        Raises:
            ValueError: The path does not begin with `/`, or has its handler already.
        """
        prefix = path.endswith("/*")
        table, key = (self._prefixes, path[:-1]) if prefix else (self._exact, path)
        if not path.startswith("/") or "*" in key or key in table:
            raise ValueError(f"route {path!r}; accepted: '/name' or '/name/*', each once")
        table[key] = handler

    def find(self, path: str) -> Handler | None:
        """The handler for a path; None where there is none."""
        if path in self._exact:
            return self._exact[path]
        prefixes = [prefix for prefix in self._prefixes if path.startswith(prefix)]
        return self._prefixes[max(prefixes, key=len)] if prefixes else None


class Health(NamedTuple):
    """One thing that has to be well.

    Attributes:
        ok: Is it?
        reason: Why, in words, either way.
    """

    ok: bool
    reason: str


def health_handler(checks: Callable[[], Mapping[str, Health]]) -> Handler:
    """Answer 200 while all is well and 503 otherwise, in JSON, with the reason of each check.

    Args:
        checks: Looks at each thing now.
    """

    async def answer(_: Request) -> Response:
        found = checks()
        ok = all(health.ok for health in found.values())
        body = {"ok": ok, "checks": {name: health._asdict() for name, health in found.items()}}
        text = json.dumps(body, indent=1) + "\n"
        return Response(200 if ok else 503, JSON, text.encode(), {"Cache-Control": "no-store"})

    return answer


def metrics_handler(exposition: Callable[[str], tuple[str, bytes]]) -> Handler:
    """Answer a scrape.

    Args:
        exposition: What the client accepts -> content type and text; called in another thread.
    """

    async def answer(request: Request) -> Response:
        # In a thread: to write down the series of hundreds of channels takes longer than a packet may wait.
        content_type, text = await asyncio.to_thread(exposition, request.headers.get("accept", ""))
        return Response(200, content_type, text)

    return answer


async def respond(routes: Routes, request: Request) -> Response:
    """Find out what to answer to a request."""
    handler = routes.find(request.path)
    if handler is None:
        return plain(HTTPStatus.NOT_FOUND, "nothing here")
    if request.method not in {"GET", "HEAD"}:
        refusal = plain(HTTPStatus.METHOD_NOT_ALLOWED, "accepted: GET and HEAD")
        return Response(refusal.status, refusal.content_type, refusal.body, {"Allow": "GET, HEAD"})
    return await handler(request)


class HttpServer:
    """Listens and answers.

    Args:
        routes: Who answers for what; may be added to while it runs.
        host: Address to listen on.
        port: 0 for any free one.
        max_connections: So many at a time; the next gets 503.
        head_timeout_s: For a client to say what it wants.
        write_timeout_s: For a client to take a piece of the answer.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        host: str,
        port: int,
        max_connections: int = MAX_CONNECTIONS,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self._routes, self._host, self._port = routes, host, port
        self._max_connections = max_connections
        self._head_timeout_s, self._write_timeout_s = head_timeout_s, write_timeout_s
        self._open = 0
        self._listeners: list[socket.socket] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens; empty before `bind`."""
        return [listener.getsockname()[:2] for listener in self._listeners]

    async def bind(self) -> None:
        """Take the port; connections wait until `run`.

        Raises:
            OSError: The address is not this computer's, or the port is taken.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # With port 0 the second address would get another port than the first.
        with contextlib.ExitStack() as opened:
            listeners = [
                opened.enter_context(socket.create_server(address, family=family, backlog=self._max_connections))
                for family, _, _, _, address in dict.fromkeys(found if self._port else found[:1])
            ]
            opened.pop_all()
        self._listeners = listeners

    async def run(self) -> None:
        """Answer until cancelled; what a handler raises propagates from here."""
        async with asyncio.TaskGroup() as connections, contextlib.AsyncExitStack() as stack:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                answering = self._serve(reader, writer)
                try:
                    if self._open >= 2 * self._max_connections:
                        raise RuntimeError
                    task = connections.create_task(answering, name="http-connection")
                except RuntimeError:  # too many, or the group is about to end
                    answering.close()
                    writer.transport.abort()
                    return
                self._open += 1
                # Not within the task: one that is cancelled before its first step would leave the connection open.
                task.add_done_callback(lambda _: self._close(writer))

            for listener in self._listeners:
                server = await asyncio.start_server(accept, sock=listener, limit=MAX_HEAD_BYTES)
                stack.callback(server.close)
            await asyncio.Event().wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=_PIECE_BYTES)
        with contextlib.suppress(_ClientGoneError):
            await self._answer(reader, writer)
            await _linger(reader, writer)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._open -= 1
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = Request("GET", "/")
        try:
            if self._open > self._max_connections:
                raise BadRequestError(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
            head = await _read_head(reader, self._head_timeout_s)
            if head is None:
                return
            peer = writer.get_extra_info("peername")
            request = replace(parse_head(head), peer=peer[0] if peer else "")
        except BadRequestError as error:
            response = plain(error.status, str(error))
        else:
            response = await respond(self._routes, request)
        await self._write(writer, [response_head(response)])
        body = response.body
        if isinstance(body, bytes):
            if request.method != "HEAD":
                await self._write(writer, (body[at : at + _PIECE_BYTES] for at in range(0, len(body), _PIECE_BYTES)))
            return
        async with contextlib.aclosing(body) as pieces:
            if request.method != "HEAD":
                await self._stream(pieces, reader, writer)

    async def _stream(
        self, pieces: AsyncGenerator[bytes, None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send pieces until there are no more or the client goes: a stream may have nothing to send for hours."""

        async def send() -> None:
            async for piece in pieces:
                await self._write(writer, [piece])

        sending = asyncio.ensure_future(send())
        gone = asyncio.ensure_future(_read_to_the_end(reader))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _write(self, writer: asyncio.StreamWriter, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            writer.write(piece)
            try:
                async with asyncio.timeout(self._write_timeout_s):
                    await writer.drain()
            except OSError as error:  # TimeoutError is one
                raise _ClientGoneError from error


async def _read_head(reader: asyncio.StreamReader, timeout_s: float) -> bytes | None:
    """Read to the empty line; None where the client went without a word."""
    try:
        async with asyncio.timeout(timeout_s):
            return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        text = f"the request's head is longer than {MAX_HEAD_BYTES} bytes"
        raise BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text) from error
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "the request ends too early") from error
    except TimeoutError as error:
        raise BadRequestError(HTTPStatus.REQUEST_TIMEOUT, f"no request within {timeout_s:g} s") from error
    except OSError as error:
        raise _ClientGoneError from error


async def _read_to_the_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(_PIECE_BYTES):
        pass


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the client read its answer: closing with unread data would reset the connection under it."""
    left = _LINGER_BYTES
    with contextlib.suppress(OSError):  # TimeoutError is one
        writer.write_eof()
        async with asyncio.timeout(_LINGER_S):
            while left > 0 and (piece := await reader.read(left)):
                left -= len(piece)
