"""Replay: recordings through the pipeline, station by station in step, detections as they are found."""

import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitor.detector import DetectorSettings
from monitor.model import Model
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.records import ChannelId, Detection, Segment
from monitor.sources.files import Contents, FileSource
from monitor.stations import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE, group_channels, measures_ground_motion
from monitor.timebase import NS_PER_SECOND, parse_time
from monitor.views import DetectionView, OverviewTrace

# At real time or a multiple of it, what is judged at once covers no more than this much of a person's time.
_PACED_BATCH_S = 0.2
_OVERVIEW_BINS = 4000
# What a figure shows after a detection's end must have been judged before it is drawn.
_VIEW_AFTER_S = 20.0


@dataclass(slots=True)
class Envelope:
    """The smallest and largest sample of each bin of time of one channel."""

    seed_id: str
    start_ns: int
    interval_ns: int
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]

    def add(self, segment: Segment) -> None:
        """Take a segment's samples."""
        if not segment.npts:
            return
        offsets = np.arange(segment.npts) * (NS_PER_SECOND / segment.sampling_rate)
        bins = ((segment.starttime_ns - self.start_ns + offsets) // self.interval_ns).astype(np.int64)
        samples = segment.samples.astype(np.float64)
        good = (bins >= 0) & (bins < len(self.minimum)) & np.isfinite(samples)
        if not good.any():
            return
        bins, samples = bins[good], samples[good]
        starts = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1))
        at = bins[starts]
        self.minimum[at] = np.fmin(self.minimum[at], np.minimum.reduceat(samples, starts))
        self.maximum[at] = np.fmax(self.maximum[at], np.maximum.reduceat(samples, starts))

    def trace(self) -> OverviewTrace:
        """What the overview draws."""
        return OverviewTrace(self.seed_id, self.start_ns, self.interval_ns / NS_PER_SECOND, self.minimum, self.maximum)


@dataclass(slots=True)
class _Open:
    """One instrument being replayed, with detections that wait to be drawn."""

    pipeline: StationPipeline
    waiting: list[Detection] = field(default_factory=list)


