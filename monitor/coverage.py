"""Which stretches of time have samples: what arrived late fills its gap, what arrived twice is an overlap."""

from bisect import bisect_left, bisect_right

# A stream that loses a sample in every packet has no more holes than this in any window that is looked at; where it
# has, the oldest are forgotten.
_MOST_STRETCHES = 1000


class Coverage:
    """Remembers what was covered within the newest `keep_ns`.

    Args:
        keep_ns: How far behind the newest sample is remembered, nanoseconds.
    """

    def __init__(self, *, keep_ns: int) -> None:
        self._keep_ns = keep_ns
        # Disjoint, ascending, ends excluded.
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def end_ns(self) -> int | None:
        """Where the newest stretch ends, nanoseconds since the epoch; None before any data."""
        return self._ends[-1] if self._ends else None

    def add(self, start_ns: int, end_ns: int, *, tolerance_ns: int) -> int:
        """Mark a stretch as covered.

        Args:
            start_ns, end_ns: From where and up to where, excluded, nanoseconds since the epoch.
            tolerance_ns: Stretches so far apart, or overlapping by so much, join without a gap or an overlap.

        Returns:
            How much of it had been covered before, nanoseconds; 0 where no more than the tolerance.
        """
        if self._ends and end_ns <= self._ends[-1] - self._keep_ns:
            return 0
        first = bisect_left(self._ends, start_ns - tolerance_ns)
        stop = bisect_right(self._starts, end_ns + tolerance_ns)
        held = range(first, stop)
        overlap_ns = sum(max(0, min(end_ns, self._ends[k]) - max(start_ns, self._starts[k])) for k in held)
        if held:
            start_ns, end_ns = min(start_ns, self._starts[first]), max(end_ns, self._ends[stop - 1])
        self._starts[first:stop], self._ends[first:stop] = [start_ns], [end_ns]
        self._forget()
        return overlap_ns if overlap_ns > tolerance_ns else 0

    def covered_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of a window has samples, nanoseconds."""
        pairs = zip(self._starts, self._ends, strict=True)
        return sum(max(0, min(end_ns, end) - max(start_ns, start)) for start, end in pairs)

    def gaps(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Count the holes between stretches within a window, and add up their lengths in nanoseconds."""
        holes = zip(self._ends[:-1], self._starts[1:], strict=True)
        lengths = [min(end_ns, stop) - max(start_ns, start) for start, stop in holes]
        inside = [length for length in lengths if length > 0]
        return len(inside), sum(inside)

    def _forget(self) -> None:
        horizon_ns = self._ends[-1] - self._keep_ns
        # The last one before the horizon stays: a hole that reaches into the window begins at its end.
        old = max(bisect_left(self._ends, horizon_ns) - 1, len(self._ends) - _MOST_STRETCHES)
        if old > 0:
            del self._starts[:old], self._ends[:old]
