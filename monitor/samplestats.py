"""What the newest ten minutes of samples look like: mean, RMS, spikes, one value only, clipped.

A function of the samples alone, whatever packets they came in. Kept as numbers for blocks of ten seconds, and the
samples of the last minute as float32.
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.timebase import NS_PER_SECOND

# What is looked back on; scqc's default buffer is 600 s too.
WINDOW_S = 600
BLOCK_S = 10
_BLOCK_NS = BLOCK_S * NS_PER_SECOND
_BLOCKS = WINDOW_S // BLOCK_S
_MINUTE_BLOCKS = 6
# As `monitor.channel`, which masks such a run: it is no clipping, and what follows it is worth listening to.
_FILL_S = 2.0
_FILL_MIN_SAMPLES = 32
# An extreme that is reached less often is a wave's crest, not a rail.
_MIN_AT_EXTREME = 4
# Next to a rail nothing piles up; next to the crest of a sine, and where there are few levels, much does.
_NEAR_SHARE_OF_RANGE = 0.05
_LEVELS_FACTOR = 10.0
# A lone sample that leaves and returns by so many mean steps; its neighbours go on as if it were not there.
_SPIKE_STEPS = 10.0
_SPIKE_CONTEXT = 4

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(slots=True, eq=False)
class _Block:
    """What is known of the samples of ten seconds.

    Sums are of deviations from the first sample: an offset of 2^31 counts must not drown an RMS of one.
    """

    number: int
    reference: float
    values: npt.NDArray[np.float32] | None
    samples: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    at_low: int = 0
    at_high: int = 0
    at_full_scale: int = 0
    finest_step: float = math.inf
    steps: int = 0
    step_total: float = 0.0
    spikes: int = 0

    def add(self, x: F64, steps: F64, full_scale: float) -> None:
        deviation = x - self.reference
        if self.values is not None:
            room = self.values[self.samples : self.samples + len(x)]
            room[:] = x[: len(room)]
        self.samples += len(x)
        self.total += float(deviation.sum())
        self.squares += float(deviation @ deviation)
        low, high = float(x.min()), float(x.max())
        if low <= self.low:
            self.at_low = int(np.count_nonzero(x == low)) + (self.at_low if low == self.low else 0)
            self.low = low
        if high >= self.high:
            self.at_high = int(np.count_nonzero(x == high)) + (self.at_high if high == self.high else 0)
            self.high = high
        if max(-low, high) >= full_scale:
            self.at_full_scale += int(np.count_nonzero(np.abs(x) >= full_scale))
        if len(steps):
            self.steps += len(steps)
            self.step_total += float(steps.sum())
            moved = steps[steps > 0]
            if len(moved):
                self.finest_step = min(self.finest_step, float(moved.min()))

    @property
    def variance_total(self) -> float:
        """Sum of squared deviations from the block's mean."""
        return max(0.0, self.squares - self.total**2 / self.samples)


