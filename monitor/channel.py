"""One channel: Segments in, samples at the model's rate in a ring out.

Decides what is real data. A sample is not when it is NaN, infinite or beyond what any recorder writes, or when the
value has not changed for `FLAT_S`: a dead digitizer or a telemetry fill, of which no detection may come.
"""

import itertools
import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.records import Segment
from monitor.resample import Resampler
from monitor.ringbuffer import RingBuffer
from monitor.timebase import NS_PER_SECOND

# A start time this many samples off the expected one still continues the run (libmseed's default tolerance).
TIME_TOLERANCE_SAMPLES = 0.5
# Relative difference up to which two sampling rates are one (libmseed's default tolerance).
RATE_TOLERANCE = 1e-4
# Longer than any quiet site stays on one count, shorter than a background takes to settle on it.
FLAT_S = 2.0
_FLAT_MIN_SAMPLES = 32
# Far above any count or ground motion in any unit; its power still fits float32.
_LARGEST = 1e15


class _Run(NamedTuple):
    """Where an unbroken run begins, an output index, and what holds from there on."""

    first: int
    recording_rate: float
    offset_ns: int


_NO_RUN = _Run(0, 0.0, 0)


@dataclass(slots=True)
class ChannelCounts:
    """What happened on one channel since it was opened; samples are those of the recording."""

    samples: int = 0
    gaps: int = 0
    gap_ns: int = 0
    overlap_samples: int = 0
    invalid_samples: int = 0
    flat_samples: int = 0
    rate_changes: int = 0


