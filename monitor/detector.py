"""From probabilities along time to earthquakes: when one begins, what belongs to it, when it is over.

Works on the model's outputs alone, step by step on the absolute grid; knows neither waveforms nor clocks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.section import Refusal, Section, example, within

F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

# An S is not looked for sooner after the P: three kilometres off, nearer than a network can tell the two apart.
_LEAST_S_MINUS_P_S = 0.4

# What has fallen below this for so long and is as sure as a detection so soon after it rose again may be another
# earthquake. Between the P and the S of one it falls seldom so far for so long: of 4300 in the training split, none is
# told twice because of it, and 43 more are told that had been lost in one before them.
DIED_DOWN = 0.4
LULL_S = 1.0
_RISE_S = 4.0
# The probability of a P rises before that of the earthquake.
_P_BEFORE_RISE_S = 0.6

CLEAR_P = 0.3
"""Least probability of a P that is looked for further back than the rise, or that tells another earthquake."""

Began = Literal["quiet", "second_p", "risen_again"]
"""How an event began: out of quiet; or while another one went on, with a P or by rising again."""


class DetectorSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How probabilities become detections.

    Attributes:
        threshold: Event probability that starts a detection; the model's own unless this or false_alarms_per_day is
            set.
        false_alarms_per_day: Instead of a threshold: the one at which the model's calibration has at most so many false
            alarms per station and day. `monitor model info --calibration` shows it.
        threshold_off_share: A detection goes on while the log-odds are above this share of the threshold's.
        confirm_s: How long the probability must stay at the threshold.
        hold_s: How long it must be below the off threshold for the detection to end.
        wait_for_s_s: The same while no S has been seen.
        p_probability, s_probability: Least probability of a frame that is taken for a P or S arrival.
        look_back_s: How far before the rise a clear P is looked for.
        split_probability: P probability that begins a new detection within one, after min_split_s or its like. Where
            the event probability has died down and rises again, a clear P that is likelier than an S does so at any
            time.
        min_split_s: Least time between the P arrivals of two detections.
        min_split_before_s_s: The same while no S has been seen.
        max_duration_s: A detection is ended after this.
    """

    threshold: Annotated[float, within(1e-6, 1 - 1e-6), example(0.9)] | None = None
    false_alarms_per_day: Annotated[float, within(1e-6, 1e6), example(2.0)] | None = None
    threshold_off_share: Annotated[float, within(-1.0, 1.0)] = 0.3
    confirm_s: Annotated[float, within(0.0, 30.0)] = 0.4
    hold_s: Annotated[float, within(0.2, 120.0)] = 3.0
    wait_for_s_s: Annotated[float, within(0.2, 120.0)] = 6.0
    p_probability: Annotated[float, within(0.0, 1.0)] = 0.2
    s_probability: Annotated[float, within(0.0, 1.0)] = 0.3
    look_back_s: Annotated[float, within(0.0, 60.0)] = 30.0
    split_probability: Annotated[float, within(0.0, 1.0)] = 0.6
    min_split_s: Annotated[float, within(0.2, 120.0)] = 3.0
    min_split_before_s_s: Annotated[float, within(0.2, 120.0)] = 8.0
    max_duration_s: Annotated[float, within(5.0, 3600.0)] = 180.0

    def refusals(self) -> Iterable[Refusal]:
        """Refuse two ways to say the same."""
        if self.threshold is not None and self.false_alarms_per_day is not None:
            yield Refusal(
                ("threshold", "false_alarms_per_day"),
                "threshold and false_alarms_per_day are both set; accepted: one of them",
            )


@dataclass(slots=True)
class Event:
    """An earthquake as the probabilities show it; steps are absolute output indices.

    `onset_is_s`: no P was seen, and the S arrival is where it begins.
    """

    trigger_step: int
    first_step: int
    began: Began = "quiet"
    onset_is_s: bool = False
    p_step: int | None = None
    p_probability: float = 0.0
    s_step: int | None = None
    s_probability: float = 0.0
    peak: float = 0.0
    steps_above: int = 0
    steps_judged: int = 0
    last_active_step: int = 0

    @property
    def onset_step(self) -> int:
        """The P arrival; without one the S arrival that began it, or the first step of the rise."""
        if self.p_step is not None:
            return self.p_step
        return self.s_step if self.onset_is_s and self.s_step is not None else self.first_step


