"""One channel's segments put in order: the first that brings a sample wins, a hole is given time to be filled.

Several servers may bring the same station, and telemetry brings packets late or twice. What is passed on is in order of
time; a segment behind a hole is held back until the hole is filled or the data are `wait_s` further on.
"""

import heapq
from dataclasses import dataclass

from monitor.channel import TIME_TOLERANCE_SAMPLES
from monitor.records import Segment
from monitor.timebase import NS_PER_SECOND

# Held back at most, whatever the wait: a channel that sends nothing but holes must not fill the memory.
_MOST_HELD = 512
# For so long by this computer's clock nothing but old data must come until the recorder's clock is taken to have been
# set back. Longer than a second server lags behind the first.
_SET_BACK_S = 300.0


@dataclass(slots=True)
class ReorderCounts:
    """What happened since the start, in segments."""

    duplicates: int = 0
    out_of_order: int = 0
    clock_set_back: int = 0


class Reorder:
    """Orders one channel.

    Args:
        wait_s: How far the data must go on behind a hole until it is given up, seconds of stream time.
    """

    def __init__(self, wait_s: float) -> None:
        self.counts = ReorderCounts()
        self._wait_ns = round(wait_s * NS_PER_SECOND)
        self._expected_ns: int | None = None
        self._newest_ns = 0
        # (start, number, segment): the number keeps segments of one start from being compared.
        self._held: list[tuple[int, int, Segment]] = []
        self._number = 0
        self._old_since_ns: int | None = None

    @property
    def expected_ns(self) -> int | None:
        """Time of the next sample in order, nanoseconds since the epoch; None before any."""
        return self._expected_ns

    @property
    def held_from_ns(self) -> int | None:
        """Start of the oldest segment that is held back; None where none is."""
        return self._held[0][0] if self._held else None

    def push(self, segment: Segment, *, received_ns: int) -> list[Segment]:
        """Take a segment.

        Args:
            segment: As it was received.
            received_ns: When, by a clock that goes on evenly, nanoseconds; only differences count.

        Returns:
            What is next in order, oldest first; may be nothing.
        """
        if not segment.npts:
            return []
        tolerance_ns = round(TIME_TOLERANCE_SAMPLES * NS_PER_SECOND / segment.sampling_rate)
        if self._expected_ns is not None and segment.next_ns <= self._expected_ns + tolerance_ns:
            self.counts.duplicates += 1
            if self._old_since_ns is None:
                self._old_since_ns = received_ns
            if received_ns - self._old_since_ns < _SET_BACK_S * NS_PER_SECOND:
                return []
            # Nothing new for minutes: the recorder's clock was ahead and has been set right.
            self.counts.clock_set_back += 1
            self._expected_ns, self._held = None, []
        self._old_since_ns = None
        if self._held and segment.starttime_ns < self._newest_ns:
            self.counts.out_of_order += 1
        self._newest_ns = segment.next_ns if self._expected_ns is None else max(self._newest_ns, segment.next_ns)
        heapq.heappush(self._held, (segment.starttime_ns, self._number, segment))
        self._number += 1
        return self._ready(tolerance_ns)

    def forget(self) -> None:
        """Know nothing of what came: the recorder's clock was set."""
        self._expected_ns, self._held, self._old_since_ns = None, [], None

    def flush(self) -> list[Segment]:
        """Give what is held back, hole or not."""
        ready = [heapq.heappop(self._held)[2] for _ in range(len(self._held))]
        for segment in ready:
            self._expected_ns = max(self._expected_ns or 0, segment.next_ns)
        return ready

    def _ready(self, tolerance_ns: int) -> list[Segment]:
        ready = []
        while self._held:
            segment = self._held[0][2]
            expected = self._expected_ns
            hole = expected is not None and segment.starttime_ns > expected + tolerance_ns
            waiting = hole and self._newest_ns - segment.starttime_ns < self._wait_ns
            if waiting and len(self._held) <= _MOST_HELD:
                break
            heapq.heappop(self._held)
            if expected is not None and segment.next_ns <= expected + tolerance_ns:
                self.counts.duplicates += 1
                continue
            ready.append(segment)
            self._expected_ns = segment.next_ns
        return ready
