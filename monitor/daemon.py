"""The live service: one task for each concern, all in one TaskGroup.

    source (one for each server) -> queue -> process -> outbox -> publish -> broker
                                                 -> archive
                                       housekeeping: time, quality, state, watchdog
                                       http: metrics, health    page: what people see

What decides runs in one thread of its own, so that a burst of data keeps nobody from answering; calls into it follow
one another under a lock, because what is saved must never be ahead of what is told. An expected fault (network, broker,
disk) is waited out by the task that meets it; an unexpected one ends the process, and systemd starts it again.
"""

import asyncio
import contextlib
import logging
import platform
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import msgspec

from monitor.archive.archiver import Archiver
from monitor.broker import Broker
from monitor.clock import Clock
from monitor.engine import Engine
from monitor.http import Health, HttpServer, Routes, health_handler, metrics_handler
from monitor.logs import report_suppressed
from monitor.metrics import Metrics
from monitor.model import Model
from monitor.outlook import Outlook
from monitor.packetqueue import PacketQueue
from monitor.records import Detection, Packet
from monitor.sdnotify import Notifier, Watchdog
from monitor.settings import SeedLinkSettings, Settings
from monitor.sources.seedlink import Position, SeedLinkSource
from monitor.sources.seedlink_request import Selection
from monitor.state import SavedState, StateError, write_state
from monitor.stations import StationGroup
from monitor.tell import tell_detection
from monitor.timebase import NS_PER_SECOND
from monitor.web.health import HealthSource
from monitor.web.hub import Hub
from monitor.web.page import Page

# Packets judged in one go: some milliseconds each, so that the next live one never waits long.
_BATCH = 32
_HOUSEKEEPING_S = 1.0
# Quality and ring figures are looked at less often: they cost more.
_LOOK_S = 10.0
# A task that has not moved for so long hangs.
_TASK_LIMIT_S = 60.0
# After the request to stop, for what was received.
_DRAIN_S = 20.0
# For the archive to be as far as what is saved; at the end, and while there is still time for another attempt.
_ARCHIVE_LAST_S = 10.0
_ARCHIVE_S = 1.0
# An archive that hangs does not keep positions from being saved any longer.
_SAVE_LIMIT_NS = 60 * NS_PER_SECOND
# Without a known interval the watchdog is asked as often.
_WATCHDOG_NS = 30 * NS_PER_SECOND

