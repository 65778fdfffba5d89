"""The HTTP listener: what clients get, what careless and hostile ones get, and what they cannot do."""

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitor.http import MAX_HEAD_BYTES, Health, HttpServer, Routes, health_handler, metrics_handler
from monitor.http_messages import BadRequestError, Request, Response, parse_head

HELLO = b"hello\n"


async def hello(_: Request) -> Response:
    return Response(body=HELLO)


async def echo(request: Request) -> Response:
    return Response(body=json.dumps([request.path, request.query]).encode(), headers={"Cache-Control": "no-store"})


def some_routes() -> Routes:
    routes = Routes()
    routes.add("/hello", hello)
    routes.add("/static/*", echo)
    return routes


@contextlib.asynccontextmanager
async def serving(
    routes: Routes, *, max_connections: int = 64, head_timeout_s: float = 10.0, write_timeout_s: float = 30.0
) -> AsyncIterator[int]:
    """A running server's port; what ended it is raised here."""
    server = HttpServer(
        routes,
        host="127.0.0.1",
        port=0,
        max_connections=max_connections,
        head_timeout_s=head_timeout_s,
        write_timeout_s=write_timeout_s,
    )
    await server.bind()
    running = asyncio.create_task(server.run())
    try:
        yield server.addresses[0][1]
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def talk(port: int, sent: bytes, *, finish: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        if finish:
            writer.write_eof()
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def exchange(*sent: bytes, finish: bool = False, head_timeout_s: float = 10.0) -> list[bytes]:
    """What a fresh server answers to each of these, on connections of their own."""

    async def scenario() -> list[bytes]:
        async with serving(some_routes(), head_timeout_s=head_timeout_s) as port:
            return [await talk(port, one, finish=finish) for one in sent]

    return asyncio.run(scenario())


def get(target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: here", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 ")
    return int(answer[9:12])


def test_get() -> None:
    (answer,) = exchange(get("/hello"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain; charset=utf-8",
        b"Connection: close",
        b"X-Content-Type-Options: nosniff",
        b"Content-Length: 6",
    ]
    assert body == HELLO


def test_head_says_what_get_would() -> None:
    got, headed = exchange(get("/hello"), get("/hello", method="HEAD"))
    assert headed == got.partition(b"hello")[0]


def test_paths_are_decoded_and_prefixes_found() -> None:
    answers = exchange(
        get("/static/a%20b/%C3%A9?x=%20&y"), get("http://proxied:80/static/x"), get("/static/", version="1.0")
    )
    bodies = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers]
    assert bodies == [["/static/a b/é", "x=%20&y"], ["/static/x", ""], ["/static/", ""]]
    assert b"\r\nCache-Control: no-store\r\n" in answers[0]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (get("/nothing"), 404),
        (get("/hello/more"), 404),
        (get("/static"), 404),
        (get("/nothing", method="POST"), 404),
        (get("/hello", method="POST"), 405),
        (get("/hello", method="OPTIONS"), 405),
        (get("*", method="OPTIONS"), 400),
        (get("/hello", "Content-Length: 5") + b"abcde", 400),
        (get("/hello", "Transfer-Encoding: chunked"), 400),
        (get("/hello", "Content-Length: 0"), 200),
        (get("/hello", "Content-Length: 0", "Content-Length: 5"), 400),
        (get("/static/../hello"), 400),
        (get("/static/%2e%2e/hello"), 400),
        (get("/static/%00"), 400),
        (get("/static/%FF"), 400),
        (get("/static/..%5chello"), 400),
        (get("hello"), 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.0\r\n\r\n", 200),
        (b"GET /hello\r\n\r\n", 400),
        (b"GET  /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (get("/hello", "no colon"), 400),
        (get("/hello", " folded: line"), 400),
        (get("/hello", "name : value"), 400),
        (get("/hello", "X: a\nb"), 400),
        (get("/hello", "X: a\rb"), 400),
        (get("/hello", "X: " + "é" * 9), 200),
        (get("/hello", "X: " + "a" * MAX_HEAD_BYTES), 431),
        (get("/" + "a" * MAX_HEAD_BYTES), 431),
        (get("/hello", *["a: b"] * 4000), 431),
        (b"a" * 1_000_000, 431),
    ],
)
def test_what_clients_get_wrong(sent: bytes, expected: int) -> None:
    (answer,) = exchange(sent)
    assert status(answer) == expected
    assert b"Traceback" not in answer
    if expected == HTTPStatus.METHOD_NOT_ALLOWED:
        assert b"\r\nAllow: GET, HEAD\r\n" in answer


def test_a_request_that_ends_too_early() -> None:
    early, nothing = exchange(b"GET /hel", b"", finish=True)
    assert status(early) == 400
    assert nothing == b""


def test_a_request_that_does_not_come_to_its_end() -> None:
    slow, silent = exchange(b"GET /hello HTTP/1.1\r\nHost:", b"", head_timeout_s=0.05)
    assert status(slow) == 408
    assert status(silent) == 408


def test_byte_by_byte_is_the_same() -> None:
    async def scenario() -> bytes:
        async with serving(some_routes()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in get("/hello"):
                writer.write(bytes([byte]))
                await writer.drain()
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(scenario()) == exchange(get("/hello"))[0]


def test_a_large_answer_arrives_whole() -> None:
    body = bytes(range(256)) * 20_000

    async def large(_: Request) -> Response:
        return Response(body=body)

    async def scenario() -> bytes:
        routes = Routes()
        routes.add("/", large)
        async with serving(routes) as port:
            return await talk(port, get("/"))

    assert asyncio.run(scenario()).partition(b"\r\n\r\n")[2] == body


# Streams ----------------------------------------------------------------------------------------


def streaming(pieces: Callable[[], AsyncGenerator[bytes, None]], then: Callable[[int], Awaitable[bytes]]) -> bytes:
    async def stream(_: Request) -> Response:
        return Response(200, "text/event-stream", pieces())

    async def scenario() -> bytes:
        routes = Routes()
        routes.add("/events", stream)
        async with serving(routes) as port:
            return await then(port)

    return asyncio.run(scenario())


def test_a_stream_that_ends() -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        await asyncio.sleep(0)
        yield b"data: 2\n\n"

    head, _, body = streaming(pieces, lambda port: talk(port, get("/events"))).partition(b"\r\n\r\n")
    assert body == b"data: 1\n\ndata: 2\n\n"
    assert b"Content-Length" not in head
    assert b"Content-Type: text/event-stream" in head
    head, _, body = streaming(pieces, lambda port: talk(port, get("/events", method="HEAD"))).partition(b"\r\n\r\n")
    assert body == b""


def test_a_stream_is_closed_when_its_reader_goes() -> None:
    async def scenario() -> None:
        closed = asyncio.Event()

        async def pieces() -> AsyncGenerator[bytes, None]:
            try:
                yield b"data: 1\n\n"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def stream(_: Request) -> Response:
            return Response(200, "text/event-stream", pieces())

        routes = Routes()
        routes.add("/events", stream)
        async with serving(routes) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get("/events"))
            await reader.readuntil(b"data: 1\n\n")
            assert not closed.is_set()
            writer.close()
            await asyncio.wait_for(closed.wait(), 10)

    asyncio.run(scenario())


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def scenario() -> None:
        closed = asyncio.Event()

        async def pieces() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    yield b"x" * 100_000
            finally:
                closed.set()

        async def stream(_: Request) -> Response:
            return Response(body=pieces())

        routes = Routes()
        routes.add("/", stream)
        async with serving(routes, write_timeout_s=0.05) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(get("/"))
            await asyncio.wait_for(closed.wait(), 10)
            writer.close()

    asyncio.run(scenario())


def test_ending_the_server_ends_its_streams() -> None:
    async def scenario() -> bytes:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"first"
            await asyncio.Event().wait()

        async def stream(_: Request) -> Response:
            return Response(body=pieces())

        routes = Routes()
        routes.add("/events", stream)
        async with serving(routes) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get("/events"))
            await reader.readuntil(b"first")
        rest = b""
        with contextlib.suppress(ConnectionError):
            rest = await reader.read()
        writer.close()
        return rest

    assert asyncio.run(scenario()) == b""


