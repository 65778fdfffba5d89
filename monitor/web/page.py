"""The station page: what browsers ask for, and what they are told as it happens.

    pipelines -> Hub (engine's thread) -> news, twice a second -> encoded once -> Viewers -> Server-Sent Events

Nothing can be changed over it. While nobody looks, it costs what the hub remembers.
"""

import asyncio
import gzip
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

import msgspec

from monitor.archive.layout import EVENTS
from monitor.clock import Clock
from monitor.http import Handler, HttpServer, Routes
from monitor.http_messages import JSON, Request, Response, plain
from monitor.metrics import Metrics
from monitor.records import Detection
from monitor.secrets import SecretError
from monitor.settings import PageSettings
from monitor.timebase import NS_PER_SECOND
from monitor.web.access import Access
from monitor.web.drumfile import read_drums, write_drums
from monitor.web.events import MOST_EVENTS, Event
from monitor.web.feed import DRUM_BIN_S
from monitor.web.files import ARCHIVE_FILES, EventArchive, read_pieces, static_files
from monitor.web.health import HealthSource
from monitor.web.hub import Hub
from monitor.web.viewers import OVERVIEW, Viewers, encode

# Scrolling is smooth by itself: this is how old what it shows may be.
TICK_S = 0.5
_HEALTH_S = 2.0
# A port that is taken, or a password that cannot be read, is no reason not to detect.
_AGAIN_S = 60.0
# Between two writes of the drum plots, of some hundred kilobytes: memory cards wear.
_KEEP_S = 900.0
# What many viewers ask for at the same time is made once, and not again within this time; who asks then waits for it.
_SHARED_S = 0.25
_COMPRESS_BYTES = 1024
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

log = logging.getLogger("monitor")
T = TypeVar("T")


class Ask(Protocol):
    """Runs something in the engine's thread."""

    async def __call__(self, what: Callable[[], T], /) -> T:
        """Give what `what` returns."""


