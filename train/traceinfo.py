"""What training knows about one trace: its labels, what is unknown, where there is no data."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

RATE_HZ = 100.0
"""Sampling rate of everything in the store."""

UNKNOWN_HALF_S = 2.0
"""Half width of the interval masked round an arrival that may or may not be real (data/README.md)."""

LABEL_KEEP_S = 0.5
"""A labelled pick always wins: nothing is masked this close to one."""

MAX_S_MINUS_P_S = 60.0
"""Longest S minus P taken as one event; beyond about 500 km, far outside what a local monitor is for."""

Phase = Literal["P", "S"]
Kind = Literal["event", "noise", "other", "continuous"]
Split = Literal["train", "dev"]
Interval = tuple[int, int]
Place = tuple[int, int]
"""Index of a trace in the store, and a sample."""
EventPair = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Pick:
    """One labelled arrival.

    Attributes:
        phase: P or S.
        sample: Samples from the start of the trace at 100 Hz, fractions allowed.
        label_source: Who said so: `manual`, `automatic`, `crosslabel`, `catalog` (the data set does not tell).
        prob: Strength of the label, 0 to 1; 1 for analysts.
        n_models: Models that agree, 0 where not known.
    """

    phase: Phase
    sample: float
    label_source: str = "catalog"
    prob: float = 1.0
    n_models: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceInfo:
    """One trace of the store; samples are indices at 100 Hz from its start, intervals are [start, end).

    Attributes:
        name: Unique in the store: source, then the name in the source.
        dataset: The data set it is from (a source folder may hold several).
        source: Name of the source in the settings.
        kind: `event`, `noise`, `other` (neither) or `continuous` (anything).
        split: `train` or `dev`.
        station: `NET.STA`.
        instrument: SEED instrument code: H seismometer, N accelerometer, P geophone, L low gain; "" not known.
        label_source: Where the labels, or the claim that there is nothing, come from.
        noise_type: For example `easy`, `hard`, `rockfall`; "" where not given.
        npts: Samples per component.
        components: Which of Z, N, E hold data; the others are exactly zero.
        starttime_ns: Time of the first sample, or None where not known.
        bandwidth_hz: Highest frequency with signal, as measured from the spectrum; 50 at most.
        clipped: A component looks clipped.
        snr_db: Signal-to-noise ratio of the first P, or None.
        weight: Relative sampling weight of this trace.
        picks: All labelled arrivals, by time.
        unknown: Where the truth is not known: to be left out of the loss.
        gaps: Where there is no data; all components are zero there.
        events: P and S that belong together, see `pair_phases`.
    """

    name: str
    dataset: str
    source: str
    kind: Kind
    split: Split
    station: str
    instrument: str
    label_source: str
    noise_type: str
    npts: int
    components: tuple[bool, bool, bool]
    starttime_ns: int | None
    bandwidth_hz: float
    clipped: bool
    snr_db: float | None
    weight: float
    picks: tuple[Pick, ...] = ()
    unknown: tuple[Interval, ...] = ()
    gaps: tuple[Interval, ...] = ()
    events: tuple[EventPair, ...] = ()


def pair_phases(picks: Iterable[Pick]) -> tuple[EventPair, ...]:
    """Pair each P with its S.

    The picks are cut into runs, some P followed by some S. In a run the last P and the first S are matched in order, as
    many as there are of both: P S is one event, P P S gives the S to the second P, and P P S S (two events whose
    S-P time is longer than the time between them) is matched first to first. S - P is at most 60 s.

    Returns:
        (P sample, S sample) by time; None for the one that is missing.
    """
    pairs: list[EventPair] = []
    waiting: list[float] = []
    answered: list[float] = []

    def close() -> None:
        limit = MAX_S_MINUS_P_S * RATE_HZ
        near = [p for p in waiting if answered and answered[0] - p <= limit]
        pairs.extend((p, None) for p in waiting if p not in near)
        near_s, spare = answered[: len(near)], answered[len(near) :]
        early = len(near) - len(near_s)
        pairs.extend((p, None) for p in near[:early])
        for p, s in zip(near[early:], near_s, strict=True):
            pairs.extend([(p, s)] if s - p <= limit else [(p, None), (None, s)])
        pairs.extend((None, s) for s in spare)
        waiting.clear()
        answered.clear()

    for pick in sorted(picks, key=lambda pick: (pick.sample, pick.phase)):
        if pick.phase == "P":
            if answered:
                close()
            waiting.append(pick.sample)
        else:
            answered.append(pick.sample)
    close()
    return tuple(sorted(pairs, key=lambda pair: pair[0] if pair[0] is not None else pair[1] or 0.0))


def merge_intervals(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Sort intervals, join those that touch, and drop empty ones."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)


def unknown_intervals(weak: Iterable[float], picks: Iterable[Pick], npts: int) -> tuple[Interval, ...]:
    """Lay a masked interval round each weak arrival, and cut it open round labelled ones.

    Args:
        weak: Samples of the arrivals of unknown truth. One within 0.5 s of a labelled pick is that pick, and ignored.
        picks: Labelled arrivals.
        npts: Length of the trace.

    Returns:
        Disjoint intervals by time, within the trace.
    """
    half = UNKNOWN_HALF_S * RATE_HZ
    labelled = sorted(pick.sample for pick in picks)
    masked = merge_intervals(
        (max(0, int(sample - half)), min(npts, int(sample + half) + 1))
        for sample in weak
        if not _near(labelled, sample, LABEL_KEEP_S * RATE_HZ)
    )
    return cut_open(masked, picks)


def cut_open(masked: Sequence[Interval], picks: Iterable[Pick]) -> tuple[Interval, ...]:
    """Leave out of disjoint intervals what lies within 0.5 s of a labelled arrival."""
    keep = LABEL_KEEP_S * RATE_HZ
    labelled = sorted(pick.sample for pick in picks)
    result: list[Interval] = []
    for first, end in masked:
        start = first
        for sample in labelled[bisect_left(labelled, start - keep) : bisect_right(labelled, end + keep)]:
            result.append((start, min(end, int(sample - keep))))
            start = max(start, int(sample + keep) + 1)
        result.append((start, end))
    return merge_intervals(result)


def _near(ordered: Sequence[float], value: float, distance: float) -> bool:
    after = bisect_left(ordered, value - distance)
    return after < len(ordered) and ordered[after] <= value + distance
