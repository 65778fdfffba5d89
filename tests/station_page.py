"""A station page as tests need it: the real hub, page and listener, fed with recordings as fast as it goes."""

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from monitor.archive.archiver import Archiver
from monitor.clock import Discipline, FixedClock
from monitor.detector import DetectorSettings
from monitor.engine import ChannelLook
from monitor.metrics import Metrics
from monitor.model import Model
from monitor.outlook import Outlook
from monitor.pipeline import StationPipeline
from monitor.quality import ChannelQuality
from monitor.records import ChannelId, Detection, Segment
from monitor.settings import ArchiveSettings, MqttSettings, PageSettings, QualitySettings, Settings
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND
from monitor.web.health import HealthSource
from monitor.web.hub import Hub
from monitor.web.page import Page
from tests.waveforms import earthquake, segments, split

T = TypeVar("T")
MODEL = Model()
PATIENCE_S = 120.0


def quake(station: str = "ABC", *, p_s: float = 60.0, seconds: float = 100.0, seed: int = 1) -> list[Segment]:
    """Three components with one earthquake."""
    wave = earthquake(rate=100.0, p_s=p_s, s_minus_p=4.0, seconds=seconds, snr=15.0, seed=seed)
    return segments(wave, rate=100.0, station=station)


class Player:
    """Plays recordings into pipelines that the hub looks on at; stands for the engine.

    Args:
        recordings: Any number of channels.
        hub: Looks on.
    """

    def __init__(self, recordings: Sequence[Segment], hub: Hub) -> None:
        self.hub, self.detections = hub, list[Detection]()
        self.pipelines: dict[str, StationPipeline] = {}
        self._of_channel: dict[ChannelId, StationPipeline] = {}
        for group in group_channels({segment.channel_id for segment in recordings}):
            pipeline = StationPipeline(group, MODEL, DetectorSettings(), origin="live", observer=hub)
            self.pipelines[group.name] = pipeline
            self._of_channel |= dict.fromkeys((c for c in group.channels if c is not None), pipeline)
        pieces = [piece for one in recordings for piece in split(one, [round(one.sampling_rate)])]
        self._pieces = sorted(pieces, key=lambda piece: piece.next_ns)
        self.start_ns = min(piece.starttime_ns for piece in recordings)
        self.quality = {c: ChannelQuality(QualitySettings(), c, opened_ns=self.start_ns) for c in self._of_channel}
        self.now_ns = self.start_ns

    @property
    def is_over(self) -> bool:
        """Has everything been played?"""
        return not self._pieces

    def play(self, seconds: float) -> list[Detection]:
        """Play so much more."""
        self.now_ns += round(seconds * NS_PER_SECOND)
        found = []
        while self._pieces and self._pieces[0].next_ns <= self.now_ns:
            piece = self._pieces.pop(0)
            found += self._of_channel[piece.channel_id].push(piece)
            self.quality[piece.channel_id].push(piece, received_ns=piece.next_ns, timing_quality=100)
        self.hub.tell(found)
        self.detections += found
        return found


class StationPage:
    """The page, and what it shows.

    Args:
        recordings: To be played.
        folder: For the state.
        settings: Of the page.
    """

    def __init__(self, recordings: Sequence[Segment], folder: Path, settings: PageSettings) -> None:
        self.hub = Hub(MODEL)
        self.player = Player(recordings, self.hub)
        self.metrics = Metrics()
        self.clock = FixedClock(self.player.now_ns, discipline=Discipline(True, 1000, 2000, 3000))
        self._settings, self.folder = settings, folder
        self.outlook = Outlook(
            self.metrics, clock=self.clock, broker=None, model=MODEL.ref, silent_s=120.0, settings=MqttSettings()
        )
        self.outlook.add_server("recorder:18000")

    def open(self) -> None:
        """Make the page; in the event loop that is to run it."""
        archiver = Archiver(
            Settings(archive=ArchiveSettings(events=False)),
            directory=self.folder,
            clock=self.clock,
            metrics=self.metrics,
        )
        health = HealthSource(
            self.outlook,
            broker=None,
            broker_host=None,
            archive=archiver,
            clock=self.clock,
            model=MODEL,
            directory=self.folder,
        )
        self.page = Page(
            self._settings,
            hub=self.hub,
            ask=self.ask,
            names=lambda: list(self.player.pipelines),
            health=health,
            directory=self.folder,
            metrics=self.metrics,
            clock=self.clock,
            tick_s=0.1,
        )

    async def ask(self, what: Callable[[], T]) -> T:
        """As the service does."""
        return what()

    async def play(self, seconds: float) -> list[Detection]:
        """Let so much stream time pass."""
        found = self.player.play(seconds)
        self.clock.advance(self.player.now_ns - self.clock.now_ns())
        now = self.clock.now_ns()
        self.outlook.look([ChannelLook(c, q.report(now), None, 0.0) for c, q in self.player.quality.items()])
        return found


class Served:
    """A page in a thread of its own.

    Args:
        station: The page.
        loop: Where it runs.
    """

    def __init__(self, station: StationPage, loop: asyncio.AbstractEventLoop) -> None:
        self.station, self._loop = station, loop

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.station.page.addresses[0][1]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/"

    def play(self, seconds: float) -> list[Detection]:
        """Let so much stream time pass, in its thread."""
        return asyncio.run_coroutine_threadsafe(self.station.play(seconds), self._loop).result(PATIENCE_S)

    def do(self, what: Callable[[], T]) -> T:
        """Do something in its thread."""

        async def call() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE_S)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Ask for something: status, headers in lower case, body."""
        return self.ask("GET", path, **headers)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """The same by another method."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """What JSON it answers with."""
        status, _, body = self.get(path)
        assert status == 200, (path, status, body[:200])
        return json.loads(body)


@contextlib.contextmanager
def serving(recordings: Sequence[Segment], folder: Path, **settings: Any) -> Iterator[Served]:
    """A page that listens on a free port; what ended it is raised here."""
    station = StationPage(recordings, folder, PageSettings(port=0, **settings))
    ready: Future[asyncio.AbstractEventLoop] = Future()
    ended = threading.Event()

    async def run() -> None:
        station.open()
        running = asyncio.create_task(station.page.run())
        stop = asyncio.create_task(asyncio.to_thread(ended.wait))
        while not station.page.addresses and not running.done():  # noqa: ASYNC110, said by nobody
            await asyncio.sleep(0.01)
        ready.set_result(asyncio.get_running_loop())
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        ended.set()
        await stop

    faults: list[BaseException] = []

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as fault:  # given to who waits
            faults.append(fault)
            raise

    thread = threading.Thread(target=main)
    thread.start()
    try:
        yield Served(station, ready.result(PATIENCE_S))
    finally:
        ended.set()
        thread.join()
    assert not faults, faults
