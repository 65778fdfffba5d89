"""Streaming resampler: any sampling rate to the model's, anti-aliased, linear phase, on an absolute grid.

Output sample `n` is the input at `n / output_rate` seconds since the epoch: a sum over the input around that very
moment, weighted by a Kaiser-windowed sinc (Smith and Gossett, 1984, "A flexible sampling-rate conversion method").
It is symmetric, so it delays nothing; it looks ahead by `half_width_s`.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from monitor.timebase import NS_PER_SECOND

F64 = npt.NDArray[np.float64]

_ZERO_CROSSINGS = 12
# Kaiser, 1974: 70 dB of stop-band attenuation; with 12 zero crossings the pass band ends at 0.36 of the lower rate
# and the stop band begins at 0.54.
_BETA = 0.1102 * (70.0 - 8.7)
_CUTOFF = 0.45
# Positions between two input samples are rounded to this part of one: an error below -65 dB at the pass band's end.
_PHASES = 2048
# Rates closer than this are one rate: the samples are only moved to the nearest grid point.
_SAME_RATE = 1e-6
# Bounds the memory of one call, however long the run of samples that is pushed at once.
_OUTPUTS_AT_ONCE = 65_536


@lru_cache(maxsize=16)
def _kernel(input_rate: float, output_rate: float) -> tuple[int, F64]:
    """Half width in input samples and the weights [shape=(2 * half, _PHASES + 1)]."""
    lower = min(input_rate, output_rate)
    scale = 2 * _CUTOFF * lower / input_rate
    half = int(np.ceil(_ZERO_CROSSINGS * input_rate / lower))
    taps = np.arange(-half + 1, half + 1)[:, None]
    distance = taps - np.arange(_PHASES + 1) / _PHASES
    shape = np.sqrt(np.maximum(0.0, 1.0 - (distance / half) ** 2))
    weights = np.sinc(scale * distance) * np.i0(_BETA * shape)
    weights[np.abs(distance) >= half] = 0.0
    return half, np.ascontiguousarray(weights / weights.sum(axis=0))


class Resampler:
    """Resamples one unbroken run of samples.

    Args:
        input_rate, output_rate: Samples per second; `output_rate` is a whole number.
        starttime_ns: Time of the first input sample, nanoseconds since the epoch.

    Raises:
        ValueError: A rate is not positive and finite.
    """

    def __init__(self, input_rate: float, output_rate: int, starttime_ns: int) -> None:
        for rate in (input_rate, output_rate):
            if not 0 < rate < float("inf"):
                raise ValueError(f"sampling rate {rate} Hz; accepted: positive and finite")
        self._passes = abs(input_rate / output_rate - 1) < _SAME_RATE
        self._rate = float(output_rate) if self._passes else float(input_rate)
        self._output_rate = output_rate
        self._start_ns = starttime_ns
        scaled = starttime_ns * output_rate
        self._next = -(-scaled // NS_PER_SECOND)
        if self._passes:
            self._next = (2 * scaled + NS_PER_SECOND) // (2 * NS_PER_SECOND)
            self._half = 0
            return
        self._half, self._weights = _kernel(self._rate, float(output_rate))
        self._held = np.empty(0)
        self._held_from = -self._half  # index of the first held sample; the run starts at 0
        self._received = 0

    @property
    def half_width_s(self) -> float:
        """How far the filter looks ahead and back, seconds."""
        return self._half / self._rate

    @property
    def rate(self) -> float:
        """The rate at which input samples are taken to follow each other, Hz."""
        return self._rate

    @property
    def next_index(self) -> int:
        """Absolute index of the next output sample."""
        return self._next

    @property
    def offset_ns(self) -> int:
        """Time of an input sample minus that of the grid point it was moved to; 0 where the rates differ."""
        if not self._passes:
            return 0
        grid = (2 * self._start_ns * self._output_rate + NS_PER_SECOND) // (2 * NS_PER_SECOND)
        return self._start_ns - grid * NS_PER_SECOND // self._output_rate

    def push(self, samples: npt.NDArray[np.generic]) -> tuple[int, F64]:
        """Take the next input samples.

        Args:
            samples: [shape=(n,)] any real dtype, finite.

        Returns:
            Absolute index of the first output sample and the samples [shape=(m,), dtype=float64].
        """
        values = samples.astype(np.float64)
        if self._passes:
            first, self._next = self._next, self._next + len(values)
            return first, values
        if not len(values):
            return self._next, values
        if self._received == 0:
            # The run's first value stands in for the past that the filter would look at.
            values = np.concatenate((np.full(self._half, values[0]), values))
            self._received = -self._half
        self._held = np.concatenate((self._held, values))
        self._received += len(values)
        return self._produce(self._received - self._half)

    def flush(self) -> tuple[int, F64]:
        """End the run: give the outputs up to its last sample; the last value stands in for what would follow."""
        if self._passes or not self._received:
            return self._next, np.empty(0)
        self._held = np.concatenate((self._held, np.full(self._half, self._held[-1])))
        # One past the last sample's own position, so that an output exactly there is given.
        return self._produce(self._received, last=True)

    def _produce(self, limit: int, *, last: bool = False) -> tuple[int, F64]:
        """Outputs whose position is below input index `limit` (at most `limit - 1` for the last ones)."""
        first = self._next
        ahead = self._start_ns + round((limit - (1 if last else 0)) * NS_PER_SECOND / self._rate)
        stop = ahead * self._output_rate // NS_PER_SECOND + 1
        pieces = [
            self._filter(np.arange(at, min(at + _OUTPUTS_AT_ONCE, stop)), limit)
            for at in range(first, stop, _OUTPUTS_AT_ONCE)
        ]
        result = np.concatenate(pieces) if pieces else np.empty(0)
        self._next = first + len(result)
        # Keep what the next output's filter reaches back to.
        position, _ = self._position(np.array([self._next]))
        drop = int(position[0]) - self._half + 1 - self._held_from
        if drop > 0:
            self._held = self._held[drop:].copy()
            self._held_from += drop
        return first, result

    def _position(self, index: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Input sample at or before each output and the rounded part of a sample after it."""
        since_ns = index * (NS_PER_SECOND // self._output_rate) - self._start_ns
        remainder = NS_PER_SECOND % self._output_rate
        position = (since_ns + index * remainder / self._output_rate) * (self._rate / NS_PER_SECOND)
        whole = np.floor(position).astype(np.int64)
        phase = np.rint((position - whole) * _PHASES).astype(np.int64)
        return whole, phase

    def _filter(self, index: npt.NDArray[np.int64], limit: int) -> F64:
        whole, phase = self._position(index)
        whole, phase = whole[whole < limit], phase[whole < limit]
        start = whole - self._half + 1 - self._held_from
        result = np.zeros(len(whole))
        step = int(start[1] - start[0]) if len(start) > 1 else 1
        # With a whole-number ratio both phase and step are constant: slices instead of look-ups, the same sums.
        regular = len(start) > 0 and step > 0 and bool((phase == phase[0]).all() and (np.diff(start) == step).all())
        for tap, weights in enumerate(self._weights):
            if regular:
                at = int(start[0]) + tap
                result += weights[phase[0]] * self._held[at : at + step * len(start) : step][: len(start)]
            else:
                result += weights[phase] * self._held[start + tap]
        return result
