"""A ring of the newest rows of a table whose rows have absolute indices: spectrogram frames, outputs, bins."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.generic]


class RowRing:
    """Holds the newest rows; what was never written reads as `missing`.

    Args:
        capacity: Rows held, at least 1.
        width: Values of a row.
        dtype: Of the values.
        missing: What stands for a row that there is not.
    """

    def __init__(self, capacity: int, width: int, *, dtype: npt.DTypeLike, missing: float) -> None:
        self._rows = np.full((capacity, width), missing, dtype)
        self._missing = missing
        self.end: int | None = None
        self.first: int | None = None

    @property
    def capacity(self) -> int:
        """Rows held."""
        return len(self._rows)

    def write(self, index: int, rows: Rows) -> bool:
        """Write consecutive rows.

        Args:
            index: Of the first one. What lies between `end` and it is missing.
            rows: [shape=(n, width)]

        Returns:
            Whether time went back: the rows from `index` on were there and were replaced, those behind are forgotten.
        """
        back = self.end is not None and index < self.end
        if self.end is None or index <= self.end - self.capacity:
            self._rows[:] = self._missing
            self.first = index
        elif back:
            self._fill(index, self.end)
            self.first = index if self.first is None else min(index, self.first)
        elif index > self.end:
            self._fill(max(self.end, index - self.capacity), index)
        kept = rows[-self.capacity :]
        self.end = index + len(rows)
        at = (self.end - len(kept)) % self.capacity
        head = min(len(kept), self.capacity - at)
        self._rows[at : at + head] = kept[:head]
        self._rows[: len(kept) - head] = kept[head:]
        return back

    def read(self, start: int, stop: int) -> Rows:
        """Copy rows `start` to `stop` (excluded) [shape=(stop - start, width)]."""
        result = np.full((max(0, stop - start), self._rows.shape[1]), self._missing, self._rows.dtype)
        if self.end is None or self.first is None:
            return result
        low, high = max(start, self.first, self.end - self.capacity), min(stop, self.end)
        if low < high:
            result[low - start : high - start] = self._rows[np.arange(low, high) % self.capacity]
        return result

    def newest(self, most: int) -> tuple[int, Rows]:
        """Copy the newest rows, `most` at most; the index of the first, and the rows."""
        if self.end is None or self.first is None:
            return 0, self.read(0, 0)
        start = max(self.first, self.end - min(most, self.capacity))
        return start, self.read(start, self.end)

    def _fill(self, start: int, stop: int) -> None:
        self._rows[np.arange(start, stop) % self.capacity] = self._missing