# Limits and faults of our own -------------------------------------------------------------------


def test_too_many_connections() -> None:
    async def scenario() -> tuple[list[bytes], bytes, bytes]:
        entered, leave = asyncio.Semaphore(0), asyncio.Event()

        async def wait(_: Request) -> Response:
            entered.release()
            await leave.wait()
            return Response(body=HELLO)

        routes = Routes()
        routes.add("/", wait)
        async with serving(routes, max_connections=2) as port:
            held = [asyncio.create_task(talk(port, get("/"))) for _ in range(2)]
            for _ in held:
                await entered.acquire()
            refused = await talk(port, get("/"))
            leave.set()
            answers = await asyncio.gather(*held)
            return answers, refused, await talk(port, get("/"))

    answers, refused, later = asyncio.run(scenario())
    assert [status(answer) for answer in answers] == [200, 200]
    assert status(refused) == 503
    assert status(later) == 200


def test_a_crowd_is_cut_off() -> None:
    async def scenario() -> list[bytes]:
        async with serving(some_routes(), max_connections=2) as port:
            crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
            answers = []
            for reader, writer in crowd[2:]:
                with contextlib.suppress(ConnectionError):
                    answers.append(await reader.read())
                writer.close()
            for _, writer in crowd[:2]:
                writer.close()
            return answers

    answers = asyncio.run(scenario())
    assert all(answer == b"" or status(answer) == 503 for answer in answers)
    assert len([answer for answer in answers if answer]) < 10


