"""Right, wrong, or unknown: the rules, the figures, and STA/LTA, on labels made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from monitor.detector import DetectorSettings
from monitor.model import Model, default_model_path
from tests.train_store import NPTS, P, S, write_store
from train.benchmark import (
    HIGHEST_THRESHOLD,
    LEAST_THRESHOLD,
    SHIPPED_RATE,
    Curve,
    breakdown,
    calibration,
    curve_figures,
    false_alarms,
    fitted_rates,
    make_task,
    model_detect,
    onset_figures,
    parity,
    ratio_detect,
    recorded_figures,
    reliability,
    run_curve,
    shipped_threshold,
    with_vertical_alone,
)
from train.dataset import Store
from train.evaluate import (
    Window,
    best_f1_threshold,
    choose_windows,
    evaluate,
    roc_auc,
    scored,
    window_scores,
)
from train.outputs import Found, TraceOutputs, as_recorded_at, detect, trace_outputs
from train.report import onset_tables
from train.stalta import ALL, ENERGY, StaLta, ratio, trace_ratio, triggers
from train.truth import LabelledP, demanded, judge, noise_samples


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("evaluate") / "store")


def outputs(index: int, scores: dict[range, float], *, npts: int = NPTS) -> TraceOutputs:
    """Outputs every 0.2 s: a score and a P at its begin where told, else 0.01."""
    n = npts // 20
    probabilities = np.full((n, 3), 0.01, np.float32)
    for samples, score in scores.items():
        probabilities[samples.start // 20 : samples.stop // 20, 0] = score
        probabilities[samples.start // 20, 1] = 0.9
    judged = np.arange(n) * 20 >= 500
    return TraceOutputs(index, 1000, 0, 20, probabilities, judged)


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_an_onset_within_the_limit_picks_the_p(store: Store) -> None:
    info, wanted = store.traces[0], demanded(store, 0)
    assert [want.sample for want in wanted] == [P]
    assert wanted[0].snr_db is not None
    assert wanted[0].snr_db > 10
    for offset, picked in ((-149, True), (0, True), (149, True), (151, False)):
        verdict = judge(info, wanted, [Found(P + offset, P + 900, 0.9)])
        assert (verdict.picked == [0]) is picked
        assert verdict.found == [True]
        assert verdict.false == []


def test_one_detection_picks_one_p_and_the_nearest(store: Store) -> None:
    info, wanted = store.traces[0], demanded(store, 0)
    verdict = judge(info, wanted, [Found(P - 100, P - 90, 0.9), Found(P + 10, S, 0.9)])
    assert verdict.picked == [1]
    assert verdict.false == []


def test_a_detection_in_noise_is_false_and_one_in_the_coda_is_not(store: Store) -> None:
    info, wanted = store.traces[0], demanded(store, 0)
    verdict = judge(info, wanted, [Found(1000, 1500, 0.9), Found(S + 2000, S + 2100, 0.9), Found(8000, 8100, 0.9)])
    assert verdict.picked == [None]
    assert verdict.found == [False]
    assert verdict.false == [0, 2]


def test_what_touches_the_unknown_is_not_false(store: Store) -> None:
    doubtful = replace(store.traces[4], unknown=((2000, 2400),))
    assert judge(doubtful, [], [Found(1900, 2000, 1)]).false == []
    assert judge(doubtful, [], [Found(1900, 1990, 1)]).false == [0]
    assert judge(doubtful, [], [Found(2400, 2500, 1)]).false == [0]
    assert noise_samples(doubtful).sum() == NPTS - 500 - 400


def test_a_p_that_nobody_can_judge_is_not_demanded(store: Store) -> None:
    traces = list(store.traces)
    for gaps, count in (((), 1), (((P - 400, P - 300),), 0), (((P + 100, P + 300),), 0), (((P + 300, P + 400),), 1)):
        traces[0] = replace(store.traces[0], gaps=gaps)
        changed = Store(store.path, store.manifest, traces)
        assert len(demanded(changed, 0)) == count


# -- windows -----------------------------------------------------------------------------------------------------------


def test_windows_are_seeded_and_hold_what_they_say(store: Store) -> None:
    chosen = choose_windows(store, range(len(store)), seed=1)
    assert chosen == choose_windows(store, range(len(store)), seed=1)
    assert chosen != choose_windows(store, range(len(store)), seed=2)
    assert {w.index for w in chosen if w.positive} == {0, 1, 2, 3, 8, 9, 10, 11, 12, 17}
    for w in chosen:
        assert 0 <= w.start <= store.traces[w.index].npts - 3000
        if w.positive:
            assert w.start <= P <= w.start + 3000 - 200
        elif store.traces[w.index].kind == "continuous":
            assert w.start + 3000 <= P - 150 or w.start > S + 3 * (S - P)


def test_a_windows_score_is_the_highest_that_was_judged() -> None:
    given = {0: outputs(0, {range(100, 300): 0.99, range(3000, 3100): 0.7, range(6000, 6100): 0.8})}
    windows = [Window(0, 0, False), Window(0, 200, True), Window(0, 3100, True), Window(1, 0, False)]
    assert window_scores(windows, given) == pytest.approx([0.01, 0.7, 0.8, 0.0])


def test_figures_of_a_detector() -> None:
    windows = [
        Window(0, 0, True, 2.0),
        Window(0, 1, True, 30.0),
        Window(0, 2, True),
        *[Window(1, i, False) for i in range(5)],
    ]
    scores = np.array([0.2, 0.9, 0.8, 0.6, 0.1, 0.1, 0.1, 0.2])
    figures = scored(windows, scores, 0.5)
    assert figures["confusion"] == {"tp": 2, "fn": 1, "fp": 1, "tn": 4}
    assert figures["accuracy"] == 6 / 8
    assert figures["precision"] == figures["recall"] == pytest.approx(2 / 3)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["roc_auc"] == pytest.approx((5 + 5 + 3.5) / 15)
    assert figures["recall_by_snr"]["SNR < 1.5"] == {"windows": 1, "recall": 0.0}
    assert figures["recall_by_snr"]["SNR ≥ 10"] == {"windows": 1, "recall": 1.0}
    positive = np.array([w.positive for w in windows])
    assert best_f1_threshold(positive, scores) == 0.8
    assert roc_auc(positive[:3], scores[:3]) is None


def test_all_detectors_are_evaluated_on_the_same_windows(store: Store) -> None:
    indices = store.select(split="dev")
    windows = choose_windows(store, indices, seed=0)
    good = {
        i: outputs(i, {range(P, S): 0.93} if store.traces[i].picks else {}, npts=store.traces[i].npts) for i in indices
    }
    ratios = {setting: {i: trace_ratio(store, i, setting) for i in indices} for setting in ALL}
    figures = evaluate(windows, models={"int8": (good, 0.5)}, ratios=ratios)
    assert figures["positive"] + figures["negative"] == len(windows)
    assert figures["detectors"]["int8"]["accuracy"] == 1.0
    assert figures["detectors"]["int8"]["roc_auc"] == 1.0
    assert figures["detectors"][ENERGY.name]["recall"] == 1.0
    assert figures["detectors"][ENERGY.name]["roc_auc"] > 0.9


# -- continuous --------------------------------------------------------------------------------------------------------


def test_the_monitors_detector_runs_on_kept_outputs() -> None:
    found = detect(outputs(0, {range(3000, 3600): 0.9}), DetectorSettings(), 0.5)
    assert len(found) == 1
    assert found[0].onset == 3000
    assert 3500 <= found[0].end <= 3600
    assert found[0].score == pytest.approx(0.9)


def test_benchmark_of_outputs_made_by_hand(store: Store) -> None:
    task = make_task(store, store.select(split="dev"))
    assert len(task.all_wanted) == 5
    hours = (4 * 8500 + 18_000 - 500 - (S + 3 * (S - P) - P + 151)) / 100 / 3600
    assert sum(task.noise_hours.values()) == pytest.approx(hours)
    # Each earthquake at 0.9, one noise trace with a false alarm at 0.8.
    kept = {
        i: outputs(i, {range(P, S): 0.93} if store.traces[i].picks else {}, npts=store.traces[i].npts)
        for i in task.indices
    }
    kept[13] = outputs(13, {range(2000, 2500): 0.8})
    detect_at = model_detect(kept, DetectorSettings())
    curve = run_curve(task, "int8", detect_at, [0.3, 0.7, 0.85, 0.95])
    assert curve.recalls().tolist() == [1, 1, 1, 0]
    assert curve.false.sum(axis=0).tolist() == [1, 1, 0, 0]
    assert curve.rates()[0] == pytest.approx(1 / hours)
    assert 0.7 < curve.threshold_value(0.1) <= 0.85
    assert curve.recall_at(0.1) == 1
    kept_calibration = calibration(curve)
    assert kept_calibration.false_alarms_per_day[0] == pytest.approx(24 / hours, rel=1e-3)
    assert kept_calibration.false_alarms_per_day[-1] == 0
    assert [alarm[:2] for alarm in false_alarms(task, detect_at, 0.5)] == [(13, 2000)]
    assert false_alarms(task, detect_at, 0.85) == []
    figures = curve_figures(curve, run_curve(task, "int8", detect_at, [0.85]), task, seed=1)
    assert figures["at_threshold"]["recall"] == 1
    assert figures["at_threshold"]["false_alarms"] == 0
    assert figures["by"]["kind"]["continuous"]["p_arrivals"] == 1
    same = parity(task, detect_at, detect_at, 0.5)
    assert same == {"detections": 12, "without_partner": 0, "share": 0.0, "missing": 0, "missing_share": 0.0}
    nothing = parity(task, detect_at, lambda *_: [], 0.5)
    assert (nothing["share"], nothing["missing_share"]) == (1.0, 1.0)
    later = parity(task, detect_at, lambda *a: [replace(d, onset=d.onset + 60) for d in detect_at(*a)], 0.5)
    assert (later["share"], later["missing_share"]) == (1.0, 0.0), "the same earthquakes, with other onsets"
    frames = reliability(task, kept)
    assert frames["bins"][9]["true"] == 1.0
    assert frames["bins"][8]["true"] == 0.0


def made_curve(false: list[float]) -> Curve:
    thresholds = np.linspace(0.1, 0.999, len(false))
    zeros = np.zeros((1, len(false)))
    return Curve("x", thresholds, ["XX.A"], zeros, zeros, np.array([false]), np.array([1.0]), np.array([10.0]))


def test_the_shipped_threshold_has_limits() -> None:
    assert shipped_threshold(made_curve([0, 0, 0])) == LEAST_THRESHOLD
    assert shipped_threshold(made_curve([90, 90, 90])) == HIGHEST_THRESHOLD
    # 2 and then 0 false alarms in 10 hours: the rate lies between, in log-odds.
    two, none = np.log(0.5495 / 0.4505), np.log(0.999 / 0.001)
    odds = two + (none - two) * (1 - SHIPPED_RATE / 0.2)
    assert shipped_threshold(made_curve([5, 2, 0])) == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)


def test_few_false_alarms_are_taken_for_the_tail_of_many() -> None:
    odds = np.arange(-1.0, 7.01, 0.25)
    zeros = np.zeros((1, len(odds)))
    # 40 at log-odds 0, falling off by e with each 1.5; what is seen are whole ones.
    expected = 40 * np.exp(-odds / 1.5)
    curve = Curve(
        "x", 1 / (1 + np.exp(-odds)), ["XX.A"], zeros, zeros, np.rint(expected)[None], np.ones(1), np.array([20.0])
    )
    fitted = fitted_rates(curve) * 20.0
    many = np.rint(expected) > 30
    assert (fitted[many] == np.rint(expected)[many]).all()
    tail = (~many) & (expected > 0.5)
    assert fitted[tail] == pytest.approx(expected[tail], rel=0.25)
    # Less than a third of one in all the noise is not spoken of.
    assert fitted[expected < 0.2].tolist() == [0.0] * int((expected < 0.2).sum())
    assert calibration(curve).false_alarms_per_day == pytest.approx((fitted / 20 * 24).tolist(), abs=1e-3)
    threshold = shipped_threshold(curve)
    assert np.log(threshold / (1 - threshold)) == pytest.approx(1.5 * np.log(40 / (20 * SHIPPED_RATE)), abs=0.4)


def test_a_rate_never_rises_with_the_threshold() -> None:
    # Two false alarms that a lower threshold had joined into one.
    assert made_curve([3, 1, 2, 0]).rates().tolist() == [0.3, 0.2, 0.2, 0.0]


def test_every_labelled_p_is_in_one_group_of_each_kind(store: Store) -> None:
    task = make_task(store, range(len(store)))
    for groups in breakdown(task).values():
        assert sorted(i for members in groups.values() for i in members) == list(range(len(task.all_wanted)))


def test_a_labelled_p_is_compared_by_value() -> None:
    assert LabelledP(0, 1.0, None, None) == LabelledP(0, 1.0, None, None)


# -- STA/LTA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ALL, ids=lambda s: s.name)
def test_sta_lta_is_one_in_noise_and_rises_with_a_wave(store: Store, chosen: StaLta) -> None:
    quiet = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    ratios = ratio(quiet, chosen)
    assert not ratios[:500].any()
    assert np.median(ratios[500:]) == pytest.approx(1.0, abs=0.15)
    assert ratio(quiet * 1e6 + 1e3, chosen)[2000:] == pytest.approx(ratios[2000:], rel=1e-3)
    quake = trace_ratio(store, 0, chosen)
    assert quake[P : P + 1000].max() > 2.5 > quake[600:P].max()


def test_sta_lta_triggers_once_for_one_wave(store: Store) -> None:
    found = triggers(trace_ratio(store, 0, ENERGY), ENERGY, 5.0)
    assert P <= found[0].onset < P + 30
    assert len(found) <= 2  # the S may come as a second one
    assert triggers(np.zeros(1000, np.float32), ENERGY, 5.0) == []
    at = ratio_detect({0: trace_ratio(store, 0, ENERGY)}, ENERGY)
    assert at(0, 5.0) == found


# -- other sampling rates and delays, by the shipped model -------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [31.25, 50.0, 250.0])
def test_as_recorded_at_another_rate(rate_hz: float) -> None:
    t = np.arange(6000) / 100
    slow, fast = np.sin(2 * np.pi * 3 * t), np.sin(2 * np.pi * 40 * t)
    made = as_recorded_at(rate_hz, np.stack([slow, fast, slow + fast]).astype(np.float32))
    at = np.arange(made.shape[1]) / rate_hz
    inner = slice(round(rate_hz), -round(rate_hz))
    np.testing.assert_allclose(made[0][inner], np.sin(2 * np.pi * 3 * at)[inner], atol=0.02)
    heard = float(np.abs(made[1][inner]).max())
    assert heard < 0.01 if rate_hz < 80 else heard > 0.9, "what is above half the rate is not folded down"


def test_the_pipeline_at_another_rate_speaks_of_the_same_samples(store: Store) -> None:
    model = Model(default_model_path())
    usual = trace_outputs(store, 1, model)
    assert usual is not None
    for rate_hz in (31.25, 250.0):
        other = trace_outputs(store, 1, model, rate_hz=rate_hz)
        assert other is not None
        assert (other.first_step, other.first_sample, other.per_step) == (
            usual.first_step,
            usual.first_sample,
            usual.per_step,
        )
        assert np.array_equal(other.judged, usual.judged)
        assert not np.array_equal(other.probabilities, usual.probabilities), "the resampler is in between"
    near = trace_outputs(store, 1, model, rate_hz=250.0)
    assert near is not None
    assert np.median(np.abs(near.probabilities - usual.probabilities)) < 0.05


def test_an_outage_longer_than_the_networks_context_is_not_judged(store: Store) -> None:
    traces = list(store.traces)
    gap = (9000, 16_000)
    traces[8] = replace(traces[8], gaps=(gap,))
    usual = trace_outputs(store, 8, Model(default_model_path()))
    broken = trace_outputs(Store(store.path, store.manifest, traces), 8, Model(default_model_path()))
    assert usual is not None
    assert broken is not None
    assert np.array_equal(broken.samples, usual.samples), "every step has its place"
    within = (broken.samples >= gap[0] + 100) & (broken.samples < gap[1] - 100)
    assert within.sum() > 100
    assert not broken.judged[within].any()
    after = broken.samples >= gap[1] + 1000
    assert np.array_equal(broken.judged[after], usual.judged[after])
    before = broken.samples < gap[0] - 200
    assert np.array_equal(broken.probabilities[before], usual.probabilities[before])


def test_figures_as_if_recorded_in_another_way(store: Store) -> None:
    task = make_task(store, range(9))
    model = Model(default_model_path())
    for rate_hz, alone in ((50.0, False), (100.0, True), (50.0, True)):
        figures = recorded_figures(
            task, model, DetectorSettings(), 0.5, name="so", rate_hz=rate_hz, vertical_alone=alone, seed=1
        )
        assert (figures["p_arrivals"], figures["stations"]) == (5, 3)
        assert set(figures["at_rate"]) == {"1", "0.1"}
        assert figures["at_threshold"]["threshold"] == 0.5


def test_a_store_of_verticals_alone_has_the_same_verticals(store: Store) -> None:
    alone = with_vertical_alone(store)
    model = Model(default_model_path())
    index = next(i for i, info in enumerate(store.traces) if all(info.components))
    assert alone.traces[index].components == (True, False, False)
    assert np.array_equal(alone.waveform(index)[0], store.waveform(index)[0])
    both, vertical = trace_outputs(store, index, model), trace_outputs(alone, index, model)
    assert both is not None
    assert vertical is not None
    assert not np.array_equal(both.probabilities, vertical.probabilities), "the horizontals are not there"


def test_traces_without_a_vertical_are_left_out_where_it_is_alone(store: Store) -> None:
    traces = list(store.traces)
    traces[0] = replace(traces[0], components=(False, True, True))
    task = make_task(Store(store.path, store.manifest, traces), range(9))
    figures = recorded_figures(
        task, Model(default_model_path()), DetectorSettings(), 0.5, name="so", vertical_alone=True, seed=1
    )
    assert figures["p_arrivals"] == sum(len(of) for of in task.wanted.values()) - len(task.wanted[0])


def test_delays_by_snr_are_of_the_same_picks(store: Store) -> None:
    task = make_task(store, range(9))
    model = Model(default_model_path())

    def told(index: int, threshold: float) -> list[Found]:
        return []

    figures = onset_figures(task, model, DetectorSettings(), told, 0.1)
    assert figures["delay_s"]["picks"] == len(figures["delays_s"]) > 0
    assert sum(of["picks"] for of in figures["delay_by_snr"].values()) == figures["delay_s"]["picks"]
    text = onset_tables({"onsets": figures | {"others": {"STA/LTA": {"picks": 3, "mad_s": 0.5}}}})
    assert "| delay of `new`, s | picks | 50 % | 90 % | 95 % |" in text
    assert "| SNR ≥ 10 |" in text
    assert "| STA/LTA | 3 | – | 0.500 |" in text
