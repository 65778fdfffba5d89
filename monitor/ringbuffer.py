"""A ring of the newest samples of one channel on an absolute grid; gaps are marked, never filled."""

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class RingBuffer:
    """Holds the newest `capacity` samples by absolute index.

    Args:
        capacity: Samples held, at least 1; 9 bytes each.

    Raises:
        ValueError: `capacity` is less than 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"ring capacity is {capacity} samples; accepted: 1 or more")
        self._samples = np.zeros(capacity, np.float64)
        self._valid = np.zeros(capacity, bool)
        self._end: int | None = None

    @property
    def capacity(self) -> int:
        """Samples that the ring can hold."""
        return len(self._samples)

    @property
    def end(self) -> int | None:
        """Index after the newest sample ever written; None before the first."""
        return self._end

    @property
    def fill(self) -> float:
        """Share of the ring that holds real samples, 0 to 1."""
        return float(np.count_nonzero(self._valid)) / len(self._valid)

    def write(self, index: int, samples: F64) -> int:
        """Write consecutive samples.

        What lies before `end` was received before and is dropped: first received wins. What lies between `end` and
        `index` is a gap.

        Args:
            index: Absolute index of the first sample.
            samples: [shape=(n,), dtype=float64]

        Returns:
            Number of samples dropped as overlap.
        """
        if not len(samples):
            return 0
        if self._end is None:
            self._end = index
        overlap = min(max(0, self._end - index), len(samples))
        if overlap == len(samples):
            return overlap
        samples, index = samples[overlap:], index + overlap
        if index > self._end:
            self._mark_gap(index)
        kept = samples[-self.capacity :]
        self._end = index + len(samples)
        for at, piece in self._pieces(self._end - len(kept), len(kept)):
            self._samples[at] = kept[piece]
            self._valid[at] = True
        return overlap

    def read(self, start: int, stop: int) -> tuple[F64, Bool]:
        """Copy the samples of a range of indices.

        Args:
            start, stop: Absolute indices, `stop` excluded.

        Returns:
            Samples [shape=(stop - start,), dtype=float64], 0 where there are none, and whether each is real.
        """
        samples, valid = np.empty(stop - start, np.float64), np.zeros(stop - start, bool)
        if self._end is not None:
            first, last = max(start, self._end - self.capacity), min(stop, self._end)
            for at, piece in self._pieces(first, last - first) if first < last else ():
                target = slice(piece.start + first - start, piece.stop + first - start)
                valid[target] = self._valid[at]
                samples[target] = self._samples[at]
        if not valid.all():
            samples[~valid] = 0.0
        return samples, valid

    def next_real(self, index: int) -> int | None:
        """Index of the first real sample at or after `index` that the ring holds; None if there is none."""
        if self._end is None or index >= self._end:
            return None
        first = max(index, self._end - self.capacity)
        _, valid = self.read(first, self._end)
        return first + int(np.argmax(valid)) if valid.any() else None

    def _mark_gap(self, index: int) -> None:
        assert self._end is not None
        length = min(index - self._end, self.capacity)
        for at, _ in self._pieces(index - length, length):
            self._valid[at] = False
        self._end = index

    def _pieces(self, index: int, length: int) -> list[tuple[slice, slice]]:
        """Where `length` samples from `index` lie in the arrays: one slice, or two where the ring wraps."""
        at = index % self.capacity
        head = min(length, self.capacity - at)
        pieces = [(slice(at, at + head), slice(0, head))]
        if head < length:
            pieces.append((slice(0, length - head), slice(head, length)))
        return pieces