class Replay:
    """Runs recordings through the pipeline.

    Args:
        source: The files; scanned by this.
        model: The loaded model.
        settings: How to decide.
        speed: Multiple of real time; None for as fast as possible.
        on_view: Told what to draw of each final detection; None if nothing is drawn.
        on_notice: Told of channels that are left out, and why.
    """

    def __init__(
        self,
        source: FileSource,
        model: Model,
        settings: DetectorSettings,
        *,
        speed: float | None = None,
        on_view: Callable[[DetectionView], None] | None = None,
        on_notice: Callable[[str], None],
    ) -> None:
        self._source, self._speed, self._on_view = source, speed, on_view
        self.contents: Contents = source.scan()
        usable = [channel for channel in self.contents.channels if self._usable(channel, on_notice)]
        self.groups = group_channels(usable)
        batch_s = REPLAY_BATCH_S if speed is None else max(_PACED_BATCH_S, min(_PACED_BATCH_S * speed, REPLAY_BATCH_S))
        self._open: dict[ChannelId, _Open] = {}
        self.envelopes: dict[ChannelId, Envelope] = {}
        for group in self.groups:
            pipeline = StationPipeline(
                group, model, settings, origin="replay", batch_s=batch_s, keep_views=on_view is not None
            )
            opened = _Open(pipeline)
            for channel in pipeline.channels:
                self._open[channel] = opened
            if on_view is not None:
                first = next(channel for channel in group.channels if channel is not None)
                self.envelopes[first] = self._envelope(first)
        self.stream_ns = self.contents.first_ns or 0
        self.detections = 0

    @property
    def done_s(self) -> float:
        """Seconds of stream time done."""
        return (self.stream_ns - (self.contents.first_ns or 0)) / NS_PER_SECOND

    def __iter__(self) -> Iterator[Detection | None]:
        """Give each revision of each detection as it is decided, and None now and then so that progress shows."""
        started = time.monotonic()
        for segment in self._source if self._speed is None else _in_seconds(self._source):
            opened = self._open.get(segment.channel_id)
            if opened is None or not _usable_rate(segment.sampling_rate):
                continue
            self.stream_ns = max(self.stream_ns, segment.starttime_ns)
            if self._speed is not None:
                due = started + (segment.next_ns - (self.contents.first_ns or 0)) / NS_PER_SECOND / self._speed
                yield None
                time.sleep(max(0.0, due - time.monotonic()))
            if segment.channel_id in self.envelopes:
                self.envelopes[segment.channel_id].add(segment)
            yield from self._told(opened, opened.pipeline.advance(segment.starttime_ns))
            yield from self._told(opened, opened.pipeline.push(segment))
            yield None
        for opened in {id(opened): opened for opened in self._open.values()}.values():
            yield from self._told(opened, opened.pipeline.finish())
            self._draw(opened, last=True)
        self.stream_ns = self.contents.last_ns or self.stream_ns

    def _told(self, opened: _Open, detections: list[Detection]) -> Iterator[Detection]:
        for detection in detections:
            self.detections += detection.revision == 0
            if detection.state == "final":
                opened.waiting.append(detection)
            yield detection
        if opened.waiting:
            self._draw(opened, last=False)

    def _draw(self, opened: _Open, *, last: bool) -> None:
        if self._on_view is None:
            opened.waiting.clear()
            return
        until = opened.pipeline.computed_until_ns or 0
        waiting, opened.waiting = opened.waiting, []
        for detection in waiting:
            end_ns = parse_time(detection.end or detection.onset)
            if not last and end_ns + round(_VIEW_AFTER_S * NS_PER_SECOND) > until:
                opened.waiting.append(detection)
                continue
            view = opened.pipeline.view(detection, after_s=_VIEW_AFTER_S)
            if view is not None:
                self._on_view(view)

    def _usable(self, channel: ChannelId, on_notice: Callable[[str], None]) -> bool:
        if not measures_ground_motion(channel):
            on_notice(f"{channel.seed_id}: left out: not a channel of ground motion by its SEED code")
            return False
        rates = self.contents.channels[channel].sampling_rates
        bad = [rate for rate in rates if not _usable_rate(rate)]
        if bad:
            on_notice(
                f"{channel.seed_id}: left out {'what is ' if len(bad) < len(rates) else ''}sampled at {bad[0]:g} Hz; "
                f"accepted: {MIN_SAMPLING_RATE:g} to {MAX_SAMPLING_RATE:g} Hz"
            )
        return len(bad) < len(rates)

    def _envelope(self, channel: ChannelId) -> Envelope:
        first, last = self.contents.first_ns or 0, self.contents.last_ns or 0
        interval = max((last - first) // _OVERVIEW_BINS + 1, NS_PER_SECOND // 10)
        n = (last - first) // interval + 1
        return Envelope(channel.seed_id, first, interval, np.full(n, np.nan), np.full(n, np.nan))


def _usable_rate(sampling_rate: float) -> bool:
    return MIN_SAMPLING_RATE <= sampling_rate <= MAX_SAMPLING_RATE


def _in_seconds(source: FileSource) -> Iterator[Segment]:
    """Cut segments to about a second and put the pieces in order of time again, as a station would send them."""
    waiting: list[tuple[int, int, Segment]] = []
    number = 0
    for segment in source:
        while waiting and waiting[0][0] <= segment.starttime_ns:
            yield heapq.heappop(waiting)[2]
        step = max(1, round(segment.sampling_rate))
        for first in range(0, segment.npts, step):
            start_ns = segment.starttime_ns + round(first * NS_PER_SECOND / segment.sampling_rate)
            piece = segment.samples[first : first + step]
            number += 1
            heapq.heappush(
                waiting, (start_ns, number, Segment(segment.channel_id, start_ns, segment.sampling_rate, piece))
            )
    while waiting:
        yield heapq.heappop(waiting)[2]
