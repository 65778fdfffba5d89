"""The demo: `monitor serve` -> `monitor run` -> broker -> subscriber, with the middle two as processes of their own.

The daemon is the one that stations run; it is told by a settings file where the others are, and cannot know that this
is a demo. Everything the demo starts ends with it, whatever ends it.
"""

import asyncio
import contextlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec

from monitor.demo import words
from monitor.demo.arrivals import Arrivals
from monitor.demo.broker import running_broker
from monitor.demo.children import Child, running
from monitor.demo.left import leave
from monitor.demo.ports import Ports
from monitor.demo.recording import Played, open_recording, shift_to_end_now, write_moved
from monitor.demo.screen import Screen, line
from monitor.demo.settings import CLIENT, MQTT_ROOT, settings_text
from monitor.demo.subscriber import Message, subscribed
from monitor.demo.tally import Tally
from monitor.demo.usage import read_metrics, usage_of
from monitor.messages import Status
from monitor.progress import ReplayProgress
from monitor.records import Detection
from monitor.sources.problems import Problem
from monitor.timebase import NS_PER_SECOND, parse_time

_TICK_S = 0.2
_START_S = 60.0
# The recording may take this many times as long as it should, and this much longer.
_SLACK, _SLACK_S = 3.0, 60.0
# The daemon updates its metrics every second; when nothing has changed from look to look it is done.
_SETTLE_S, _LOOK_S, _CALM_LOOKS, _OPEN_LOOKS = 60.0, 1.1, 2, 10
_ANSWER_S = 3.0
# Messages that wait to be shown: far more than can come in a tick.
_MOST_WAITING = 10_000
_WRITE_PAUSE = 256
# With --keep it may go on for days.
_REMEMBERED_NS = 3600 * NS_PER_SECOND
_SERVE_PORT = re.compile(r" port (\d+)$")
# Higher than any number of the first server's: the second one goes on, as one that was restarted does.
_NEXT_SEQUENCE = 1 << 20


class DemoError(Exception):
    """The demo cannot go on; the message is for a person, with the last words of whoever failed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to show.

    Attributes:
        files: Recordings.
        speed: Multiple of real time, 1 or more.
        keep: Go on after the end, in real time.
        ports: Where things listen.
        listen: Address of the page.
        page_host: The page's host, as a browser is told.
        open_page: Opens the page; None: not wanted.
        output: Where to leave what the daemon archived; None: nowhere.
        pictures: Let it draw each event.
    """

    files: list[str]
    speed: float
    keep: bool
    ports: Ports
    listen: str
    page_host: str
    open_page: Callable[[str], str | None] | None
    output: Path | None
    pictures: bool


