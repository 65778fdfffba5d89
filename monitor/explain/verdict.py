"""Why a moment was a detection or was not: what the detector's rules made of the outputs around it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monitor.detector import Event
from monitor.explain import stalta
from monitor.explain.moment import F64, LOOK_AFTER_S, Moment, Span
from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, seconds_to_ns

Kind = Literal["detection", "too_short", "below_threshold", "gap", "masked", "warming_up"]

# A person's time is read off a plot or a catalogue; the network's score peaks some seconds behind a P.
_NEAR_BEFORE_S = 3.0
_NEAR_AFTER_S = 10.0
# A detection is what is meant by a time so long before its onset.
_ONSET_TOLERANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class StaLta:
    """What STA/LTA says of the vertical, or the first component that there is.

    Attributes:
        seed_id: On which channel.
        highest: Ratio; None where there were too few samples for one.
        time_ns: When it was highest.
    """

    seed_id: str
    highest: float | None
    time_ns: int | None

    @property
    def triggers(self) -> bool:
        """Would it have triggered at the usual threshold?"""
        return self.highest is not None and self.highest >= stalta.TRIGGER


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided at a moment, and by which facts.

    Attributes:
        kind: `detection`; or why not: the score was above the threshold for too short a time (`too_short`) or never
            (`below_threshold`), or there was nothing to judge: no data (`gap`), data that cannot be the ground's
            (`masked`), or too few for a background (`warming_up`).
        looked_at: Where the score was looked for.
        step: The output that is explained: the one that decided, else the highest one near the moment.
        event, detection: Of a detection, as last known.
        peak_step: Of the highest event probability.
        peak: Highest probability of earthquake, P and S in `looked_at`, or within the detection.
        longest_above_s: Longest time that the score was at or above the threshold, seconds.
        complete: seed_id -> share of what the output rests on that was judged, 0 to 1.
        nearest: The nearest detection within a minute, of a moment that is none's.
        sta_lta: What STA/LTA says there.
    """

    kind: Kind
    looked_at: Span
    step: int
    event: Event | None
    detection: Detection | None
    peak_step: int
    peak: tuple[float, float, float]
    longest_above_s: float
    complete: dict[str, float]
    nearest: Detection | None
    sta_lta: StaLta


def judge(moment: Moment) -> Verdict:
    """Find what was decided at a moment, and by which facts."""
    found = _detection_at(moment)
    if found is None:
        span = Span(moment.time_ns - seconds_to_ns(_NEAR_BEFORE_S), moment.time_ns + seconds_to_ns(_NEAR_AFTER_S))
    else:
        span = _span_of(moment, found[0])
    # Without data the network says something, too, and nobody heeds it.
    first, outputs, free = moment.outputs(*span)
    free = free.copy()
    if found is None:
        # What another detection is made of says nothing of this moment.
        for event, _ in _events(moment):
            free[max(0, event.first_step - first) : max(0, event.last_active_step + 1 - first)] = False
    scores = np.where(free, outputs[:, 0], np.float32(0))
    peak_step = first + int(np.argmax(scores)) if len(scores) else moment.step_at(moment.time_ns)
    step = peak_step if found is None else found[0].trigger_step
    kind: Kind = "below_threshold"
    there = moment.judges(moment.time_ns)
    if found is not None:
        kind = "detection"
    elif scores.max(initial=0) >= moment.threshold:
        kind = "too_short"
    elif there != "judged":
        kind = "gap" if there == "outside" else there
        step = moment.step_at(moment.time_ns)
    return Verdict(
        kind=kind,
        looked_at=span,
        step=step,
        event=None if found is None else found[0],
        detection=None if found is None else found[1],
        peak_step=peak_step,
        peak=(
            float(scores.max(initial=0)),
            float(outputs[free, 1].max(initial=0)),
            float(outputs[free, 2].max(initial=0)),
        ),
        longest_above_s=_longest(scores >= moment.threshold) * moment.step_s,
        complete=_complete(moment, step),
        nearest=None if found is not None else _nearest(moment),
        sta_lta=_sta_lta(moment, span),
    )


def sta_lta_ratio(moment: Moment) -> tuple[int, F64]:
    """The row of the component, and the ratio for each sample that the moment holds."""
    row = min(moment.components(), key=lambda one: (not np.isfinite(moment.samples[one]).any(), one))
    return row, stalta.ratio(moment.samples[row], moment.rate)


def _events(moment: Moment) -> Iterator[tuple[Event, Detection]]:
    """Each event as it was last known, in order."""
    latest: dict[int, tuple[Event, Detection]] = {}
    for change, detection in moment.decided:
        before = latest.get(change.event.trigger_step)
        told = detection or (before[1] if before is not None else None)
        if told is not None:
            latest[change.event.trigger_step] = (change.event, told)
    yield from latest.values()


def _span_of(moment: Moment, event: Event) -> Span:
    return Span(moment.step_ns(min(event.onset_step, event.first_step)), moment.step_ns(event.last_active_step))


def _detection_at(moment: Moment) -> tuple[Event, Detection] | None:
    """The detection whose time this is; the one with the latest onset of two."""
    found = None
    for event, detection in _events(moment):
        start_ns, end_ns = _span_of(moment, event)
        if start_ns - seconds_to_ns(_ONSET_TOLERANCE_S) <= moment.time_ns <= end_ns:
            found = (event, detection)
            if start_ns > moment.time_ns:
                break
    return found


def _nearest(moment: Moment) -> Detection | None:
    """The nearest one of those close by: further on nothing was looked at."""
    close_ns = seconds_to_ns(LOOK_AFTER_S)
    return min(
        (pair for pair in _events(moment) if abs(moment.step_ns(pair[0].onset_step) - moment.time_ns) <= close_ns),
        key=lambda pair: abs(moment.step_ns(pair[0].onset_step) - moment.time_ns),
        default=(None, None),
    )[1]


def _longest(above: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], above, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _complete(moment: Moment, step: int) -> dict[str, float]:
    context = moment.model.metadata.context_frames
    stop = (step + 1) * moment.model.metadata.output_stride - moment.first_frame
    judged = moment.judged[max(0, stop - context - 1) : max(0, stop)]
    share = judged.mean(axis=0) if len(judged) else np.zeros(3)
    return {seed_id: float(share[row]) for row, seed_id in moment.components().items()}


def _sta_lta(moment: Moment, span: Span) -> StaLta:
    row, ratio = sta_lta_ratio(moment)
    margin_ns = seconds_to_ns(_ONSET_TOLERANCE_S)
    first, stop = (
        min(max(0, time_ns * moment.rate // NS_PER_SECOND - moment.first_sample), len(ratio))
        for time_ns in (span.start_ns - margin_ns, span.end_ns)
    )
    seed_id = moment.components()[row]
    seen = ratio[first:stop]
    if not np.isfinite(seen).any():
        return StaLta(seed_id, None, None)
    at = int(np.nanargmax(seen))
    return StaLta(seed_id, float(seen[at]), moment.sample_ns(moment.first_sample + first + at))
