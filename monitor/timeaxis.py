"""Ticks of a time axis in UTC: at round times, labelled with no more digits than their spacing needs."""

from bisect import bisect_left
from dataclasses import dataclass

from monitor.timebase import NS_PER_SECOND, format_time

_DAY_NS = 86_400 * NS_PER_SECOND

# Steps that divide the next larger unit, so that ticks fall on the same times from day to day.
_STEPS_NS = (
    *(round(seconds * NS_PER_SECOND) for seconds in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)),
    *(seconds * NS_PER_SECOND for seconds in (1, 2, 5, 10, 15, 30)),
    *(minutes * 60 * NS_PER_SECOND for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * 3600 * NS_PER_SECOND for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY_NS for days in (1, 2, 5, 10, 30, 100, 365)),
)


@dataclass(frozen=True, slots=True)
class TimeTicks:
    """Where to put ticks, and what to write there.

    Attributes:
        times_ns: Tick times, nanoseconds since the epoch.
        labels: One text each; the first of a new day carries the date on a second line.
        title: For the axis: `Time (UTC)` and the date, or the first and the last.
    """

    times_ns: tuple[int, ...]
    labels: tuple[str, ...]
    title: str


def utc_ticks(start_ns: int, end_ns: int, *, at_most: int = 10) -> TimeTicks:
    """Choose ticks between two times, both included.

    Args:
        start_ns: Left end, nanoseconds since the epoch.
        end_ns: Right end, nanoseconds since the epoch, after the left one.
        at_most: Upper bound of the number of steps.

    Returns:
        Ticks at multiples of a round step since the epoch.

    Raises:
        ValueError: The end is not after the start.
    """
    if end_ns <= start_ns:
        raise ValueError(f"time axis ends at {end_ns} ns, not after its start {start_ns} ns")
    index = bisect_left(_STEPS_NS, (end_ns - start_ns) / at_most)
    step = _STEPS_NS[min(index, len(_STEPS_NS) - 1)]
    first = -(-start_ns // step) * step
    times = tuple(range(first, end_ns + 1, step))
    labels = []
    day = start_ns // _DAY_NS
    for time_ns in times:
        date = format_time(time_ns, digits=0)[:10]
        if step >= _DAY_NS:
            labels.append(date)
            continue
        label = _clock_label(time_ns, step)
        if time_ns // _DAY_NS != day:
            day = time_ns // _DAY_NS
            label += f"\n{date}"
        labels.append(label)
    dates = list(dict.fromkeys(format_time(time_ns, digits=0)[:10] for time_ns in (start_ns, end_ns)))
    return TimeTicks(times, tuple(labels), f"Time (UTC), {' to '.join(dates)}")


def _clock_label(time_ns: int, step_ns: int) -> str:
    if step_ns >= 60 * NS_PER_SECOND:
        return format_time(time_ns, digits=0)[11:16]
    digits = 0
    while step_ns * 10**digits % NS_PER_SECOND:
        digits += 1
    return format_time(time_ns, digits=digits)[11:].rstrip("Z")