class Channel:
    """Follows one channel.

    Args:
        output_rate: The model's rate, Hz.
        capacity_s: Seconds that the ring holds.
    """

    def __init__(self, *, output_rate: int, capacity_s: float) -> None:
        self.ring = RingBuffer(round(capacity_s * output_rate))
        self.counts = ChannelCounts()
        self.recording_rate: float | None = None
        self.first_sample: int | None = None
        self._runs: deque[_Run] = deque()
        self._output_rate = output_rate
        self._resampler: Resampler | None = None
        self._expected_ns: int | None = None
        self._run_start_ns = 0
        self._run_samples = 0
        self._last_value: float | None = None
        self._last_repeats = 0

    def advance(self, watermark_ns: int) -> None:
        """Nothing of before `watermark_ns` will come any more: a run that ended before it is over."""
        if self._expected_ns is None or self._resampler is None or self.recording_rate is None:
            return
        if (watermark_ns - self._expected_ns) * self.recording_rate > TIME_TOLERANCE_SAMPLES * NS_PER_SECOND:
            self._end_run()

    def complete_until(self, watermark: int | None) -> int | None:
        """Output sample before which nothing more can come.

        Args:
            watermark: Output sample before which the source has nothing more; None if it did not say.

        Returns:
            The sample; None where neither data nor the source tell.
        """
        # An unbroken run goes on where its resampler stands, behind the watermark by the resampler's look-ahead.
        if self._resampler is not None:
            return self._resampler.next_index
        if self.ring.end is None or watermark is None:
            return watermark if self.ring.end is None else self.ring.end
        return max(self.ring.end, watermark)

    def offset_ns(self, sample: int) -> int:
        """Recorded time of a sample that the ring holds minus its time on the grid, nanoseconds."""
        return next((run for run in reversed(self._runs) if run.first <= sample), _NO_RUN).offset_ns

    def rates(self, first: int, stop: int) -> list[tuple[int, int, float]]:
        """Rates at which a range of samples that the ring holds was recorded.

        Args:
            first, stop: Output samples, `stop` excluded.

        Returns:
            From and up to which sample, excluded, a rate holds, and the rate, Hz: all of the range, in order; empty
            before any data.
        """
        begins = [max(first, run.first) if number else first for number, run in enumerate(self._runs)]
        ends = [*(min(begin, stop) for begin in begins[1:]), stop]
        return [
            (begin, end, run.recording_rate)
            for begin, end, run in zip(begins, ends, self._runs, strict=False)
            if begin < end
        ]

    def rate_changes(self, first: int, stop: int, *, within: int) -> list[int]:
        """Where data of one sampling rate go over into data of another.

        Args:
            first, stop: Output samples, `stop` excluded.
            within: A change counts where the last real sample before it is at most so many samples away.

        Returns:
            The first output sample of each new rate that the range holds, in order.
        """
        return [
            new.first
            for old, new in itertools.pairwise(self._runs)
            if first <= new.first < stop
            and abs(new.recording_rate / old.recording_rate - 1) > RATE_TOLERANCE
            and self.ring.read(new.first - within, new.first)[1].any()
        ]

    def push(self, segment: Segment) -> None:
        """Take the next segment; what was received before is dropped and counted."""
        rate = segment.sampling_rate
        samples: npt.NDArray[np.generic] = segment.samples
        start_ns = segment.starttime_ns
        late = 0.0 if self._expected_ns is None else (start_ns - self._expected_ns) * rate / NS_PER_SECOND
        if late < -TIME_TOLERANCE_SAMPLES:
            # As many as bring the rest within the tolerance: the same ones however the segment is cut.
            overlap = min(len(samples), math.ceil(-late - TIME_TOLERANCE_SAMPLES))
            self.counts.overlap_samples += overlap
            samples = samples[overlap:]
            start_ns += round(overlap * NS_PER_SECOND / rate)
        if not len(samples):
            return
        if self.recording_rate is not None and abs(rate / self.recording_rate - 1) > RATE_TOLERANCE:
            self.counts.rate_changes += 1
            self._end_run()
        self.recording_rate = rate
        if self._expected_ns is not None and late > TIME_TOLERANCE_SAMPLES:
            self.counts.gaps += 1
            self.counts.gap_ns += start_ns - self._expected_ns
            self._end_run()
            self._last_value = None
        self.counts.samples += len(samples)
        self._expected_ns = start_ns + round(len(samples) * NS_PER_SECOND / rate)
        for first, stop in self._real_runs(samples, rate):
            self._push_run(samples[first:stop], start_ns + round(first * NS_PER_SECOND / rate), rate)
            if stop < len(samples):
                self._end_run()

    def flush(self) -> None:
        """No more samples will follow these without a gap: give what the resampler still holds."""
        self._end_run()

    def _push_run(self, samples: npt.NDArray[np.generic], start_ns: int, rate: float) -> None:
        if self._resampler is not None:
            placed_ns = self._run_start_ns + round(self._run_samples * NS_PER_SECOND / self._resampler.rate)
            # The recorder's clock is the truth: a run that has drifted half a sample off it starts anew.
            if abs(start_ns - placed_ns) * min(rate, self._output_rate) > TIME_TOLERANCE_SAMPLES * NS_PER_SECOND:
                self._end_run()
        if self._resampler is None:
            self._resampler = Resampler(rate, self._output_rate, start_ns)
            self._run_start_ns, self._run_samples = start_ns, 0
            self._runs.append(_Run(self._resampler.next_index, rate, self._resampler.offset_ns))
        self._run_samples += len(samples)
        self._write(*self._resampler.push(samples))

    def _end_run(self) -> None:
        if self._resampler is not None:
            self._write(*self._resampler.flush())
            self._resampler = None

    def _write(self, index: int, output: npt.NDArray[np.float64]) -> None:
        self.ring.write(index, output)
        if self.first_sample is None and len(output):
            self.first_sample = index
        # The second oldest run begins before what the ring holds: the oldest is not asked for any more.
        held_from = (self.ring.end or 0) - self.ring.capacity
        while len(self._runs) > 1 and self._runs[1].first <= held_from:
            self._runs.popleft()

    def _real_runs(self, samples: npt.NDArray[np.generic], rate: float) -> list[tuple[int, int]]:
        """Index ranges of real samples; an open run also ends where the first sample is not real."""
        real = None
        if samples.dtype.kind == "f":
            real = np.asarray(np.abs(samples) <= _LARGEST)  # NaN is not
            self.counts.invalid_samples += int(len(real) - real.sum())
        flat = self._flat(samples, rate)
        if flat is not None:
            self.counts.flat_samples += int(flat.sum())
            real = ~flat if real is None else real & ~flat
        if real is None or real.all():
            return [(0, len(samples))]
        if not real[0]:
            self._end_run()
        edges = np.flatnonzero(np.diff(np.concatenate(([False], real, [False])).astype(np.int8)))
        return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]

    def _flat(self, samples: npt.NDArray[np.generic], rate: float) -> npt.NDArray[np.bool_] | None:
        """Which samples end a run of at least `FLAT_S` of one value, the run before this segment counted in."""
        limit = max(_FLAT_MIN_SAMPLES, round(FLAT_S * rate))
        n = len(samples)
        changed = np.empty(n, bool)
        np.not_equal(samples[1:], samples[:-1], out=changed[1:])
        held = self._last_repeats if self._last_value is not None and samples[0] == self._last_value else 0
        changed[0] = not held
        self._last_value = samples[-1].item()
        # A run that is long enough has no change in one at least of any pieces of half its length, or goes on from
        # before; most data have none, which is told in a tenth of the time.
        if held + int(changed.argmax()) <= limit and _changes_in_each(changed, limit // 2):
            self._last_repeats = int(changed[::-1].argmax()) + 1
            return None
        # Repeats so far at each sample: its distance to where its run of one value began.
        index = np.arange(n)
        began = np.maximum.accumulate(np.where(changed, index, -held))
        repeats = index - began + 1
        self._last_repeats = int(repeats[-1])
        return np.asarray(repeats > limit)


def _changes_in_each(changed: npt.NDArray[np.bool_], length: int) -> bool:
    """Whether each whole piece of a length, and the rest, holds a change."""
    return bool(np.logical_or.reduceat(changed, np.arange(0, len(changed), length)).all())