def test_a_fault_of_a_handler_ends_the_server() -> None:
    async def broken(_: Request) -> Response:
        raise ZeroDivisionError

    async def scenario() -> None:
        routes = Routes()
        routes.add("/", broken)
        async with serving(routes) as port:
            with contextlib.suppress(ConnectionError):
                await talk(port, get("/"))

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(ZeroDivisionError)


def test_a_port_that_is_taken() -> None:
    async def scenario() -> None:
        async with serving(some_routes()) as port:
            with pytest.raises(OSError, match="use"):
                await HttpServer(some_routes(), host="127.0.0.1", port=port).bind()

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["hello", "", "/a*b", "/hello", "/static/*"])
def test_routes_that_cannot_be(path: str) -> None:
    with pytest.raises(ValueError, match="accepted: '/name' or '/name/\\*', each once"):
        some_routes().add(path, hello)


def test_the_longest_prefix_wins() -> None:
    routes = Routes()
    routes.add("/*", hello)
    routes.add("/static/*", echo)
    assert routes.find("/static/a") is echo
    assert routes.find("/other") is hello
    assert routes.find("/") is hello


# Health and metrics -----------------------------------------------------------------------------


def test_health_and_readiness() -> None:
    checks = {"data": Health(True, "12 packets in the last 10 s"), "broker": Health(True, "connected")}

    async def scenario() -> tuple[bytes, bytes]:
        routes = Routes()
        routes.add("/readyz", health_handler(lambda: checks))
        async with serving(routes) as port:
            well = await talk(port, get("/readyz"))
            checks["broker"] = Health(False, "refused: bad password")
            return well, await talk(port, get("/readyz"))

    well, ill = asyncio.run(scenario())
    assert (status(well), status(ill)) == (200, 503)
    assert json.loads(ill.partition(b"\r\n\r\n")[2]) == {
        "ok": False,
        "checks": {
            "data": {"ok": True, "reason": "12 packets in the last 10 s"},
            "broker": {"ok": False, "reason": "refused: bad password"},
        },
    }


def test_metrics_in_the_format_that_the_client_accepts() -> None:
    async def scenario() -> bytes:
        routes = Routes()
        routes.add("/metrics", metrics_handler(lambda accept: (f"text/x; for={accept}", b"a 1\n")))
        async with serving(routes) as port:
            return await talk(port, get("/metrics", "Accept: one", "Accept: two"))

    answer = asyncio.run(scenario())
    assert b"Content-Type: text/x; for=one, two\r\n" in answer
    assert answer.endswith(b"\r\n\r\na 1\n")


def test_the_standard_librarys_client_understands() -> None:
    def fetch(port: int) -> tuple[int, bytes]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=60) as answer:
            return answer.status, answer.read()

    async def scenario() -> tuple[int, bytes]:
        async with serving(some_routes()) as port:
            return await asyncio.to_thread(fetch, port)

    assert asyncio.run(scenario()) == (200, HELLO)


# Whatever comes ---------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        b"GET",
        b" ",
        b"/hello",
        b"/static/%",
        b"HTTP/1.1",
        b"HTTP/1.",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"Host: a",
        b":",
        b"\0",
    ]
)
NOISE = st.one_of(st.binary(max_size=300), st.lists(PARTS | st.binary(max_size=3), max_size=30).map(b"".join))


@settings(max_examples=200)
@given(NOISE)
@example(b"GET http:// HTTP/1.1\r\nhost:\r\n\r\n")
@example(b"GET /%e4 HTTP/1.0\r\n\r\n")
def test_a_head_is_parsed_or_refused(noise: bytes) -> None:
    with contextlib.suppress(BadRequestError):
        request = parse_head(noise.replace(b"\r\n\r\n", b"\r\n") + b"\r\n\r\n")
        assert request.path.startswith("/")
        assert not {".", ".."} & set(request.path.split("/"))
        assert not {"\0", "\r", "\n"} & set(request.path + request.query + "".join(request.headers.values()))


@settings(max_examples=12)
@given(st.lists(NOISE, max_size=12))
def test_whatever_comes_it_answers_the_next(several: list[bytes]) -> None:
    *answers, last = exchange(*several, b"", get("/hello"), finish=True)
    assert all(answer == b"" or status(answer) in {200, 400, 404, 405, 431, 505} for answer in answers)
    assert last.endswith(HELLO)


def test_a_client_of_the_last_moment_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is cancelled before its first step does nothing, not even what its `finally` says."""
    create_task = asyncio.TaskGroup.create_task

    def cancelled_at_once(group: asyncio.TaskGroup, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = create_task(group, *args, **kwargs)
        task.cancel()
        return task

    monkeypatch.setattr(asyncio.TaskGroup, "create_task", cancelled_at_once)

    async def main() -> None:
        async with serving(some_routes()) as port:
            for _ in range(3):
                with contextlib.suppress(ConnectionError):
                    async with asyncio.timeout(10):
                        assert await talk(port, b"GET /hello HTTP/1.1\r\n\r\n") == b""

    asyncio.run(main())