class Page:
    """Serves the page.

    Args:
        settings: Of the page; a port is set.
        hub: What it knows.
        ask: Runs something in the engine's thread, where the hub may be looked at.
        names: Names of the instruments that are followed; called there too.
        health: How the service is.
        directory: For the state; what is archived of detections is looked for there too.
        metrics: Told of viewers.
        clock: This computer's.
        tick_s: Between two looks at what is new.
    """

    def __init__(
        self,
        settings: PageSettings,
        *,
        hub: Hub,
        ask: Ask,
        names: Callable[[], Iterable[str]],
        health: HealthSource,
        directory: Path,
        metrics: Metrics,
        clock: Clock,
        tick_s: float = TICK_S,
    ) -> None:
        self._settings, self._hub, self._ask, self._names = settings, hub, ask, names
        self._health, self._metrics, self._clock = health, metrics, clock
        self._directory, self._archive = directory, EventArchive(directory / EVENTS)
        self._tick_s = tick_s
        self.viewers = Viewers(settings.max_viewers)
        self._server: HttpServer | None = None
        self._access: Access | None = None
        # Answers that are yet to be made, and when those of late were, in the event loop's time.
        self._due: dict[tuple[str, str], asyncio.Task[bytes | None]] = {}
        self._made_s: dict[tuple[str, str], float] = {}
        self._last_health_s = -_HEALTH_S
        self._last_reports: object = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens; empty while it does not."""
        return [] if self._server is None else self._server.addresses

    async def run(self) -> None:
        """Serve until cancelled."""
        drums = await asyncio.to_thread(read_drums, self._directory, bin_s=DRUM_BIN_S)
        await self._ask(lambda: self._hub.restore(drums))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recall(), name="page-recall")
            group.create_task(self._keep_drums(), name="page-keep")
            group.create_task(self._publish_forever(), name="page-publish")
            while True:
                server = await self._listen()
                if server is not None:
                    await server.run()
                await asyncio.sleep(_AGAIN_S)

    async def _listen(self) -> HttpServer | None:
        settings = self._settings
        where = f"{settings.listen}:{settings.port}"
        assert settings.port is not None
        server = HttpServer(
            self._routes(),
            host=settings.listen,
            port=settings.port,
            # A browser has six connections at most, one of which stays.
            max_connections=6 * settings.max_viewers,
        )
        try:
            self._access = Access(settings)
            await server.bind()
        except SecretError as error:
            log.error("[page] password_file: %s; tried again in %.0f s", error, _AGAIN_S)
            return None
        except OSError as error:
            reason = error.strerror or str(error)
            log.error("[page] cannot listen on %s: %s; tried again in %.0f s", where, reason, _AGAIN_S)
            return None
        self._server = server
        for host, port in server.addresses:
            log.info("station page on http://%s:%d/", host if ":" not in host else f"[{host}]", port)
        return server

    async def _recall(self) -> None:
        """Let the list begin with what was found before this start; one by one, for there may be better to do."""
        found = await asyncio.to_thread(self._archive.newest, MOST_EVENTS)
        drawn = [(detection, await asyncio.to_thread(self._archive.thumb, detection)) for detection in found]
        await self._ask(lambda: self._hub.events.remember(drawn))

    async def _keep_drums(self) -> None:
        try:
            while True:
                await asyncio.sleep(_KEEP_S)
                await self.keep()
        finally:
            await self.keep()

    async def keep(self) -> None:
        """Write down the drum plots for a later process."""
        drums = await self._ask(self._hub.saved)
        await asyncio.to_thread(write_drums, self._directory, drums, bin_s=DRUM_BIN_S)

    # -- what is told --------------------------------------------------------------------------------------------------

    async def _publish_forever(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            if len(self.viewers) or self._hub.has_work:
                await self.publish()
            self._metrics.page(viewers=len(self.viewers), dropped=self.viewers.dropped)

    async def publish(self) -> None:
        """Tell the viewers what is new."""
        watched = self.viewers.watched

        def look() -> Any:
            self._hub.keep_only(self._names())
            return self._hub.news(watched=watched - {OVERVIEW}, overview=OVERVIEW in watched)

        news = await self._ask(look)
        now_s = self._clock.now_ns() / NS_PER_SECOND
        if news.stations is not None:
            self.viewers.send([encode("stations", news.stations)])
        for name, feed in news.feeds.items():
            self.viewers.send([encode("data", {"instrument": name, "now": now_s, **feed})], to=name)
        if news.sparks is not None:
            lines = {"now": now_s, "lines": news.sparks, "hidden": len(self._hub.hidden)}
            self.viewers.send([encode("sparks", lines)], to=OVERVIEW)
        self.viewers.send(encode("detection", event.summary()) for event in news.events)
        self.viewers.send(self._health_messages(now_s))

    def archived(self, identifier: str) -> None:
        """Tell the viewers that there is more of a detection in the archive than there was."""
        self.viewers.send([encode("archived", identifier)])

    def _health_messages(self, now_s: float) -> list[bytes]:
        if 0 <= now_s - self._last_health_s < _HEALTH_S or not len(self.viewers):
            return []
        self._last_health_s = now_s
        messages = [encode("health", {"now": now_s, **msgspec.to_builtins(self._health.look())})]
        if self._health.reports is not self._last_reports:
            self._last_reports = self._health.reports
            messages.append(encode("quality", self._health.reports))
        return messages

    async def _follow(self, watches: str) -> AsyncGenerator[bytes, None]:
        viewer = self.viewers.open(watches)
        try:
            stations, sparks, recent = await self._ask(
                lambda: (self._hub.stations(), self._hub.sparks(), self._hub.recent(watches))
            )
            now_s = self._clock.now_ns() / NS_PER_SECOND
            viewer.offer(encode("stations", stations))
            if recent is not None:
                viewer.offer(encode("data", {"instrument": watches, "now": now_s, **recent}))
            if watches == OVERVIEW:
                viewer.offer(encode("sparks", {"now": now_s, "lines": sparks, "hidden": len(self._hub.hidden)}))
            viewer.offer(encode("health", {"now": now_s, **msgspec.to_builtins(self._health.look())}))
            viewer.offer(encode("quality", self._health.reports))
            async for message in viewer.messages():
                yield message
        finally:
            self.viewers.close(viewer)

    # -- what is asked -------------------------------------------------------------------------------------------------

    def _routes(self) -> Routes:
        routes = Routes()
        for path, handler in {
            "/": self._index,
            "/static/*": self._static,
            "/api/live": self._live,
            "/api/history": self._history,
            "/api/drum": self._drum,
            "/api/events": self._events,
            "/api/event": self._event,
            "/api/detection": self._detection,
            "/archive/*": self._archived,
        }.items():
            routes.add(path, self._guarded(handler))
        return routes

    def _guarded(self, handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            response = None if self._access is None else self._access.refusal(request)
            if response is not None:
                self._metrics.page_refused("login")
            else:
                response = await handler(request)
            headers = {"Cache-Control": "no-store", **SECURITY_HEADERS, **response.headers}
            return Response(response.status, response.content_type, response.body, headers)

        return answer

    async def _index(self, request: Request) -> Response:
        return _static_answer("index.html", request)

    async def _static(self, request: Request) -> Response:
        return _static_answer(request.path.removeprefix("/static/"), request)

    async def _live(self, request: Request) -> Response:
        if self.viewers.is_full:
            self._metrics.page_refused("full")
            answer = plain(HTTPStatus.SERVICE_UNAVAILABLE, "too many viewers; try again in a minute")
            return Response(answer.status, answer.content_type, answer.body, {"Retry-After": "60"})
        watches = _parameter(request, "watch") or OVERVIEW
        return Response(content_type="text/event-stream", body=self._follow(watches), headers=_STREAM_HEADERS)

    async def _history(self, request: Request) -> Response:
        name = _parameter(request, "instrument") or ""
        return await self._looked_up(request, "history", name, lambda: self._hub.history(name))

    async def _drum(self, request: Request) -> Response:
        name = _parameter(request, "instrument") or ""
        return await self._looked_up(request, "drum", name, lambda: self._hub.drum(name))

    async def _events(self, request: Request) -> Response:
        return await self._looked_up(request, "events", "", lambda: [event.summary() for event in self._hub.events])

    async def _event(self, request: Request) -> Response:
        identifier = _parameter(request, "id") or ""

        async def find() -> dict[str, object] | None:
            files, archived = await asyncio.to_thread(
                lambda: (self._archive.files(identifier), self._archive.detection(identifier))
            )

            def look() -> dict[str, object] | None:
                event = self._hub.events.get(identifier)
                if event is None and (archived is None or archived.id != identifier):
                    return None
                found = event or Event(archived)  # type: ignore[arg-type]
                return {**found.summary(), "picture": found.picture, "files": files}

            return await self._ask(look)

        return _json_answer(request, await self._once("event", identifier, find))

    async def _detection(self, request: Request) -> Response:
        identifier = _parameter(request, "id") or ""

        def look() -> Detection | None:
            event = self._hub.events.get(identifier)
            return None if event is None else event.detection

        answer = await self._looked_up(request, "detection", identifier, look)
        headers = {**answer.headers, "Content-Disposition": 'attachment; filename="detection.json"'}
        return Response(answer.status, answer.content_type, answer.body, headers)

    async def _archived(self, request: Request) -> Response:
        identifier, _, name = request.path.removeprefix("/archive/").rpartition("/")
        found = await asyncio.to_thread(self._archive.find, identifier, name)
        if found is None:
            return plain(HTTPStatus.NOT_FOUND, "nothing here")
        # The id and the name are of letters, digits and ._- by now.
        saved_as = f"{identifier}.{name.rpartition('.')[2]}" if name == "waveforms.mseed" else f"{identifier}-{name}"
        kind = "inline" if name.endswith(".png") else "attachment"
        headers = {"Content-Length": str(found.size), "Content-Disposition": f'{kind}; filename="{saved_as}"'}
        return Response(content_type=ARCHIVE_FILES[name], body=read_pieces(found), headers=headers)

    async def _looked_up(self, request: Request, kind: str, name: str, look: Callable[[], object]) -> Response:
        """Answer with what `look` finds in the engine's thread; 404 for None."""
        return _json_answer(request, await self._once(kind, name, lambda: self._ask(look)))

    async def _once(self, kind: str, name: str, find: Callable[[], Awaitable[object]]) -> bytes | None:
        """Compressed JSON of what `find` finds, None for nothing; made once for many.

        It is found after it was asked for: an answer from before would lack what the viewer's stream, which tells only
        what happens from its beginning on, does not tell either.
        """
        key = kind, name
        due = self._due.get(key)
        if due is None:
            due = self._due[key] = asyncio.ensure_future(self._made(key, find))
        return await asyncio.shield(due)

    async def _made(self, key: tuple[str, str], find: Callable[[], Awaitable[object]]) -> bytes | None:
        time = asyncio.get_running_loop().time
        await asyncio.sleep(self._made_s.get(key, -math.inf) + _SHARED_S - time())
        # Who asks from now on gets the next one.
        del self._due[key]
        now = time()
        self._made_s = {key: now} | {k: at for k, at in self._made_s.items() if k != key and now - at < _SHARED_S}
        found = await find()
        return None if found is None else await asyncio.to_thread(_compressed, found)


