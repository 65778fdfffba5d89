"""The service's side of the archives: what is offered is written by a thread of its own, in batches.

Nobody waits for it: what does not fit between the engine and a disk that hangs is dropped, newest first, and counted.
Where the disk takes nothing, archiving stops, is told once, and is tried again now and then; detection goes on.
"""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from monitor.archive.disk import Disk, failure_reason
from monitor.archive.drawing import Drawing
from monitor.archive.events import EventArchive
from monitor.archive.layout import EVENTS, SDS
from monitor.archive.record import RawRecord, RecordSplitter
from monitor.archive.sds import SdsArchive
from monitor.clock import Clock
from monitor.http import Health
from monitor.metrics import Metrics
from monitor.records import Detection, Packet
from monitor.settings import Settings
from monitor.timebase import NS_PER_SECOND

QUEUE: Final = "archive"
# Between two appends: memory cards wear.
BATCH_S: Final = 5.0
# After the disk took nothing.
RETRY_S: Final = 60.0
# Records that wait for the thread; minutes of hundreds of channels.
MOST_QUEUED_BYTES: Final = 8 * 1024 * 1024
_OVERHEAD_BYTES: Final = 200
# At the end, for what was offered last.
_CLOSE_S: Final = 10.0

log = logging.getLogger("monitor")


class _Standing(NamedTuple):
    """How the archives stand after a batch: what another thread may look at."""

    completed: int = 0
    kept: int = 0
    nbytes: int = 0
    sds_bytes: int = 0
    lost: int = 0