class SampleStatistics:
    """Follows the samples of one channel.

    Args:
        clip_share: Share of the samples of a minute at the extremes that is worth a closer look.
        full_scale: A sample at or beyond this is clipped; infinite where the digitizer's limit is not known.
    """

    def __init__(self, *, clip_share: float, full_scale: float) -> None:
        self.clip_share, self.full_scale = clip_share, full_scale
        self._blocks: deque[_Block] = deque()
        self._rate: float | None = None
        self._held_samples = 0
        self.held_value: float | None = None
        self._tail: F64 = np.empty(0)
        self._mean_step: float | None = None
        self._clipped_share: float | None = 0.0  # None: to be computed

    @property
    def flat_s(self) -> float:
        """For how long the newest samples have had one value, seconds of data."""
        return 0.0 if self._rate is None or self._held_samples < 2 else self._held_samples / self._rate

    @property
    def clipped_share(self) -> float:
        """Share of the samples of the last minute at the digitizer's limits, 0 to 1."""
        if self._clipped_share is None:
            self._clipped_share = self._measure_clipping()
        return self._clipped_share

    @property
    def offset(self) -> float | None:
        """Mean; None without samples."""
        samples = sum(block.samples for block in self._blocks)
        return sum(b.reference * b.samples + b.total for b in self._blocks) / samples if samples else None

    @property
    def rms(self) -> float | None:
        """Root mean square about the mean of each ten seconds, as scqc's about that of each record; None without."""
        samples = sum(block.samples for block in self._blocks)
        return math.sqrt(sum(block.variance_total for block in self._blocks) / samples) if samples else None

    @property
    def minimum(self) -> float | None:
        """Lowest sample; None without samples."""
        return min((block.low for block in self._blocks), default=None)

    @property
    def maximum(self) -> float | None:
        """Highest sample; None without samples."""
        return max((block.high for block in self._blocks), default=None)

    @property
    def spikes(self) -> int:
        """Lone samples that stick out; none is found in the first ten seconds."""
        return sum(block.spikes for block in self._blocks)

    def restart(self) -> None:
        """What comes is of another sampling rate: samples of two rates do not weigh the same."""
        self._blocks.clear()
        self._tail, self._mean_step = np.empty(0), None

    def push(self, samples: npt.NDArray[np.generic], start_ns: int, rate: float, *, continues: bool) -> None:
        """Take samples newer than all before.

        Args:
            samples: [shape=(npts,)], finite, at least one.
            start_ns: Time of the first, nanoseconds since the epoch.
            rate: Samples per second.
            continues: They follow the ones before without a gap.
        """
        self._rate = rate
        self._count_held(samples)
        self._clipped_share = None
        if not continues:
            self._tail = np.empty(0)
        at = max(0, len(samples) - math.ceil(WINDOW_S * rate))
        while at < len(samples):
            number = (start_ns + round(at * NS_PER_SECOND / rate)) // _BLOCK_NS
            stop = math.ceil(((number + 1) * _BLOCK_NS - start_ns) * rate / NS_PER_SECOND)
            stop = min(len(samples), max(at + 1, stop))
            self._add_to_block(number, samples[at:stop].astype(np.float64), rate)
            at = stop

    def _count_held(self, samples: npt.NDArray[np.generic]) -> None:
        """Follow for how many samples the value has not changed; a gap does not make a dead digitizer alive."""
        changes = np.flatnonzero(samples[1:] != samples[:-1])
        last = samples[-1].item()
        if len(changes):
            self._held_samples = len(samples) - 1 - int(changes[-1])
        elif last == self.held_value:
            self._held_samples += len(samples)
        else:
            self._held_samples = len(samples)
        self.held_value = last

    def _add_to_block(self, number: int, x: F64, rate: float) -> None:
        if not self._blocks or self._blocks[-1].number != number:
            self._begin_block(number, float(x[0]), rate)
        block = self._blocks[-1]
        run = np.concatenate((self._tail, x))
        steps = run[1:] - run[:-1]  # np.diff takes four times as long on so few
        sizes = np.abs(steps)
        if self._mean_step and len(sizes) and sizes.max() >= _SPIKE_STEPS * self._mean_step:
            block.spikes += _count_spikes(run, steps, _SPIKE_STEPS * self._mean_step)
        # The tail's own steps were counted when they came.
        block.add(x, sizes[max(0, len(self._tail) - 1) :], self.full_scale)
        self._tail = run[-_SPIKE_CONTEXT:]

    def _begin_block(self, number: int, reference: float, rate: float) -> None:
        if self._blocks and self._blocks[-1].steps:
            self._mean_step = self._blocks[-1].step_total / self._blocks[-1].steps
        self._blocks.append(_Block(number, reference, np.empty(math.ceil(BLOCK_S * rate), np.float32)))
        while self._blocks[0].number <= number - _BLOCKS:
            self._blocks.popleft()
        for block in self._blocks:
            if block.number <= number - _MINUTE_BLOCKS:
                block.values = None

    def _measure_clipping(self) -> float:
        """Share of the last minute at the digitizer's limits; 0 where the extremes are no limits."""
        if not self._blocks or self._rate is None:
            return 0.0
        newest = self._blocks[-1].number
        minute = [block for block in self._blocks if block.number > newest - _MINUTE_BLOCKS]
        # Of a whole minute, however little has come: the first packet's two extremes are many of its samples.
        samples = max(sum(b.samples for b in minute), math.ceil(_MINUTE_BLOCKS * BLOCK_S * self._rate))
        full = sum(block.at_full_scale for block in minute) / samples
        if full >= self.clip_share:
            return full
        low, high = min(block.low for block in minute), max(block.high for block in minute)
        at_low = sum(block.at_low for block in minute if block.low == low)
        at_high = sum(block.at_high for block in minute if block.high == high)
        finest = min(block.finest_step for block in minute)
        if not _are_limits(at_low + at_high, samples, levels=1 + (high - low) / finest, clip_share=self.clip_share):
            return full
        # Only now, for few channels, all samples of the minute.
        values = np.concatenate([block.values[: block.samples] for block in minute if block.values is not None])
        values = _without_fill(values, longest=max(_FILL_MIN_SAMPLES, round(_FILL_S * self._rate)))
        return max(full, _at_limits(values, samples, finest=finest, clip_share=self.clip_share))


def _are_limits(at_extremes: int, samples: int, *, levels: float, clip_share: float) -> bool:
    """Tell whether so many samples at the two extremes are more than chance and few levels bring."""
    return at_extremes / samples >= max(clip_share, _LEVELS_FACTOR / levels)


def _without_fill(values: F32, *, longest: int) -> F32:
    """Leave out what telemetry fills in: more than `longest` samples of one value, wherever that value lies."""
    # Any run of more than `longest` has two of these; where none are alike, as nearly always, that is all it takes.
    some = values[:: longest // 2]
    if not (some[1:] == some[:-1]).any():
        return values
    edges = np.concatenate(([0], np.flatnonzero(np.diff(values)) + 1, [len(values)]))
    lengths = np.diff(edges)
    return values[np.repeat(lengths <= longest, lengths)]


def _at_limits(values: F32, samples: int, *, finest: float, clip_share: float) -> float:
    """Share of `samples` at the extremes; 0 where these are the crests of waves."""
    if not len(values):
        return 0.0
    low, high = float(values.min()), float(values.max())
    near = _NEAR_SHARE_OF_RANGE * (high - low)
    at = 0
    for at_extreme, beside in (
        (int(np.count_nonzero(values == low)), int(np.count_nonzero(values <= low + near))),
        (int(np.count_nonzero(values == high)), int(np.count_nonzero(values >= high - near))),
    ):
        if at_extreme >= max(_MIN_AT_EXTREME, beside - at_extreme):
            at += at_extreme
    return at / samples if _are_limits(at, samples, levels=1 + (high - low) / finest, clip_share=clip_share) else 0.0


def _count_spikes(run: F64, steps: F64, limit: float) -> int:
    """Count lone samples that leave their neighbours by `limit` and return, two samples from either end excluded."""
    if len(run) <= _SPIKE_CONTEXT:
        return 0
    there, back = steps[1:-2], -steps[2:-1]
    size = np.minimum(np.abs(there), np.abs(back))
    calm = np.maximum(np.abs(there - back), np.maximum(np.abs(steps[:-3]), np.abs(steps[3:]))) < size / 2
    return int(np.count_nonzero((size >= limit) & (np.sign(there) == np.sign(back)) & calm))
