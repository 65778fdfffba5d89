"""What somebody has looked at: `reviewed.csv`, earthquakes that nobody picked, in recordings that are used here.

A detector that is right where the labels are silent would be punished for it, and its threshold with it. The surest
false alarms of this detector and of STA/LTA on the dev split were looked at with the other stations of the network
beside them; where it is an earthquake for a person, too, the truth counts as unknown: neither right nor wrong. What
was no earthquake, or in doubt, has stayed a false alarm. Another version has other false alarms: they are looked at
before it is compared, or the one whose were would seem the better. The table names stations and times only, so it holds
for whoever has these recordings.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from monitor.timebase import NS_PER_SECOND, parse_time
from train.traceinfo import RATE_HZ, Interval, TraceInfo, cut_open, merge_intervals

TABLE = Path(__file__).with_name("reviewed.csv")

Reviewed = Mapping[str, tuple[Interval, ...]]
"""By station (NET.STA): [start, end) in nanoseconds since the epoch."""


def read_reviewed(path: Path = TABLE) -> Reviewed:
    """Read the table: network, station, start, end, why.

    Raises:
        ValueError: A row cannot be understood; the message names it.
    """
    spans: dict[str, list[Interval]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            try:
                start, end = parse_time(row["start"]), parse_time(row["end"])
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path}:{number}: {error}; accepted: network,station,start,end,why") from error
            spans[f"{row['network']}.{row['station']}"].append((start, end))
    return {station: tuple(of) for station, of in spans.items()}


def with_reviewed(info: TraceInfo, reviewed: Reviewed) -> TraceInfo:
    """The trace with these stretches among what is unknown; labelled arrivals stay known."""
    if info.starttime_ns is None:
        return info
    step = round(NS_PER_SECOND / RATE_HZ)
    spans = [
        (max(0, (start - info.starttime_ns) // step), min(info.npts, (end - info.starttime_ns) // step))
        for start, end in reviewed.get(info.station, ())
    ]
    inside = [(start, end) for start, end in spans if start < end]
    if not inside:
        return info
    return replace(info, unknown=merge_intervals((*info.unknown, *cut_open(merge_intervals(inside), info.picks))))