log = logging.getLogger("monitor")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of.

    Attributes:
        settings: The settings.
        model: Loaded.
        clock: This computer's.
        directory: For the state and the outbox; exists.
        saved: What an earlier process left there.
        metrics: Fresh.
        notifier: To the service manager.
        reload: Reads the settings again; None where they are not valid, which it has told.
    """

    settings: Settings
    model: Model
    clock: Clock
    directory: Path
    saved: SavedState | None
    metrics: Metrics
    notifier: Notifier
    reload: Callable[[], Settings | None]


class Service:
    """Runs until it is told to stop.

    Args:
        parts: What it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._settings = parts, parts.settings
        self._clock, self._metrics, self._notifier = parts.clock, parts.metrics, parts.notifier
        live = parts.settings.live
        self._queue = PacketQueue(live.queue_bytes, lateness_s=live.lateness_s, now_ns=self._clock.now_ns)
        self._hub = None if parts.settings.page.port is None else Hub(parts.model)
        self._engine = Engine(
            parts.model,
            parts.settings,
            clock=self._clock,
            saved=parts.saved,
            on_instruments=self._on_instruments,
            observer=self._hub,
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._deciding = asyncio.Lock()
        self._new_groups: list[StationGroup] | None = None
        self._broker: Broker | None = None
        if parts.settings.mqtt.host is not None:
            self._broker = Broker(
                parts.settings,
                directory=parts.directory,
                model=parts.model.ref,
                clock=parts.clock,
                metrics=parts.metrics,
            )
        self._archive = Archiver(
            parts.settings,
            directory=parts.directory,
            clock=parts.clock,
            metrics=parts.metrics,
            on_kept=lambda name: self._page.archived(name) if self._page is not None else None,
        )
        self._outlook = Outlook(
            parts.metrics,
            clock=parts.clock,
            broker=self._broker,
            model=parts.model.ref,
            silent_s=parts.settings.quality.dead_after_s,
            settings=parts.settings.mqtt,
        )
        self._http: HttpServer | None = None
        self._page = None if self._hub is None else self._make_page(self._hub)
        self._sources: dict[str, tuple[SeedLinkSettings, asyncio.Task[None]]] = {}
        self._saved_positions = [] if parts.saved is None else parts.saved.positions
        self._last_saved_ns = self._last_look_ns = 0
        self._behind_since_ns: int | None = None
        self._stop, self._reload = asyncio.Event(), asyncio.Event()
        interval_ns = parts.notifier.watchdog_ns or _WATCHDOG_NS
        self._watchdog = Watchdog(interval_ns, now_ns=self._clock.monotonic_ns())

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def http_addresses(self) -> list[tuple[str, int]]:
        """Where metrics and health are served."""
        return [] if self._http is None else self._http.addresses

    def stop(self) -> None:
        """Ask it to stop, in order."""
        self._stop.set()

    async def run(self) -> None:
        """Run until stopped; everything that was received is judged and what can be said is said before it returns.

        Raises:
            OutboxBusyError: Another process uses the state directory.
            OSError: The port for metrics cannot be taken.
        """
        self._metrics.build(version=metadata.version("seismic-monitor"), python=platform.python_version())
        self._metrics.model(self._parts.model.ref)
        self._metrics.device(self._parts.model.device, self._parts.model.fallbacks)
        self._metrics.add_queue("packets")
        await self._open_http()
        if self._broker is not None:
            await self._broker.open()
        else:
            log.warning("no broker is set ([mqtt] host): detections are only logged")
        self._outlook.expect(Selection(server.stations) for server in self._settings.seedlink)
        self._outlook.follow(self._engine.groups)
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            for number, event in (
                (signal.SIGTERM, self._stop),
                (signal.SIGINT, self._stop),
                (signal.SIGHUP, self._reload),
            ):
                loop.add_signal_handler(number, event.set)
                undo.callback(loop.remove_signal_handler, number)
            try:
                async with asyncio.TaskGroup() as group:
                    await self._live(group)
            finally:
                await self._close()

    async def _live(self, group: asyncio.TaskGroup) -> None:
        now = self._clock.monotonic_ns()
        for name in ("process", "housekeeping"):
            self._watchdog.watch(name, limit_s=_TASK_LIMIT_S, now_ns=now)
        http = group.create_task(self._http.run(), name="http") if self._http is not None else None
        page = group.create_task(self._page.run(), name="page") if self._page is not None else None
        publish = group.create_task(self._broker.run(), name="publish") if self._broker is not None else None
        archive = group.create_task(self._archive.run(), name="archive") if self._archive.is_on else None
        process = group.create_task(self._process(), name="process")
        housekeeping = group.create_task(self._keep_house(), name="housekeeping")
        reloading = group.create_task(self._reload_when_asked(group), name="reload")
        self._follow_servers(group, self._settings.seedlink)
        self._notifier.ready(self._line())
        log.info("listening to %s", ", ".join(self._sources) or "nothing: no [[seedlink]] server is set")
        await self._stop.wait()

        log.info("stopping")
        self._notifier.stopping("stopping")
        for task in [*(task for _, task in self._sources.values()), process, reloading]:
            task.cancel()
        await asyncio.wait([process, reloading, *(task for _, task in self._sources.values())])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while rest := self._queue.take_all():
                    for first in range(0, len(rest), _BATCH):
                        await self._judge(rest[first : first + _BATCH])
        await self._save(patience_s=_ARCHIVE_LAST_S)
        if self._broker is not None and publish is not None:
            await self._broker.stop()
            await asyncio.wait([publish])
        for ended in (housekeeping, http, page, archive):
            if ended is not None:
                ended.cancel()

    async def _open_http(self) -> None:
        settings = self._settings.http
        if settings.port is None:
            return
        routes = Routes()
        routes.add("/metrics", metrics_handler(self._metrics.exposition))
        routes.add("/healthz", health_handler(self._alive))
        routes.add("/readyz", health_handler(self._ready))
        self._http = HttpServer(routes, host=settings.listen, port=settings.port)
        await self._http.bind()
        for host, port in self._http.addresses:
            log.info("metrics and health on http://%s:%d", host if ":" not in host else f"[{host}]", port)

    def _make_page(self, hub: Hub) -> Page:
        parts = self._parts
        health = HealthSource(
            self._outlook,
            broker=self._broker,
            broker_host=parts.settings.mqtt.host,
            archive=self._archive,
            clock=self._clock,
            model=parts.model,
            directory=parts.directory,
        )
        return Page(
            parts.settings.page,
            hub=hub,
            ask=self._ask,
            names=lambda: [group.name for group in self._engine.groups],
            health=health,
            directory=parts.directory,
            metrics=self._metrics,
            clock=self._clock,
        )

    async def _ask(self, what: Callable[[], T]) -> T:
        async with self._deciding:
            return await self._decide(what)

    async def _close(self) -> None:
        if self._broker is not None:
            await self._broker.close()
        await self._archive.close()
        self._thread.shutdown(wait=True)

    # -- data --------------------------------------------------------------------------------------------------------

    def _follow_servers(self, group: asyncio.TaskGroup, servers: Sequence[SeedLinkSettings]) -> None:
        for server in servers:
            self._outlook.add_server(server.label)
            source = SeedLinkSource(
                server, positions=self._positions, on_event=self._outlook.on_source, clock=self._clock.now_ns
            )
            task = group.create_task(source.run(self._put), name=f"source {server.label}")
            self._sources[server.label] = (server, task)

    async def _put(self, packet: Packet) -> None:
        self._outlook.packet(packet)
        await self._queue.put(packet)

    async def _process(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_TASK_LIMIT_S / 4):
                    packets = await self._queue.take(_BATCH)
            except TimeoutError:
                packets = []
            if packets:
                await self._judge(packets)
            self._watchdog.beat("process", self._clock.monotonic_ns())

    async def _judge(self, packets: Sequence[Packet]) -> None:
        """Finished also where whoever waits for it is cancelled: what the engine has taken in must be told."""
        await asyncio.shield(asyncio.ensure_future(self._judge_all(packets)))

    async def _judge_all(self, packets: Sequence[Packet]) -> None:
        def take() -> list[Detection]:
            return [detection for packet in packets for detection in self._engine.take(packet)]

        async with self._deciding:
            detections = await self._decide(take)
            self._archive.offer(packets)
            await self._tell(detections)

    async def _decide(self, what: Callable[[], T]) -> T:
        """Run something in the thread that owns the engine; under the lock."""
        result = await asyncio.get_running_loop().run_in_executor(self._thread, what)
        if self._new_groups is not None:
            groups, self._new_groups = self._new_groups, None
            self._outlook.follow(groups)
        return result

    async def _tell(self, detections: Sequence[Detection]) -> None:
        """Put detections where they cannot be lost; under the lock, so that what is saved is behind them."""
        # Those too that the broker has been told: an earlier process may not have come to archive them.
        self._archive.offer((), detections)
        if self._hub is not None and detections:
            hub, seen = self._hub, detections
            await self._decide(lambda: hub.tell(seen))
        if self._broker is not None:
            detections = await self._broker.put(detections)
        for detection in detections:
            self._metrics.detection(detection)
            tell_detection(log, detection)

    # -- the passing of time -----------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            async with self._deciding:
                detections, happened = await self._decide(lambda: (self._engine.tick(), self._engine.happened()))
                await self._tell(detections)
            now = self._clock.now_ns()
            if now - self._last_look_ns >= _LOOK_S * NS_PER_SECOND or now < self._last_look_ns:
                self._last_look_ns = now
                async with self._deciding:
                    looks = await self._decide(self._engine.look)
                self._outlook.look(looks)
                self._notifier.status(self._line())
            since_ns = now - self._last_saved_ns
            if since_ns >= self._settings.state.save_interval_s * NS_PER_SECOND or since_ns < 0:
                await self._save()
            self._outlook.measure(happened, queued=len(self._queue))
            self._metrics.device(self._parts.model.device, self._parts.model.fallbacks)
            report_suppressed()
            monotonic = self._clock.monotonic_ns()
            self._watchdog.beat("housekeeping", monotonic)
            if self._watchdog.due(monotonic):
                self._notifier.watchdog()

    async def _save(self, *, patience_s: float = _ARCHIVE_S) -> None:
        if self._broker is not None and not self._broker.is_durable:
            return  # what is only in memory must be found again after a crash
        async with self._deciding:
            state = await self._decide(self._engine.saved)
            offered = self._archive.offered
        if not await self._archive.caught_up(offered, patience_s):
            monotonic = self._clock.monotonic_ns()
            self._behind_since_ns = self._behind_since_ns or monotonic
            if patience_s == _ARCHIVE_S and monotonic - self._behind_since_ns < _SAVE_LIMIT_NS:
                return  # likewise
        else:
            self._behind_since_ns = None
        self._last_saved_ns, self._saved_positions = self._clock.now_ns(), state.positions
        try:
            await asyncio.to_thread(write_state, self._parts.directory, state)
        except StateError as error:
            log.error("%s", error)
        else:
            self._metrics.state_saved()

    # -- what others say ---------------------------------------------------------------------------------------------

    def _positions(self) -> list[Position]:
        # As they were last saved: for what was received since, the source knows better.
        return [Position(p.station, p.server, p.sequence, p.time_ns) for p in self._saved_positions]

    def _on_instruments(self, groups: list[StationGroup]) -> None:
        self._new_groups = groups  # taken up in the event loop's thread

    async def _reload_when_asked(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._notifier.reloading(self._clock.monotonic_ns())
            settings = await asyncio.to_thread(self._parts.reload)
            if settings is None:
                log.error("the settings are as they were before")
            else:
                await self._take_settings(group, settings)
            self._metrics.reloaded(ok=settings is not None)
            self._notifier.ready(self._line())

    async def _take_settings(self, group: asyncio.TaskGroup, settings: Settings) -> None:
        before, self._settings = self._settings, settings
        for section in ("model", "archive", "mqtt", "http", "page", "state", "outbox"):
            if getattr(before, section) != getattr(settings, section):
                log.warning("[%s] was changed: it takes a restart", section)
                self._settings = msgspec.structs.replace(self._settings, **{section: getattr(before, section)})
        servers = {server.label: server for server in settings.seedlink}
        for label, (server, task) in list(self._sources.items()):
            if servers.get(label) == server:
                del servers[label]
                continue
            task.cancel()
            await asyncio.wait([task])
            del self._sources[label]
            self._outlook.remove_server(label)
        self._follow_servers(group, list(servers.values()))
        selections = [Selection(server.stations) for server in settings.seedlink]
        self._outlook.expect(selections)
        self._outlook.silent_s = settings.quality.dead_after_s

        def apply() -> list[Detection]:
            return self._engine.reconfigure(self._settings, lambda c: any(s.wants(c) for s in selections))

        async def decide() -> None:
            async with self._deciding:
                await self._tell(await self._decide(apply))

        await asyncio.shield(asyncio.ensure_future(decide()))
        log.info("settings read again")

    # -- how it is ---------------------------------------------------------------------------------------------------

    def _ready(self) -> dict[str, Health]:
        return {**self._outlook.ready(), "archive": self._archive.health}

    def _line(self) -> str:
        trouble = self._archive.problem
        return self._outlook.line() + ("" if trouble is None else f"; archive stopped: {trouble}")

    def _alive(self) -> dict[str, Health]:
        late = self._watchdog.late(self._clock.monotonic_ns())
        return {
            name: Health(name not in late, f"stuck for {late[name]:.0f} s" if name in late else "runs")
            for name in ("process", "housekeeping")
        }
