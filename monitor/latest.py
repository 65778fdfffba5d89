"""The latest time that it can be, where this computer's clock is set back and may be wrong now, or was before."""

from monitor.clock import Clock
from monitor.timebase import NS_PER_SECOND

# Corrections of a clock that is kept are smaller.
_SLEW_NS = 2 * NS_PER_SECOND
# A clock that was set back and stays there for so long is believed.
_BELIEVED_AFTER_NS = 24 * 3600 * NS_PER_SECOND


class LatestTime:
    """Goes on where the clock is set back; asked at least every few minutes.

    Args:
        clock: This computer's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen_ns = clock.monotonic_ns()
        # UTC less the time that goes on evenly, when the clock was last not behind itself.
        self._offset_ns = clock.now_ns() - self._seen_ns

    def now_ns(self) -> int:
        """UTC, nanoseconds since the epoch, by the clock as it is or as it was, whichever is later."""
        monotonic_ns = self._clock.monotonic_ns()
        offset_ns = self._clock.now_ns() - monotonic_ns
        if offset_ns > self._offset_ns - _SLEW_NS or monotonic_ns - self._seen_ns > _BELIEVED_AFTER_NS:
            self._offset_ns, self._seen_ns = offset_ns, monotonic_ns
        return monotonic_ns + self._offset_ns