class Archiver:
    """Keeps events, and all data where that is wanted.

    Args:
        settings: The service's.
        directory: The state directory; exists.
        clock: This computer's.
        metrics: Told how it goes.
        on_kept: Told the name of an event's folder when its waveforms are complete, and when its pictures are there.
        disk: The file system.

    Attributes:
        offered: Rises with each `offer`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path,
        clock: Clock,
        metrics: Metrics,
        on_kept: Callable[[str], None] = lambda _: None,
        disk: Disk | None = None,
    ) -> None:
        self._settings, self._directory = settings, directory
        self._clock, self._metrics, self._disk = clock, metrics, disk or Disk()
        self._on_kept = on_kept
        wanted = settings.archive
        self._events = EventArchive(directory / EVENTS, settings, disk=self._disk) if wanted.events else None
        self._sds = SdsArchive(directory / SDS, wanted, disk=self._disk) if wanted.sds else None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        self._splitter = RecordSplitter()
        self._queue: deque[Packet | Detection] = deque()
        self._queued_bytes = self._lost = 0
        self.offered = self._written = 0
        self._wake, self._progress = asyncio.Event(), asyncio.Event()
        self._started = False
        self._problem: str | None = None
        self._retry_ns = 0
        self._failures: Counter[str] = Counter()
        self._standing = _Standing()
        self._drawing = Drawing(settings.model.path)
        if self.is_on:
            metrics.add_queue(QUEUE)

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._events is not None or self._sds is not None

    @property
    def problem(self) -> str | None:
        """Why nothing is archived for now, in words; None where all is well."""
        return self._problem

    @property
    def health(self) -> Health:
        """Is what is wanted archived?"""
        if not self.is_on:
            return Health(True, "off")
        if self._problem is not None:
            return Health(False, f"stopped: {self._problem}")
        standing = self._standing
        events = None if self._events is None else f"{standing.kept} events, {_size(standing.nbytes)}"
        sds = None if self._sds is None else f"SDS {_size(standing.sds_bytes)}"
        return Health(True, "; ".join(filter(None, (events, sds))))

    # -- in the event loop -------------------------------------------------------------------------------------------

    def offer(self, packets: Iterable[Packet], detections: Iterable[Detection] = ()) -> None:
        """Take what was received and what was found in it; never waits."""
        if not self.is_on:
            return
        for packet in packets:
            size = len(packet.record) + _OVERHEAD_BYTES
            if self._queued_bytes + size > MOST_QUEUED_BYTES:
                self._lost += 1
                continue
            self._queued_bytes += size
            self._queue.append(packet)
        news = list(detections)
        self._queue.extend(news)
        self.offered += 1
        # An event's past is nowhere else.
        if any(detection.revision == 0 for detection in news):
            self._wake.set()

    async def caught_up(self, ticket: int, timeout_s: float) -> bool:
        """Wait until what was offered is written; not where the disk does not take it.

        Args:
            ticket: `offered` at the time.
            timeout_s: How long, seconds.

        Returns:
            False where the time did not suffice.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.is_on and self._problem is None and self._written < ticket:
                    self._progress.clear()
                    self._wake.set()
                    await self._progress.wait()
        return not self.is_on or self._problem is not None or self._written >= ticket

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_in_batches(), name="archive writer")
            if self._events is not None and self._settings.archive.pictures:
                group.create_task(self._drawing.run(self._drawn), name="archive pictures")

    async def close(self) -> None:
        """Write what is left and end the thread; a disk that hangs is not waited for."""
        if self.is_on:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._batch()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _write_in_batches(self) -> None:
        while True:
            await self._batch()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BATCH_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _batch(self) -> None:
        ticket, items = self.offered, list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        # What was taken out is finished, also where whoever waits is cancelled.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, self._work, items))
        if self._events is not None:
            while self._events.undrawn:
                self._drawing.put(self._events.undrawn.pop())
            while self._events.finished:
                self._on_kept(self._events.finished.pop().name)
        self._measure()
        self._written = ticket
        self._progress.set()

    async def _drawn(self, path: Path, trouble: str | None) -> None:
        if trouble is not None:
            self._failures["picture"] += 1
            log.warning("archive: no picture of %s: %s", path.name, trouble)
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, self._note_drawn, path))
        self._on_kept(path.name)

    def _measure(self) -> None:
        standing = self._standing
        self._metrics.queue(QUEUE, len(self._queue))
        self._metrics.archive(
            working=self._problem is None,
            completed=standing.completed,
            kept=standing.kept,
            nbytes=standing.nbytes,
            sds_bytes=standing.sds_bytes,
            lost=self._lost + standing.lost,
            failures=self._failures,
        )

    # -- in the archive's thread -------------------------------------------------------------------------------------

    def _work(self, items: list[Packet | Detection]) -> None:
        monotonic = self._clock.monotonic_ns()
        # As the engine: a computer that knows its own clock to be wrong is no judge.
        now = None if self._clock.synchronised() is False else self._clock.now_ns()
        may_write = self._problem is None or monotonic >= self._retry_ns
        # First of all: what an earlier process has left open takes its part of what comes now.
        may_write = may_write and self._start(monotonic)
        self._take(items, now, monotonic)
        try:
            if may_write:
                self._make_sure_of_room()
                self._flush(now, monotonic)
        except OSError as error:
            self._fail(failure_reason(error), str(error), monotonic)
        except _NoRoomError as error:
            self._fail("reserve", str(error), monotonic)
        else:
            if may_write and self._problem is not None:
                self._problem = None
                log.info("archive: works again")
        events, sds = self._events, self._sds
        for part in (events, sds):
            if part is not None:
                part.limit_pending()
        self._standing = _Standing(
            completed=0 if events is None else events.completed,
            kept=0 if events is None else events.kept,
            nbytes=0 if events is None else events.nbytes,
            sds_bytes=0 if sds is None else sds.nbytes,
            lost=(0 if events is None else events.lost) + (0 if sds is None else sds.lost),
        )

    def _start(self, monotonic: int) -> bool:
        if not self._started:
            try:
                for part in (self._events, self._sds):
                    if part is not None:
                        part.start(monotonic)
            except OSError as error:
                self._fail(failure_reason(error), str(error), monotonic)
                return False
            self._started = True
        return True

    def _make_sure_of_room(self) -> None:
        free, reserve = self._disk.free_bytes(self._directory), self._settings.archive.free_bytes
        if free < reserve:
            raise _NoRoomError(f"{self._directory}: {_size(free)} are free, free_bytes keeps {_size(reserve)}")

    def _take(self, items: list[Packet | Detection], now: int | None, monotonic: int) -> None:
        ahead_ns = round(self._settings.live.future_tolerance_s * NS_PER_SECOND)
        records: list[RawRecord] = []
        for item in items:
            if isinstance(item, Packet):
                wanted = {segment.channel_id for segment in item.segments}
                found = self._splitter.split(item.record, wanted)
                records += [r for r in found if now is None or r.span.next_ns <= item.received_ns + ahead_ns]
                continue
            self._put(records)
            records = []
            if self._events is not None:
                self._events.tell(item, now_ns=now, monotonic_ns=monotonic)
        self._put(records)

    def _put(self, records: list[RawRecord]) -> None:
        for part in (self._events, self._sds):
            if part is not None:
                part.take(records)

    def _flush(self, now: int | None, monotonic: int) -> None:
        if self._events is not None:
            self._events.flush(monotonic)
            self._events.keep_limits(now)
        if self._sds is not None:
            self._sds.flush(now)

    def _note_drawn(self, path: Path) -> None:
        if self._events is not None:
            try:
                self._events.drawn(path)
            except OSError as error:
                self._fail(failure_reason(error), str(error), self._clock.monotonic_ns())

    def _fail(self, reason: str, text: str, monotonic: int) -> None:
        self._failures[reason] += 1
        self._retry_ns = monotonic + round(RETRY_S * NS_PER_SECOND)
        if self._problem is None:
            log.error("archive: stopped: %s; detection goes on, tried again every %.0f s", text, RETRY_S)
        self._problem = text


class _NoRoomError(Exception):
    """The file system has less free than is to stay free."""


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