@dataclass(frozen=True, slots=True)
class Change:
    """Something became known about an event at a step; `event` is as it was known then."""

    kind: Literal["new", "update", "final"]
    step: int
    event: Event


class _Rise(NamedTuple):
    """Where what had died down rises again, and the event as it was until then."""

    step: int
    before: Event


class Settled(NamedTuple):
    """Where a detector can go on as if it had never stopped.

    Attributes:
        step: The first step whose decision may depend on what is going on; nothing was before it.
        taken_until: Steps before this belong to earlier events.
    """

    step: int
    taken_until: int


class Detector:
    """Follows one station.

    Args:
        settings: How to decide.
        threshold: The threshold in force (the settings' or the model's).
        step_s: Seconds from output to output.
    """

    def __init__(self, settings: DetectorSettings, *, threshold: float, step_s: float) -> None:
        self.settings = settings
        self.threshold = threshold
        log_odds = float(np.log(threshold / (1 - threshold)))
        self.threshold_off = float(1 / (1 + np.exp(-log_odds * settings.threshold_off_share)))
        self.threshold_off = min(self.threshold_off, threshold)
        self._step_s = step_s
        self._confirm = max(1, self._steps(settings.confirm_s))
        # The newest outputs, as far back as a P may lie, those of the current push among them.
        self._depth = self._steps(settings.look_back_s) + self._confirm + 5
        self._first = 0
        self._rows: F32 = np.zeros((0, 3), np.float32)
        self._judged: Bool = np.zeros(0, bool)
        self._next: int | None = None
        self._rising = 0
        self._event: Event | None = None
        self._quiet = 0
        self._lull = 0
        self._rise: _Rise | None = None
        self._told_s = False
        # A P that belongs to an event already told is not the P of the next one.
        self._taken_until = 0
        self._settled = Settled(0, 0)

    def _steps(self, seconds: float) -> int:
        return round(seconds / self._step_s)

    @property
    def settled(self) -> Settled:
        """Where another detector would have to begin to decide to say the same from there on."""
        return self._settled

    @property
    def depth(self) -> int:
        """Steps before `settled.step` that such a detector must have been given."""
        return self._depth

    def resume(self, settled: Settled) -> None:
        """Decide nothing before `settled.step`: another detector has; to be called before the first push."""
        self._settled, self._taken_until = settled, settled.taken_until

    def push(self, first_step: int, probabilities: F32, judged: Bool) -> list[Change]:
        """Take the next outputs.

        Args:
            first_step: Absolute index of the first; follows the last one pushed, or a later one after an outage.
            probabilities: [shape=(n, 3), dtype=float32] earthquake, P, S.
            judged: [shape=(n,), dtype=bool] whether there was data to judge.

        Returns:
            What became known, in order.
        """
        changes: list[Change] = []
        if first_step != self._next:
            changes += self.finish()
            self._rows, self._judged = self._rows[:0], self._judged[:0]
            self._rising = 0
        held = min(len(self._rows), self._depth)
        new = np.where(judged[:, None], probabilities, np.float32(0))
        self._rows = np.concatenate((self._rows[len(self._rows) - held :], new))
        self._judged = np.concatenate((self._judged[len(self._judged) - held :], judged))
        self._first = first_step - held
        high = np.flatnonzero(new[:, 0] >= self.threshold)
        # Before `settled` only after a restart: what was decided then is remembered, not decided again.
        offset = min(max(0, self._settled.step - first_step), len(new)) if self._event is None else 0
        while offset < len(new):
            if self._event is None:
                # Nothing is going on: on to where something may be.
                at = int(np.searchsorted(high, offset))
                following = int(high[at]) if at < len(high) else len(new)
                if following > offset:
                    self._rising, offset = 0, following
                    self._settled = Settled(first_step + offset, self._taken_until)
                    continue
            event, p, s = new[offset].tolist()
            self._step(first_step + offset, event, p, s, bool(judged[offset]), changes)
            offset += 1
        self._next = first_step + len(new)
        return changes

    def finish(self) -> list[Change]:
        """End what is going on: the stream is over or broken off."""
        if self._event is None or self._next is None:
            return []
        return [self._end(self._next - 1)]

    def _step(self, step: int, score: float, p: float, s: float, judged: bool, changes: list[Change]) -> None:
        self._rising = self._rising + 1 if score >= self.threshold else 0
        if self._event is None:
            if self._rising >= self._confirm:
                changes.append(self._begin(step))
            return
        event = self._event
        since_p = (step - event.onset_step) * self._step_s
        if self._is_next_earthquake(step, since_p):
            changes.append(self._end(step - 1))
            self._taken_until = step - 1  # the peak itself is the next one's
            changes.append(self._begin(step, "second_p"))
            return
        if self._rise is not None and self._is_risen_anew(self._rise.step, step):
            rise, self._event = self._rise
            rising = self._rising
            changes.append(self._end(step - 1))
            self._rising = rising
            self._taken_until = max(self._taken_until, rise - self._steps(_P_BEFORE_RISE_S))
            changes.append(self._begin(step, "risen_again"))
            return
        if judged and score < DIED_DOWN and s < self.settings.s_probability:
            self._lull += 1
        elif judged:  # what was not judged has neither died down nor risen
            if self._lull >= self._steps(LULL_S):
                self._rise = _Rise(step, replace(event))
            self._lull = 0
        event.steps_judged += judged
        event.peak = max(event.peak, score)
        event.steps_above += score >= self.threshold
        changed = False
        # The P label is narrow: the trigger can come while its probability still rises.
        likelier = p > event.p_probability and p >= self.settings.p_probability and not event.onset_is_s
        if likelier and (step - event.trigger_step) * self._step_s <= 1.0:
            changed = True
            event.p_step, event.p_probability = step, p
            if event.s_step is not None and (event.s_step - step) * self._step_s < _LEAST_S_MINUS_P_S:
                event.s_step, event.s_probability = None, 0.0
        elif (
            s > max(event.s_probability, self.settings.s_probability)
            and since_p >= _LEAST_S_MINUS_P_S
            and not event.onset_is_s
        ):
            event.s_step, event.s_probability = step, s
        if event.s_step is not None and step - event.s_step == self._steps(0.6) and not self._told_s:
            self._told_s = changed = True
        if score >= self.threshold_off or s >= self.settings.s_probability:
            event.last_active_step, self._quiet = step, 0
        else:
            self._quiet += 1
        hold = self.settings.hold_s if event.s_step is not None else self.settings.wait_for_s_s
        if self._quiet >= self._steps(hold) or since_p >= self.settings.max_duration_s:
            changes.append(self._end(step))
        elif changed:
            changes.append(Change("update", step, replace(event)))

    def _is_next_earthquake(self, step: int, since_p: float) -> bool:
        event = self._event
        assert event is not None
        # Until an S was seen, what looks like another P may be it: on a vertical alone they are much alike.
        least = self.settings.min_split_s if event.s_step is not None else self.settings.min_split_before_s_s
        if since_p - self._step_s < least:
            return False
        if event.s_step is not None and (step - event.s_step) * self._step_s < 1.0:
            return False
        # At the peak of the P probability, once: the step before was the highest of its surroundings.
        at = step - self._first
        if at < 3:
            return False
        before, early, peak, now = self._rows[at - 3 : at + 1, 1].tolist()
        # As sure as any detection has to be.
        if self._rows[at - 1 : at + 1, 0].max() < self.threshold:
            return False
        return bool(peak >= self.settings.split_probability and now <= peak and peak > max(before, early))

    def _is_risen_anew(self, rise: int, step: int) -> bool:
        """Tell whether what rises again is another earthquake, not the S or the coda of the one that died down."""
        if self._rising < self._confirm or (step - rise) * self._step_s > _RISE_S:
            return False
        first = max(self._first, step - self._depth, rise - self._steps(_P_BEFORE_RISE_S))
        rows = self._since(first, step)
        peak = int(np.argmax(rows[:, 1]))
        p = float(rows[peak, 1])
        return p >= max(CLEAR_P, self.settings.p_probability, float(rows[max(0, peak - 1) : peak + 2, 2].max()))

    def _begin(self, step: int, began: Began = "quiet") -> Change:
        settings = self.settings
        # Not further than a live monitor remembers, though a replay's batch holds more.
        earliest = max(self._first, self._taken_until, step - self._depth)
        first = step - 1 if began == "second_p" else step - self._rising + 1
        # Back along the rise, down to the off threshold.
        while began != "second_p" and first > earliest and self._rows[first - 1 - self._first, 0] >= self.threshold_off:
            first -= 1
        event = Event(trigger_step=step, first_step=first, began=began, last_active_step=step)
        event.p_step = self._p_of_rise(first, max(earliest, first - self._steps(settings.look_back_s)), step)
        if event.p_step is not None:
            event.p_probability = self._p_at(event.p_step)
        self._tell_s_from_p(event, step)
        score = self._since(first, step)[:, 0]
        event.peak = float(score.max())
        event.steps_above = int((score >= self.threshold).sum())
        event.steps_judged = int(self._judged[first - self._first : step + 1 - self._first].sum())
        since = max(event.onset_step + self._steps(_LEAST_S_MINUS_P_S), self._first)
        s = self._since(since, step)[:, 2]
        if len(s) and s.max() > settings.s_probability and not event.onset_is_s:
            event.s_step, event.s_probability = since + int(np.argmax(s)), float(s.max())
        self._event, self._told_s = event, event.s_step is not None
        self._quiet, self._lull, self._rise = 0, 0, None
        return Change("new", step, replace(event))

    def _p_of_rise(self, first: int, earliest: int, step: int) -> int | None:
        """Where the P of an event is that rises at `first` and is noticed at `step`."""
        settings = self.settings
        near = max(earliest, first - self._steps(2.0))
        at_rise = self._likeliest_p(near, step + 1, settings.p_probability)
        before = self._likeliest_p(earliest, near, max(settings.p_probability, CLEAR_P))
        if at_rise is None or before is None:
            return before if at_rise is None else at_rise
        # What rises is the S of a P that was too weak to be an earthquake by itself: a P as likely as this one was.
        is_s = self._since(near, step)[:, 2].max() >= settings.s_probability
        return before if is_s and self._p_at(before) >= self._p_at(at_rise) else at_rise

    def _likeliest_p(self, first: int, end: int, least: float) -> int | None:
        """The step in [first, end) where a P is likeliest, if it is at least so likely."""
        if first >= end:
            return None
        step = first + int(np.argmax(self._since(first, end - 1)[:, 1]))
        return step if self._p_at(step) >= least else None

    def _p_at(self, step: int) -> float:
        return float(self._rows[step - self._first, 1])

    def _tell_s_from_p(self, event: Event, step: int) -> None:
        """Where an S is likelier at what was taken for the P, the P was not seen."""
        if event.p_step is None:
            return
        begin = max(self._first, self._taken_until, step - self._depth, event.p_step - 1)
        s = self._since(begin, min(step, event.p_step + 1))[:, 2]
        if s.max() > max(event.p_probability, self.settings.s_probability):
            event.onset_is_s, event.s_step, event.s_probability = True, begin + int(np.argmax(s)), float(s.max())
            event.p_step, event.p_probability = None, 0.0

    def _since(self, first: int, step: int) -> F32:
        """The outputs from `first` to `step`, both included."""
        return self._rows[first - self._first : step + 1 - self._first]

    def _end(self, step: int) -> Change:
        event = self._event
        assert event is not None
        self._event, self._rising, self._quiet = None, 0, 0
        self._taken_until = max(event.last_active_step, event.onset_step) + 1
        return Change("final", step, replace(event))
