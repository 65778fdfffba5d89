"""What a neighbour picked: in a network's active time, what nobody picked at one of its stations is not known.

An earthquake that was picked at one station passed the others as well. Where nobody picked it there, it may be plain to
see all the same, and who trains on that as noise learns from the labels' mistakes. Outside of the labelled earthquakes
such time counts as unknown.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from monitor.timebase import NS_PER_SECOND
from train.conditioning import true_runs
from train.traceinfo import RATE_HZ, TraceInfo, merge_intervals
from train.truth import earthquakes

BEFORE_S, AFTER_S = 15.0, 35.0
"""Around a neighbour's P: P within a network of 100 km arrive within about 15 s of each other, and the S 12 s later."""

_STEP_NS = round(NS_PER_SECOND / RATE_HZ)


def with_neighbours(traces: Sequence[TraceInfo]) -> list[TraceInfo]:
    """The traces, with what their neighbours recorded among what is unknown.

    Args:
        traces: All traces; `continuous` ones are changed. A neighbour is another station of the same network code.
    """
    picked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for info in traces:
        if info.starttime_ns is not None and info.kind == "continuous":
            arrivals = (pick.sample for pick in info.picks if pick.phase == "P")
            picked[_network(info)] += [(info.starttime_ns + round(p * _STEP_NS), info.station) for p in arrivals]
    for of in picked.values():
        of.sort()
    return [_with(info, picked[_network(info)]) for info in traces]


def _network(info: TraceInfo) -> str:
    return info.station.partition(".")[0]


def _with(info: TraceInfo, picked: Sequence[tuple[int, str]]) -> TraceInfo:
    if info.starttime_ns is None or info.kind != "continuous":
        return info
    before, after = round(BEFORE_S * RATE_HZ), round(AFTER_S * RATE_HZ)
    first = bisect_left(picked, (info.starttime_ns - after * _STEP_NS, ""))
    last = bisect_right(picked, (info.starttime_ns + (info.npts + before) * _STEP_NS, ""))
    at = [
        (time_ns - info.starttime_ns) // _STEP_NS for time_ns, station in picked[first:last] if station != info.station
    ]
    unlabelled = np.ones(info.npts, bool)
    for start, stop in earthquakes(info):
        unlabelled[start:stop] = False
    around = np.zeros(info.npts, bool)
    for p in at:
        around[max(0, p - before) : max(0, p + after)] = True
    inside = true_runs(around & unlabelled)
    return replace(info, unknown=merge_intervals((*info.unknown, *inside))) if inside else info