class Demo:
    """Runs once.

    Args:
        plan: What to show.
        stream: Where to print.
        color: In colours.
        on_problem: Told what is wrong in the recordings.
    """

    def __init__(self, plan: Plan, stream: TextIO, *, color: bool, on_problem: Callable[[Problem], None]) -> None:
        self._plan, self._stream, self._color, self._on_problem = plan, stream, color, on_problem
        self._screen, self._progress = Screen(stream, color=color), ReplayProgress(0.0, enabled=False)
        self._began = time.monotonic()
        self._events: asyncio.Queue[Message | tuple[Child, int] | BaseException] = asyncio.Queue(_MOST_WAITING)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tally = Tally()
        self._kinds: Counter[str] = Counter()
        self._titled = 0
        self._online = self._kept = False
        self._arrivals: Arrivals | None = None

    async def run(self) -> int:
        """Show everything.

        Returns:
            Exit code: 0 where an earthquake was received from a daemon that lived.

        Raises:
            DemoError: Something that was started failed.
            NoDataError: No sample in the recordings.
            RecordingError: The recordings are too long.
            OutputClosedError: Whoever read has gone.
        """
        self._screen.show(words.starting())
        with tempfile.TemporaryDirectory(prefix="monitor-demo-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            played = await self._prepare(folder)
            self._progress = ReplayProgress(played.span_s)
            self._screen = Screen(self._progress.guard(self._stream), color=self._color)
            async with self._environment(folder):
                return await self._play(played, folder)

    # -- what is started ---------------------------------------------------------------------------------------------

    async def _prepare(self, folder: Path) -> Played:
        # The first look may load ObsPy, a second or two.
        recording = await asyncio.to_thread(open_recording, self._plan.files, on_problem=self._on_problem)
        shift_ns = shift_to_end_now(recording, speed=self._plan.speed, now_ns=time.time_ns())
        try:
            for number, played in enumerate(write_moved(recording, folder / "recording.mseed", shift_ns=shift_ns)):
                if played is not None:
                    return played
                if number % _WRITE_PAUSE == 0:
                    await asyncio.sleep(0)
        except (OSError, ValueError) as error:
            raise DemoError(f"the recording cannot be made ready: {error}") from error
        raise AssertionError("the last thing written is what was written")

    @contextlib.asynccontextmanager
    async def _environment(self, folder: Path) -> AsyncIterator[None]:
        """Broker and subscriber, and an end to every task."""
        port = self._plan.ports.mqtt
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(running_broker(port, log=folder / "broker.log"))
                await stack.enter_async_context(subscribed(port, MQTT_ROOT, self._put))
            except OSError as error:  # TimeoutError is one
                raise DemoError(f"no broker on 127.0.0.1 port {port}: {error.strerror or error}") from error
            stack.push_async_callback(self._end_tasks)
            yield

    @contextlib.asynccontextmanager
    async def _server(self, played: Played, folder: Path, port: int, *options: str) -> AsyncIterator[tuple[Child, int]]:
        """`monitor serve`, and where it listens."""
        arguments = (str(played.path), "--port", str(port), "--ring", "256", *options)
        async with running("serve", *arguments, folder=folder) as server:
            found = _SERVE_PORT.search(await server.first_line())
            if found is None:
                raise _failed(server, "did not start")
            self._watch(server)
            yield server, int(found[1])

    async def _play(self, played: Played, folder: Path) -> int:
        plan, ports = self._plan, self._plan.ports
        over = asyncio.Event()
        self._arrivals = arrivals = Arrivals(played.ends_ns, on_end=over.set)
        async with contextlib.AsyncExitStack() as stack:
            options = ("--speed", str(plan.speed), "--wait", "2")
            server, port = await stack.enter_async_context(self._server(played, folder, ports.seedlink, *options))
            config = folder / "monitor.toml"
            config.write_text(
                settings_text(
                    seedlink=port,
                    mqtt=ports.mqtt,
                    metrics=ports.metrics,
                    page=ports.page,
                    listen=plan.listen,
                    span_s=played.span_s,
                    pictures=plan.pictures,
                )
            )
            daemon = await stack.enter_async_context(running("run", "--config", str(config), folder=folder))
            daemon_began = time.monotonic()
            self._watch(daemon)
            await self._follow(lambda: self._online, limit_s=_START_S, why="the daemon did not reach the broker")
            await self._open(played, port)
            # The server has been waiting for its second client: now it plays.
            self._spawn(arrivals.run(port))
            began = time.monotonic()
            limit_s = _SLACK * played.span_s / plan.speed + _SLACK_S
            with self._progress:
                await self._follow(over.is_set, limit_s=limit_s, why="the recording was not played in time", at=played)
                played_s = time.monotonic() - began
                metrics = await self._settle(arrivals)
            facts = words.Facts(
                shift_ns=played.shift_ns,
                span_s=played.span_s,
                speed=plan.speed,
                played_s=played_s,
                packets=arrivals.packets,
                messages=dict(self._kinds),
                metrics=metrics,
                usage=usage_of(daemon.pid),
                ran_s=time.monotonic() - daemon_began,
            )
            self._screen.show(words.summary(self._tally, played.stations, facts))
            found = bool(self._tally.earthquakes())
            if plan.keep:
                await server.stop()
                options = ("--now", "--loop", "--first-sequence", str(_NEXT_SEQUENCE))
                await stack.enter_async_context(self._server(played, folder, port, *options))
                await self._keep()
            code = await daemon.stop()
            if code != 0:
                raise _failed(daemon, f"ended with exit code {code}")
            if plan.output is not None:
                await self._leave(folder, plan.output)
            if not found:
                raise _failed(daemon, "told of no earthquake")
            return 0

    async def _open(self, played: Played, port: int) -> None:
        """Say what is about to be seen."""
        plan, ports = self._plan, self._plan.ports
        page_url = f"http://{f'[{plan.page_host}]' if ':' in plan.page_host else plan.page_host}:{ports.page}/"
        has_page = await _answers(plan.page_host, ports.page)
        addresses = [
            *([words.Address("Page", page_url, "waveforms, spectrogram, probability, detections")] if has_page else []),
            words.Address("Metrics", f"http://127.0.0.1:{ports.metrics}/metrics", "also /healthz and /readyz"),
            words.Address("MQTT", f"127.0.0.1:{ports.mqtt}", f"mosquitto_sub -p {ports.mqtt} -t '{MQTT_ROOT}/#' -v"),
            words.Address("SeedLink", f"127.0.0.1:{port}", f"monitor streams 127.0.0.1:{port}"),
        ]
        self._screen.show(
            words.opening(
                played.stations,
                recorded_ns=played.first_ns - played.shift_ns,
                span_s=played.span_s,
                speed=plan.speed,
                addresses=addresses,
            )
        )
        if plan.open_page is not None:
            problem = await asyncio.to_thread(plan.open_page, page_url)
            if problem is not None:
                self._screen.show([line(problem)])

    async def _leave(self, folder: Path, output: Path) -> None:
        try:
            await leave(folder, output, screen=self._screen, draw_missing=self._plan.pictures)
        except OSError as error:
            raise DemoError(f"--output {output}: {error.strerror or error}") from error

    async def _keep(self) -> None:
        """Go on until interrupted: then the demo has ended as it should."""
        self._screen.show(words.kept())
        self._kept = True
        try:
            await self._follow(lambda: False)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    # -- what happens ------------------------------------------------------------------------------------------------

    async def _follow(
        self, until: Callable[[], bool], *, limit_s: float = float("inf"), why: str = "", at: Played | None = None
    ) -> None:
        """Show what comes until something is so."""
        began = time.monotonic()
        while not until():
            if time.monotonic() - began > limit_s:
                raise DemoError(f"{why} within {limit_s:.0f} s")
            await self._step()
            if at is not None and self._arrivals is not None and self._arrivals.newest_ns:
                newest_ns = self._arrivals.newest_ns
                done_s = (newest_ns - at.first_ns) / NS_PER_SECOND
                self._progress.update(newest_ns - at.shift_ns, done_s, self._tally.detections)

    async def _step(self) -> None:
        """Show the next thing that comes, or nothing for a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TICK_S):
                self._take(await self._events.get())

    async def _settle(self, arrivals: Arrivals) -> dict[str, float]:
        """Wait until the daemon has told all of what was played, as far as it will; give its metrics."""
        began, calm_looks, before = time.monotonic(), 0, (-1.0, -1)
        metrics: dict[str, float] = {}
        while time.monotonic() - began < _SETTLE_S:
            metrics = await asyncio.to_thread(read_metrics, self._plan.ports.metrics)
            had_all = metrics.get("monitor_packets_total", 0.0) >= arrivals.packets
            waiting = metrics.get("monitor_queue_items", 1.0) + metrics.get("monitor_outbox_messages", 1.0)
            now = metrics.get("monitor_frames_total", 0.0), sum(self._kinds.values())
            calm_looks = calm_looks + 1 if had_all and not waiting and now == before else 0
            before = now
            # A signal that goes on at the end of the recording is not ended by it.
            if calm_looks >= (_OPEN_LOOKS if self._tally.open else _CALM_LOOKS):
                break
            until = time.monotonic() + _LOOK_S
            while time.monotonic() < until:
                await self._step()
        return metrics

    def _take(self, event: Message | tuple[Child, int] | BaseException) -> None:
        match event:
            case BaseException():
                raise event
            case Message():
                self._hear(event)
            case (child, code):
                raise _failed(child, f"ended with exit code {code}")

    def _hear(self, message: Message) -> None:
        kind = message.topic.rpartition("/")[2]
        try:
            if kind == "status":
                status = msgspec.json.decode(message.payload, type=Status)
                self._online = self._online or (status.client == CLIENT and status.state == "online")
            elif kind == "detection":
                self._show(msgspec.json.decode(message.payload, type=Detection), message.received_ns)
        except msgspec.DecodeError:
            # Whoever is on this computer may publish what they like.
            kind = "foreign"
        self._kinds[kind] += 1

    def _show(self, detection: Detection, received_ns: int) -> None:
        delay_s = None
        if self._arrivals is not None:
            arrived_ns = self._arrivals.arrived_ns(detection.seed_ids, parse_time(detection.decided_at))
            delay_s = None if arrived_ns is None else max(0, received_ns - arrived_ns) / NS_PER_SECOND
        if not self._tally.add(detection, delay_s=delay_s):
            return
        elapsed_s, lines = time.monotonic() - self._began, []
        of = self._tally.earthquake_of(detection)
        if of is not None and of[0] > self._titled:
            self._titled = of[0]
            lines.append(words.title(of[0], elapsed_s))
        if self._kept:
            self._tally.forget(before_ns=parse_time(detection.onset) - _REMEMBERED_NS)
        self._screen.show([*lines, words.row(detection, elapsed_s=elapsed_s, delay_s=delay_s)])

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _put(self, event: Message | tuple[Child, int] | BaseException) -> None:
        if self._events.full():
            # Shown too slowly, as in a terminal that is stopped: what nobody can read any more goes.
            self._events.get_nowait()
        self._events.put_nowait(event)

    def _watch(self, child: Child) -> None:
        self._spawn(child.watch(lambda ended, code: self._put((ended, code))))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._put(error)

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answers(host: str, port: int) -> bool:
    """Does anybody listen there?"""
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _failed(child: Child, how: str) -> DemoError:
    lines = child.last_lines()
    told = "".join(f"\n    {text}" for text in lines) if lines else " nothing"
    return DemoError(f"{child.name} {how}; the last that it said:{told}")
