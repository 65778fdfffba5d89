"""From made-up probabilities to earthquakes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.detector import Change, Detector, DetectorSettings, Event

F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

STEP_S = 0.2
THRESHOLD = 0.8
FIRST = 8_500_000_000  # a step of this century
DEFAULTS = DetectorSettings()


def detector(chosen: DetectorSettings = DEFAULTS) -> Detector:
    return Detector(chosen, threshold=THRESHOLD, step_s=STEP_S)


def quiet(seconds: float) -> F32:
    return np.full((round(seconds / STEP_S), 3), 0.02, np.float32)


def raise_to(trace: F32, row: int, begin_s: float, end_s: float, level: float) -> None:
    trace[round(begin_s / STEP_S) : round(end_s / STEP_S), row] = level


def peak(trace: F32, row: int, at_s: float, level: float) -> None:
    """An arrival: its step and, lower, the neighbours."""
    at = round(at_s / STEP_S)
    for offset, share in ((-2, 0.1), (-1, 0.5), (0, 1.0), (1, 0.5), (2, 0.1)):
        trace[at + offset, row] = max(trace[at + offset, row], share * level)


def earthquake(
    trace: F32, p_s: float, s_s: float | None, end_s: float, *, score: float = 0.95, p: float = 0.9, s: float = 0.8
) -> None:
    raise_to(trace, 0, p_s, end_s, score)
    peak(trace, 1, p_s, p)
    if s_s is not None:
        peak(trace, 2, s_s, s)


def run(trace: F32, chosen: DetectorSettings = DEFAULTS, judged: Bool | None = None) -> list[Change]:
    found = detector(chosen)
    return found.push(FIRST, trace, np.ones(len(trace), bool) if judged is None else judged) + found.finish()


def finals(changes: list[Change]) -> list[Event]:
    return [change.event for change in changes if change.kind == "final"]


def seconds(step: int | None) -> float:
    assert step is not None
    return round((step - FIRST) * STEP_S, 3)


def test_one_earthquake() -> None:
    trace = quiet(60)
    earthquake(trace, 20, 24, 35)
    changes = run(trace)
    assert [change.kind for change in changes] == ["new", "update", "final"]
    new, update, final = changes
    assert seconds(new.step) == 20.2, "confirmed after 0.4 s: two steps"
    assert seconds(new.event.p_step) == 20.0
    assert new.event.s_step is None
    assert seconds(update.step) == 24.6
    assert seconds(update.event.s_step) == 24.0
    assert seconds(final.step) == 34.8 + 3.0
    event = final.event
    assert event.trigger_step == new.step
    assert (seconds(event.p_step), seconds(event.s_step)) == (20.0, 24.0)
    assert seconds(event.last_active_step) == 34.8
    assert event.steps_above == 75
    assert event.steps_judged == (final.step - event.first_step) + 1
    assert event.peak == pytest.approx(0.95)
    assert event.p_probability == pytest.approx(0.9)
    assert event.s_probability == pytest.approx(0.8)


def test_an_earthquake_already_told_does_not_change_afterwards() -> None:
    trace = quiet(60)
    earthquake(trace, 20, 24, 35)
    told = detector()
    changes = told.push(FIRST, trace[:130], np.ones(130, bool))
    assert [change.kind for change in changes] == ["new", "update"]
    before = [replace(change.event) for change in changes]
    told.push(FIRST + 130, trace[130:], np.ones(len(trace) - 130, bool))
    assert [change.event for change in changes] == before


@pytest.mark.parametrize("score", [0.5, 0.79])
def test_a_weak_one_is_none(score: float) -> None:
    trace = quiet(60)
    earthquake(trace, 20, 24, 35, score=score)
    assert run(trace) == []


def test_one_step_is_not_enough() -> None:
    trace = quiet(60)
    trace[[50, 52, 54, 100], 0] = 0.99
    assert run(trace) == []
    assert len(finals(run(trace, DetectorSettings(confirm_s=0.0)))) > 0


def test_without_a_p_the_onset_is_the_first_step_of_the_rise() -> None:
    trace = quiet(60)
    raise_to(trace, 0, 20, 30, 0.95)
    raise_to(trace, 0, 19, 20, 0.7)
    (event,) = finals(run(trace))
    assert event.p_step is None
    assert seconds(event.onset_step) == 19.0


def test_a_p_that_peaks_after_the_trigger_is_an_update() -> None:
    trace = quiet(60)
    raise_to(trace, 0, 20, 30, 0.95)
    trace[round(20 / STEP_S), 1] = 0.3
    peak(trace, 1, 20.8, 0.9)
    changes = run(trace)
    assert seconds(changes[0].event.p_step) == 20.0
    assert [seconds(change.step) for change in changes if change.kind == "update"] == [20.6, 20.8]
    assert seconds(finals(changes)[0].p_step) == 20.8


def test_a_clear_p_long_before_the_trigger_is_the_onset() -> None:
    """A distant earthquake whose P is seen and whose score only rises with the S."""
    trace = quiet(80)
    peak(trace, 1, 20, 0.8)
    earthquake(trace, 32, None, 45, p=0.1)
    (event,) = finals(run(trace))
    assert seconds(event.p_step) == 20.0
    trace = quiet(80)
    peak(trace, 1, 10, 0.8)
    earthquake(trace, 42, None, 55, p=0.1)
    (event,) = finals(run(trace))
    assert event.p_step is None, "further back than look_back_s"


@pytest.mark.parametrize(
    ("before", "p", "s", "onset_s", "s_s"),
    [
        (0.8, 0.6, 0.5, 20.0, 32.0),
        (0.8, 0.3, 0.5, 20.0, 32.0),
        (0.8, 0.6, 0.2, 32.0, None),  # no S: an earthquake of its own
        (0.7, 0.8, 0.5, 32.0, None),  # what rises is the likelier P
        (0.25, 0.2, 0.5, None, 32.0),  # nothing clear before: the S it is, and the P was not seen
    ],
)
def test_an_s_that_rises_belongs_to_the_p_that_did_not(
    before: float, p: float, s: float, onset_s: float | None, s_s: float | None
) -> None:
    trace = quiet(80)
    peak(trace, 1, 20, before)
    peak(trace, 0, 20, 0.6)  # below the threshold
    earthquake(trace, 32, 32, 45, p=p, s=s)
    changes = run(trace)
    (event,) = finals(changes)
    assert seconds(changes[0].step) == 32.2, "told when it rises"
    assert (None if event.p_step is None else seconds(event.p_step)) == onset_s
    assert (None if event.s_step is None else seconds(event.s_step)) == s_s


def test_p_then_s_with_a_dip_between_is_one() -> None:
    trace = quiet(80)
    earthquake(trace, 20, None, 23)
    earthquake(trace, 28, 28, 40, p=0.3)
    (event,) = finals(run(trace))
    assert (seconds(event.p_step), seconds(event.s_step)) == (20.0, 28.0)


def test_after_its_s_it_ends_sooner() -> None:
    trace = quiet(80)
    earthquake(trace, 20, 22, 24)
    earthquake(trace, 28, 30, 35)
    found = finals(run(trace))
    assert [seconds(event.p_step) for event in found] == [20.0, 28.0]
    assert [seconds(event.s_step) for event in found] == [22.0, 30.0]


def test_two_earthquakes_six_seconds_apart_are_two() -> None:
    trace = quiet(80)
    earthquake(trace, 20, 22, 40)
    earthquake(trace, 26, 28.4, 40)
    changes = run(trace)
    first, second = finals(changes)
    assert (seconds(first.p_step), seconds(first.s_step)) == (20.0, 22.0)
    assert (seconds(second.p_step), seconds(second.s_step)) == (26.0, 28.4)
    assert first.trigger_step != second.trigger_step
    # The second begins one step after its P, when it is known to be a peak; the first is ended before.
    assert [change.kind for change in changes if 25.5 < seconds(change.step) < 26.5] == ["final", "new"]
    assert first.last_active_step == second.first_step, "until then it went on"


@pytest.mark.parametrize(("apart", "s_s", "p", "n"), [(2.0, 20.8, 0.9, 1), (6.0, 22.0, 0.55, 1), (6.0, 25.8, 0.9, 1)])
def test_what_is_no_second_earthquake(apart: float, s_s: float, p: float, n: int) -> None:
    """Too soon after the first; too weak a P; a P right at the S."""
    trace = quiet(80)
    earthquake(trace, 20, s_s, 40)
    peak(trace, 1, 20 + apart, p)
    assert len(finals(run(trace))) == n


def test_a_falling_p_probability_is_no_second_earthquake() -> None:
    trace = quiet(80)
    earthquake(trace, 20, 22, 40)
    trace[105:140, 1] = np.linspace(0.89, 0.61, 35)
    assert len(finals(run(trace))) == 1


def test_a_rise_longer_than_the_memory_is_the_same_in_one_push_and_in_many() -> None:
    trace = quiet(120)
    raise_to(trace, 0, 10, 80, 0.7)
    raise_to(trace, 0, 80, 90, 0.95)
    (event,) = finals(run(trace))
    many = detector()
    changes = [change for i in range(len(trace)) for change in many.push(FIRST + i, trace[i : i + 1], np.ones(1, bool))]
    assert finals(changes) == [event]
    assert 0 <= (event.trigger_step - event.first_step) * STEP_S - DEFAULTS.look_back_s < 3


@pytest.mark.parametrize(("apart", "n"), [(7.0, 1), (12.0, 2)])
def test_before_an_s_a_second_p_is_only_believed_late(apart: float, n: int) -> None:
    trace = quiet(80)
    earthquake(trace, 20, None, 45)
    peak(trace, 1, 20 + apart, 0.9)
    assert len(finals(run(trace))) == n


def risen_again(dip: float, dip_s: float, p: float, s: float) -> list[Event]:
    """An earthquake at 20 s, no S seen, whose score is `dip` from 22 s and back after `dip_s` with an arrival."""
    trace = quiet(60)
    earthquake(trace, 20.0, None, 22.0)
    back = 22.0 + dip_s
    raise_to(trace, 0, 22.0, back, dip)
    raise_to(trace, 0, back, back + 6.0, 0.95)
    peak(trace, 1, back, p)
    peak(trace, 2, back, s)
    return finals(run(trace))


@pytest.mark.parametrize("dip_s", [1.0, 2.0, 4.0])
def test_what_died_down_and_rises_again_with_a_p_is_another_earthquake(dip_s: float) -> None:
    first, second = risen_again(0.1, dip_s, 0.5, 0.2)
    assert seconds(first.p_step) == pytest.approx(20.0)
    assert first.s_step is None
    # What rose again is no part of the one before, neither its end nor its peak.
    assert seconds(first.last_active_step) == pytest.approx(21.8)
    assert seconds(second.onset_step) == pytest.approx(22.0 + dip_s)
    assert second.p_probability == pytest.approx(0.5)
    assert first.last_active_step < second.first_step
    assert (first.began, second.began) == ("quiet", "risen_again")


@pytest.mark.parametrize(
    ("dip", "dip_s", "p", "s", "why"),
    [
        (0.1, 1.0, 0.5, 0.7, "it is the S"),
        (0.1, 1.0, 0.25, 0.1, "no clear P"),
        (0.1, 0.8, 0.5, 0.2, "just before an S, for less than a second"),
        (0.5, 2.0, 0.5, 0.2, "it never died down"),
    ],
)
def test_what_rises_again_and_is_no_other_earthquake(dip: float, dip_s: float, p: float, s: float, why: str) -> None:
    assert len(risen_again(dip, dip_s, p, s)) == 1, why


def test_data_that_are_not_judged_have_not_died_down() -> None:
    trace = quiet(60)
    earthquake(trace, 20.0, None, 30.0)
    peak(trace, 1, 24.0, 0.5)
    judged = np.ones(len(trace), bool)
    judged[round(22.0 / STEP_S) : round(24.0 / STEP_S)] = False
    assert len(finals(run(trace, judged=judged))) == 1
    trace[round(22.0 / STEP_S) : round(24.0 / STEP_S), 0] = 0.1
    assert len(finals(run(trace))) == 2, "the same, judged"


def test_what_rises_again_but_is_not_sure_soon_is_no_other_earthquake() -> None:
    trace = quiet(60)
    earthquake(trace, 20.0, None, 22.0)
    raise_to(trace, 0, 23.0, 29.0, 0.75)
    peak(trace, 1, 23.0, 0.5)
    raise_to(trace, 0, 29.0, 32.0, 0.95)
    assert len(finals(run(trace))) == 1


def test_an_s_is_never_before_its_p() -> None:
    trace = quiet(60)
    raise_to(trace, 0, 20, 30, 0.95)
    trace[100, 1] = 0.3
    trace[102, 2] = 0.5
    trace[104, 1] = 0.9
    (event,) = finals(run(trace))
    assert seconds(event.p_step) == 20.8
    assert event.s_step is None


def test_a_gap_ends_and_does_not_begin_an_earthquake() -> None:
    trace = quiet(60)
    earthquake(trace, 20, 24, 50)
    judged = np.ones(len(trace), bool)
    judged[round(26 / STEP_S) : round(40 / STEP_S)] = False
    found = finals(run(trace, judged=judged))
    assert len(found) == 2, "what goes on after the gap is told anew"
    assert seconds(found[0].last_active_step) == 25.8
    assert seconds(found[1].first_step) == 40.0
    assert run(np.full((300, 3), 0.99, np.float32), judged=np.zeros(300, bool)) == []
    short = np.ones(len(trace), bool)
    short[round(26 / STEP_S) : round(28 / STEP_S)] = False
    (event,) = finals(run(trace, judged=short))
    assert event.steps_judged == 150 + 15 - 10


def test_the_end_of_the_stream_ends_it() -> None:
    trace = quiet(30)
    earthquake(trace, 20, 24, 30)
    ended = detector()
    assert [change.kind for change in ended.push(FIRST, trace, np.ones(150, bool))] == ["new", "update"]
    (final,) = ended.finish()
    assert final.kind == "final"
    assert final.step == FIRST + 149
    assert ended.finish() == []


def test_steps_left_out_end_it_and_nothing_is_carried_over() -> None:
    trace = quiet(30)
    earthquake(trace, 20, 24, 30)
    skipping = detector()
    changes = skipping.push(FIRST, trace, np.ones(150, bool))
    again = skipping.push(FIRST + 5000, trace[100:], np.ones(50, bool))
    assert [change.kind for change in again] == ["final", "new", "update"]
    assert again[0].step == FIRST + 149
    assert again[0].event.trigger_step == changes[0].event.trigger_step
    assert again[1].event.p_step == FIRST + 5000
    # A rise that was cut off is not confirmed by one that begins later.
    cut = detector()
    high = np.full((1, 3), 0.99, np.float32)
    assert cut.push(FIRST, high, np.ones(1, bool)) == []
    assert cut.push(FIRST + 100, high, np.ones(1, bool)) == []


def test_the_longest_duration() -> None:
    trace = quiet(120)
    earthquake(trace, 20, 24, 90)
    chosen = DetectorSettings(max_duration_s=30.0)
    found = finals(run(trace, chosen))
    assert seconds(found[0].last_active_step) == 50.0
    assert all((event.last_active_step - event.onset_step) * STEP_S <= 30.0 for event in found)


def test_the_off_threshold() -> None:
    trace = quiet(60)
    raise_to(trace, 0, 20, 22, 0.95)
    raise_to(trace, 0, 22, 40, 0.62)
    # Log-odds of 0.8 are 1.386; 0.3 of them is a probability of 0.602.
    assert detector().threshold_off == pytest.approx(0.6025, abs=1e-3)
    assert seconds(finals(run(trace))[0].last_active_step) == 39.8
    raise_to(trace, 0, 22, 40, 0.59)
    assert seconds(finals(run(trace))[0].last_active_step) == 21.8
    low = Detector(DEFAULTS, threshold=0.2, step_s=STEP_S)
    assert low.threshold_off == 0.2, "never above the threshold"


@st.composite
def traces(draw: st.DrawFn) -> tuple[F32, Bool]:
    """Rises, arrivals and holes anywhere, on noise that now and then crosses a threshold."""
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    n = draw(st.integers(1, 700))
    trace = rng.beta(0.4, 4.0, (n, 3)).astype(np.float32)
    for _ in range(draw(st.integers(0, 6))):
        begin, length = draw(st.integers(0, n - 1)), draw(st.integers(1, 250))
        trace[begin : begin + length, 0] = draw(st.sampled_from([0.61, 0.8, 0.9]))
        trace[begin, 1] = 0.9
        trace[min(n - 1, begin + draw(st.integers(0, 60))), 2] = 0.8
    judged = np.ones(n, bool)
    for begin, length in draw(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 60)), max_size=2)):
        judged[begin : begin + length] = False
    return trace, judged


@settings(max_examples=100)
@given(given_trace=traces(), cuts=st.lists(st.integers(0, 700), max_size=12), single=st.booleans())
def test_any_split_gives_the_same_changes(given_trace: tuple[F32, Bool], cuts: list[int], single: bool) -> None:
    trace, judged = given_trace
    chosen = DetectorSettings(look_back_s=4.0, max_duration_s=20.0)
    whole = run(trace, chosen, judged)
    edges = range(len(trace) + 1) if single else sorted({0, *(min(cut, len(trace)) for cut in cuts), len(trace)})
    split, found = detector(chosen), []
    for a, b in pairwise(edges):
        found += split.push(FIRST + a, trace[a:b], judged[a:b])
    assert found + split.finish() == whole

    # Each event is told of in order, new first and final last, and events do not overlap.
    going: Event | None = None
    last_active = FIRST - 1
    for change in whole:
        event = change.event
        assert (change.kind == "new") == (going is None)
        assert event.first_step <= event.trigger_step <= change.step + (change.kind == "final")
        if going is None:
            assert event.onset_step > last_active - 1
        else:
            assert event.trigger_step == going.trigger_step
            assert event.peak >= going.peak
        if event.s_step is not None:
            assert event.s_step > event.onset_step or event.onset_is_s
        going, last_active = (None, event.last_active_step) if change.kind == "final" else (event, last_active)
    assert going is None


@settings(max_examples=60)
@given(given_trace=traces(), ahead=st.integers(0, 300))
def test_what_is_long_past_does_not_matter(given_trace: tuple[F32, Bool], ahead: int) -> None:
    """A monitor started earlier finds the same, once nothing is going on and all is remembered."""
    trace, judged = given_trace
    chosen = DetectorSettings(look_back_s=4.0, max_duration_s=20.0)
    pause = np.full((200, 3), 0.02, np.float32)
    expected = detector(chosen)
    from_pause = expected.push(FIRST, np.concatenate((pause, trace)), np.r_[np.ones(200, bool), judged])
    earlier = detector(chosen)
    noise = np.random.default_rng(ahead).random((ahead, 3)).astype(np.float32)
    earlier.push(FIRST - ahead, noise, np.ones(ahead, bool))
    found = earlier.push(FIRST, np.concatenate((pause, trace)), np.r_[np.ones(200, bool), judged])
    assert [change for change in found if change.event.trigger_step >= FIRST + 2] == from_pause


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 0.0), ("threshold", 1.0), ("hold_s", 0.1), ("look_back_s", 61.0), ("max_duration_s", 4.0)],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}; accepted: "):
        DetectorSettings(**{name: value})


def test_an_s_taken_for_a_p_is_told_as_what_it_is() -> None:
    trace = quiet(60)
    raise_to(trace, 0, 20, 30, 0.95)
    trace[101, 1], trace[101, 2] = 0.4, 0.8
    (event,) = finals(run(trace))
    assert event.p_step is None
    assert event.onset_is_s
    assert event.s_step == event.onset_step
    assert seconds(event.onset_step) == 20.2


def test_a_second_p_begins_nothing_below_the_threshold() -> None:
    trace = quiet(80)
    earthquake(trace, 20, None, 22)
    raise_to(trace, 0, 22, 45, 0.7)
    peak(trace, 1, 35, 0.9)
    assert len(finals(run(trace))) == 1