_STREAM_HEADERS = {"X-Accel-Buffering": "no"}


def _compressed(found: object) -> bytes:
    return gzip.compress(msgspec.json.encode(found), compresslevel=4, mtime=0)


def _accepts_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def _json_answer(request: Request, content: bytes | None) -> Response:
    if content is None:
        return plain(HTTPStatus.NOT_FOUND, "nothing here")
    if _accepts_gzip(request):
        return Response(content_type=JSON, body=content, headers={"Content-Encoding": "gzip"})
    return Response(content_type=JSON, body=gzip.decompress(content))


def _static_answer(name: str, request: Request) -> Response:
    file = static_files().get(name)
    if file is None:
        return plain(HTTPStatus.NOT_FOUND, "nothing here")
    # Asked about each time, sent once: an upgrade shows at the next visit.
    headers = {"Cache-Control": "no-cache", "ETag": file.etag, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(HTTPStatus.NOT_MODIFIED.value, file.content_type, b"", headers)
    if _accepts_gzip(request):
        return Response(
            content_type=file.content_type, body=file.zipped, headers={**headers, "Content-Encoding": "gzip"}
        )
    return Response(content_type=file.content_type, body=file.plain, headers=headers)


def _parameter(request: Request, name: str) -> str | None:
    try:
        found = parse_qs(request.query, max_num_fields=8, errors="strict").get(name)
    except ValueError:
        return None
    return found[0] if found else None
