"""What a trace's labels say of a detection: right, wrong, or nobody knows.

The rules, for samples at 100 Hz:

* A labelled P counts where there was data to judge it: from 5 s into a run of samples until 2 s before its end.
* A detection picks the P that is nearest to its onset, within 1.5 s; each P is picked once.
* A P is found if it is picked, or if a detection overlaps P - 1.5 s to S (P + 5 s without an S).
* A detection is a false alarm if it picks nothing and overlaps neither an earthquake (P - 1.5 s until its coda, the
  longer of 5 s and 3 (S - P) after S; 30 s around an arrival whose partner is not labelled) nor an interval of
  unknown truth. Time that is neither is the noise time, by whose hours false alarms are divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitor.spectrogram import Bool
from train.conditioning import snr_db
from train.dataset import Store
from train.outputs import Found, real_runs
from train.traceinfo import RATE_HZ, Interval, TraceInfo, merge_intervals

WARM_UP_S = 5.0
"""From the start of data until a detector must be awake."""
AFTER_S = 2.0
"""Data after a P without which it cannot be demanded."""
MATCH_S = 1.5
"""Farthest that an onset may be from the P it picks."""


@dataclass(frozen=True, slots=True)
class LabelledP:
    """A P that a detector should find.

    Attributes:
        index: The trace.
        sample: The arrival.
        s_sample: Its S, or None.
        snr_db: Signal-to-noise ratio of the P, 2 to 20 Hz, or None where it cannot be measured.
    """

    index: int
    sample: float
    s_sample: float | None
    snr_db: float | None


def demanded(store: Store, index: int) -> list[LabelledP]:
    """List the P arrivals of a trace that count."""
    info = store.traces[index]
    runs = [(a + WARM_UP_S * RATE_HZ, b - AFTER_S * RATE_HZ) for a, b in real_runs(info)]
    row = info.components.index(True)
    result = []
    for p, s in info.events:
        if p is None or not any(a <= p <= b for a, b in runs):
            continue
        # The measure looks at 4 s before P and 1.5 s after it.
        start = max(0, int(p) - 1000)
        piece = store.waveform(index, start, min(info.npts, int(p) + 1000))[row]
        result.append(LabelledP(index, p, s, snr_db(piece, p - start)))
    return result


def earthquakes(info: TraceInfo) -> tuple[Interval, ...]:
    """Where a detection is no false alarm because of a labelled earthquake."""
    before = MATCH_S * RATE_HZ
    spans = []
    for p, s in info.events:
        if p is not None and s is not None:
            spans.append((p - before, s + max(5 * RATE_HZ, 3 * (s - p))))
        elif p is not None:
            spans.append((p - before, p + 30 * RATE_HZ))
        elif s is not None:
            spans.append((s - 30 * RATE_HZ, s + 30 * RATE_HZ))
    return merge_intervals((max(0, int(a)), min(info.npts, int(b) + 1)) for a, b in spans)


def not_noise(info: TraceInfo) -> tuple[Interval, ...]:
    """Where a detection is no false alarm: earthquakes and what is unknown."""
    return merge_intervals((*earthquakes(info), *info.unknown))


def noise_samples(info: TraceInfo) -> Bool:
    """Samples that are noise and were there to be judged [shape=(npts,), dtype=bool]."""
    noise = np.zeros(info.npts, bool)
    for start, stop in real_runs(info):
        noise[start + round(WARM_UP_S * RATE_HZ) : stop] = True
    for start, stop in not_noise(info):
        noise[start:stop] = False
    return noise


def overlaps(found: Found, intervals: Sequence[Interval]) -> bool:
    """Tell whether a detection overlaps one of the intervals."""
    return any(found.onset < b and found.end >= a for a, b in intervals)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trace's detections come to.

    Attributes:
        picked: For each demanded P, the detection that picked it, or None.
        found: For each demanded P, whether a detection overlaps its earthquake.
        false: The false alarms.
    """

    picked: list[int | None]
    found: list[bool]
    false: list[int]


def judge(info: TraceInfo, wanted: Sequence[LabelledP], detections: Sequence[Found]) -> Verdict:
    """Compare detections with the labels of a trace."""
    limit = MATCH_S * RATE_HZ
    # P arrivals that are not demanded take their detections too, or those would be free for another P.
    arrivals = [p for p, _ in info.events if p is not None]
    pairs = sorted(
        (abs(d.onset - p), i, j)
        for i, p in enumerate(arrivals)
        for j, d in enumerate(detections)
        if abs(d.onset - p) <= limit
    )
    of_arrival: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in pairs:
        if i not in of_arrival and j not in taken:
            of_arrival[i] = j
            taken.add(j)
    by_sample = {arrivals[i]: j for i, j in of_arrival.items()}
    picked = [by_sample.get(want.sample) for want in wanted]
    found = [
        pick is not None
        or any(
            overlaps(
                d,
                [(int(w.sample - limit), int(w.s_sample if w.s_sample is not None else w.sample + 5 * RATE_HZ) + 1)],
            )
            for d in detections
        )
        for w, pick in zip(wanted, picked, strict=True)
    ]
    excused = not_noise(info)
    false = [j for j, d in enumerate(detections) if j not in taken and not overlaps(d, excused)]
    return Verdict(picked, found, false)
