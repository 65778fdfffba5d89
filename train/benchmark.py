"""The `benchmark` step: the detectors along continuous data, recall against false alarms per station-hour.

Every trace of the chosen ones goes through the station's pipeline once for each model; what the network said is kept,
and the monitor's own detector runs over it at every threshold. The rules that tell right from wrong are in
`train.truth`. Onsets and delays are those of whole runs of the pipeline at the shipped threshold, the refinement on
the waveform included.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from monitor.detector import DetectorSettings
from monitor.model import Calibration, Model
from train.calibrate import known_frames
from train.dataset import Store
from train.evaluate import SNR_BINS_DB
from train.outputs import F32, Found, Progress, TraceOutputs, all_outputs, detect, publish
from train.peers import picks
from train.stalta import StaLta, triggers
from train.traceinfo import RATE_HZ, TraceInfo
from train.truth import LabelledP, demanded, judge, noise_samples

F64 = npt.NDArray[np.float64]

MODEL_THRESHOLDS: tuple[float, ...] = tuple(round(float(1 / (1 + np.exp(-x))), 6) for x in np.arange(-3.0, 8.01, 0.25))
PEER_THRESHOLDS: tuple[float, ...] = tuple(round(float(1 / (1 + np.exp(-x))), 6) for x in np.arange(-4.5, 7.01, 0.25))
RATIO_THRESHOLDS: tuple[float, ...] = tuple(round(float(1.1 * 1.12**k), 3) for k in range(48))
SHIPPED_RATE = 0.1
"""False alarms per station-hour on dev noise that the default threshold stands for."""
RATES = (1.0, 0.1)
"""False alarms per station-hour at which recall is stated."""
OTHER_RATES_HZ = (31.25, 50.0)
"""Sampling rates that are common in the field, beside the store's own."""
LEAST_THRESHOLD = 0.5
HIGHEST_THRESHOLD = 0.995
# So many false alarms tell how they become fewer with a higher threshold; the fewest that are spoken of.
_TAIL_ALARMS = 30
_LEAST_ALARMS = 1 / 3
_REPLICATES = 400
_INTERVAL = (5, 95)
_ONSET_WITHIN_S = (0.1, 0.3, 0.5)

Detect = Callable[[int, float], list[Found]]
"""Trace index and threshold -> detections."""

Detectors = Mapping[str, tuple[Detect, Mapping[str, float]]]
"""By name, what a detector finds and its thresholds by name."""

Group = TypeVar("Group", bound=Hashable)


@dataclass(slots=True)
class Curve:
    """What one detector did at each threshold.

    Attributes:
        name: The detector.
        thresholds: Ascending [n].
        stations: Names [k].
        hits: Picked P arrivals [shape=(k, n)].
        found: Found ones, by the looser rule [shape=(k, n)].
        false: False alarms on noise and continuous traces [shape=(k, n)].
        wanted: P arrivals that count [shape=(k,)].
        hours: Noise time [shape=(k,)].
        picked: For each threshold, for each P in the order of `Task.wanted`, whether it was picked.
    """

    name: str
    thresholds: F64
    stations: list[str]
    hits: F64
    found: F64
    false: F64
    wanted: F64
    hours: F64
    picked: list[list[bool]] = field(default_factory=list)

    def rates(self, replicate: npt.NDArray[np.int64] | None = None) -> F64:
        """False alarms per hour of noise, never rising with the threshold [shape=(n,)]."""
        chosen = slice(None) if replicate is None else replicate
        rates = self.false[chosen].sum(axis=0) / max(float(self.hours[chosen].sum()), 1e-9)
        return np.asarray(np.maximum.accumulate(rates[::-1])[::-1])

    def recalls(self, replicate: npt.NDArray[np.int64] | None = None) -> F64:
        """Share of the P arrivals that are picked [shape=(n,)]."""
        chosen = slice(None) if replicate is None else replicate
        return np.asarray(self.hits[chosen].sum(axis=0) / max(float(self.wanted[chosen].sum()), 1.0))

    def threshold_at(self, rate: float, replicate: npt.NDArray[np.int64] | None = None) -> float:
        """Position among the thresholds (a fraction lies between two) of the smallest with at most this rate."""
        rates = self.rates(replicate)
        below = int(np.argmax(rates <= rate)) if (rates <= rate).any() else len(rates) - 1
        if below == 0 or rates[below] > rate:
            return float(below)
        upper, lower = rates[below - 1], rates[below]
        return below - float((rate - lower) / (upper - lower))

    def recall_at(self, rate: float, replicate: npt.NDArray[np.int64] | None = None) -> float:
        """Recall at a rate of false alarms."""
        recalls = self.recalls(replicate)
        return float(np.interp(self.threshold_at(rate, replicate), np.arange(len(recalls)), recalls))

    def threshold_value(self, rate: float) -> float:
        """The threshold at a rate of false alarms, interpolated on the scale that the thresholds are even on."""
        position = self.threshold_at(rate)
        low, high = int(np.floor(position)), int(np.ceil(position))
        a, b = self.thresholds[low], self.thresholds[high]
        share = position - low
        if b < 1:
            odds = (1 - share) * np.log(a / (1 - a)) + share * np.log(b / (1 - b))
            return float(1 / (1 + np.exp(-odds)))
        return float(a ** (1 - share) * b**share)


@dataclass(frozen=True, slots=True)
class Task:
    """What is benchmarked on.

    Attributes:
        store: The recordings.
        indices: Traces.
        wanted: By trace, the P arrivals that count.
        noise_hours: By trace, the time in which a detection is a false alarm; 0 for `event` traces, which were chosen
            for their earthquakes.
    """

    store: Store
    indices: list[int]
    wanted: dict[int, list[LabelledP]]
    noise_hours: dict[int, float]

    @property
    def all_wanted(self) -> list[LabelledP]:
        """All P arrivals that count, trace by trace."""
        return [want for index in self.indices for want in self.wanted[index]]

    def info(self, index: int) -> TraceInfo:
        """What is known about a trace."""
        return self.store.traces[index]


def make_task(store: Store, indices: Sequence[int]) -> Task:
    """Collect the labels of traces."""
    chosen = [i for i in indices if store.traces[i].kind != "other"]
    return Task(
        store=store,
        indices=chosen,
        wanted={i: demanded(store, i) for i in chosen},
        noise_hours={
            i: 0.0 if store.traces[i].kind == "event" else float(noise_samples(store.traces[i]).sum()) / RATE_HZ / 3600
            for i in chosen
        },
    )


def run_curve(
    task: Task, name: str, detect_at: Detect, thresholds: Sequence[float], *, progress: Progress | None = None
) -> Curve:
    """Run a detector at every threshold."""
    stations = sorted({task.info(i).station for i in task.indices})
    row = {station: k for k, station in enumerate(stations)}
    shape = (len(stations), len(thresholds))
    curve = Curve(
        name=name,
        thresholds=np.asarray(thresholds, np.float64),
        stations=stations,
        hits=np.zeros(shape),
        found=np.zeros(shape),
        false=np.zeros(shape),
        wanted=np.zeros(len(stations)),
        hours=np.zeros(len(stations)),
    )
    for index in task.indices:
        curve.wanted[row[task.info(index).station]] += len(task.wanted[index])
        curve.hours[row[task.info(index).station]] += task.noise_hours[index]
    for column, threshold in enumerate(thresholds):
        picked: list[bool] = []
        for index in task.indices:
            info = task.info(index)
            verdict = judge(info, task.wanted[index], detect_at(index, threshold))
            k = row[info.station]
            hit = [j is not None for j in verdict.picked]
            picked += hit
            curve.hits[k, column] += sum(hit)
            curve.found[k, column] += sum(verdict.found)
            if info.kind != "event":
                curve.false[k, column] += len(verdict.false)
        curve.picked.append(picked)
        if progress is not None:
            progress(column + 1, len(thresholds))
    return curve


def curves_by(
    store: Store, groups: Sequence[Group], detectors: Detectors
) -> dict[Group, tuple[Task, dict[str, Curve]]]:
    """Run detectors at their thresholds on each group of traces alone.

    Args:
        store: Recordings.
        groups: Of each trace.
        detectors: What is run.

    Returns:
        For each group, as they come, its task and each detector's curve at its thresholds.
    """
    result = {}
    for group in dict.fromkeys(groups):
        task = make_task(store, [i for i, of in enumerate(groups) if of == group])
        result[group] = (
            task,
            {name: run_curve(task, name, at, list(of.values())) for name, (at, of) in detectors.items()},
        )
    return result


def model_detect(outputs: Mapping[int, TraceOutputs], settings: DetectorSettings) -> Detect:
    """The monitor's detector on kept outputs."""

    def at(index: int, threshold: float) -> list[Found]:
        return detect(outputs[index], settings, threshold) if index in outputs else []

    return at


def ratio_detect(ratios: Mapping[int, F32], setting: StaLta) -> Detect:
    """STA/LTA on kept ratios."""

    def at(index: int, threshold: float) -> list[Found]:
        return triggers(ratios[index], setting, threshold)

    return at


def peer_detect(along: Mapping[int, F32]) -> Detect:
    """A picker of SeisBench on kept P probabilities."""

    def at(index: int, threshold: float) -> list[Found]:
        return picks(along[index], threshold)

    return at


def fitted_rates(curve: Curve) -> F64:
    """False alarms per station-hour, smooth where they are few [shape=(n,)].

    What lies above a threshold high enough falls off exponentially in log-odds (peaks over threshold, Pickands, 1975,
    with a shape of 0); its scale is the mean excess over the threshold with at most `_TAIL_ALARMS` of them. Beyond a
    third of one false alarm in all the noise nothing is said: 0.
    """
    rates, hours = curve.rates(), max(float(curve.hours.sum()), 1e-9)
    few = (rates * hours <= _TAIL_ALARMS) & (curve.thresholds >= LEAST_THRESHOLD)
    begin = int(np.argmax(few))
    odds = np.log(curve.thresholds / (1 - curve.thresholds))
    excess = float(np.sum((rates[begin:-1] + rates[begin + 1 :]) / 2 * np.diff(odds[begin:])))
    if not few.any() or excess <= 0:
        return rates
    fitted = rates.copy()
    fitted[begin:] = rates[begin] * np.exp(-(odds[begin:] - odds[begin]) * rates[begin] / excess)
    fitted[fitted * hours < _LEAST_ALARMS] = 0.0
    return fitted


def shipped_threshold(curve: Curve) -> float:
    """The smallest threshold with at most `SHIPPED_RATE` false alarms per station-hour, within sane limits."""
    smooth = replace(curve, false=fitted_rates(curve)[None] * curve.hours.sum(), hours=curve.hours.sum(keepdims=True))
    return round(min(max(smooth.threshold_value(SHIPPED_RATE), LEAST_THRESHOLD), HIGHEST_THRESHOLD), 4)


def calibration(curve: Curve) -> Calibration:
    """False alarms per station-day at each threshold, as the model carries it."""
    return Calibration(
        thresholds=[float(t) for t in curve.thresholds],
        false_alarms_per_day=[round(24 * float(rate), 4) for rate in fitted_rates(curve)],
        station_hours=round(float(curve.hours.sum()), 2),
    )


def curve_figures(curve: Curve, at: Curve, task: Task, *, seed: int) -> dict[str, Any]:
    """The figures of a curve, with 90 % intervals from resampling the stations.

    Args:
        curve: At all thresholds.
        at: The same detector at one threshold, the one that it is used with.
        task: What both were run on.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    replicates = [rng.integers(0, len(curve.stations), len(curve.stations)) for _ in range(_REPLICATES)]
    # A replicate without earthquakes or without noise says nothing.
    replicates = [r for r in replicates if curve.wanted[r].sum() > 0 and curve.hours[r].sum() > 0]

    def interval(values: list[float]) -> list[float] | None:
        return [round(float(v), 4) for v in np.percentile(values, _INTERVAL)] if values else None

    figures: dict[str, Any] = {
        "p_arrivals": int(curve.wanted.sum()),
        "noise_hours": round(float(curve.hours.sum()), 2),
        "stations": len(curve.stations),
        "at_rate": {
            f"{rate:g}": {
                "recall": curve.recall_at(rate),
                "interval_90": interval([curve.recall_at(rate, r) for r in replicates]),
                "threshold": curve.threshold_value(rate),
            }
            for rate in RATES
        },
        "at_threshold": {
            "threshold": float(at.thresholds[0]),
            "recall": float(at.recalls()[0]),
            "recall_interval_90": interval([float(at.recalls(r)[0]) for r in replicates]),
            "event_found": float(at.found.sum() / max(at.wanted.sum(), 1)),
            "false_alarms": int(at.false.sum()),
            "false_alarms_per_hour": float(at.rates()[0]),
            "false_alarms_per_hour_interval_90": interval([float(at.rates(r)[0]) for r in replicates]),
        },
        "curve": {
            "thresholds": curve.thresholds.tolist(),
            "recall": curve.recalls().round(4).tolist(),
            "event_found": (curve.found.sum(axis=0) / max(curve.wanted.sum(), 1)).round(4).tolist(),
            "false_alarms_per_hour": curve.rates().round(4).tolist(),
        },
    }
    # Between two thresholds: a part of what only the lower one picks.
    picked = {f"{rate:g}": _picked_between(curve, curve.threshold_at(rate)) for rate in RATES}
    figures["by"] = {
        label: {
            group: {
                "p_arrivals": len(members),
                **{rate: float(np.mean(shares[members])) for rate, shares in picked.items()},
            }
            for group, members in groups.items()
        }
        for label, groups in breakdown(task).items()
    }
    return figures


def with_vertical_alone(store: Store) -> Store:
    """The store as seismometers without horizontals would have recorded it."""
    alone = [replace(info, components=(info.components[0], False, False)) for info in store.traces]
    return Store(store.path, store.manifest, alone)


def recorded_figures(
    task: Task,
    model: Model,
    settings: DetectorSettings,
    threshold: float,
    *,
    name: str,
    rate_hz: float = RATE_HZ,
    vertical_alone: bool = False,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The figures of a model for the same traces, noise included, as if recorded in another way.

    Args:
        task, model, settings, threshold: As for what is judged as it is stored.
        name: What to call it.
        rate_hz: The sampling rate.
        vertical_alone: Without the horizontals; traces that have nothing else are left out.
        seed: Of the resampling of stations.
        progress: Told how many traces are done.
    """
    if vertical_alone:
        task = make_task(
            with_vertical_alone(task.store), [i for i in task.indices if task.store.traces[i].components[0]]
        )
    detect_at = model_detect(all_outputs(task.store, task.indices, model, rate_hz=rate_hz, progress=progress), settings)
    curve = run_curve(task, name, detect_at, MODEL_THRESHOLDS)
    figures = curve_figures(curve, run_curve(task, name, detect_at, [threshold]), task, seed=seed)
    return {key: value for key, value in figures.items() if key not in ("curve", "by")}


def _picked_between(curve: Curve, position: float) -> F64:
    low, high = int(np.floor(position)), int(np.ceil(position))
    share = position - low
    return (1 - share) * np.asarray(curve.picked[low], float) + share * np.asarray(curve.picked[high], float)


def breakdown(task: Task) -> dict[str, dict[str, list[int]]]:
    """Positions in `Task.all_wanted` by property and its value, such as by SNR."""
    groups: dict[str, dict[str, list[int]]] = {}
    for position, want in enumerate(task.all_wanted):
        for label, value in _properties(want, task.info(want.index)).items():
            groups.setdefault(label, {}).setdefault(value, []).append(position)
    return {label: dict(sorted(members.items())) for label, members in groups.items()}


def _properties(want: LabelledP, info: TraceInfo) -> dict[str, str]:
    distance = None if want.s_sample is None else (want.s_sample - want.sample) / RATE_HZ
    bins = ((3.0, "1: under 3 s"), (8.0, "2: 3 to 8 s"), (20.0, "3: 8 to 20 s"), (float("inf"), "4: over 20 s"))
    label = next((p.label_source for p in info.picks if p.phase == "P" and p.sample == want.sample), info.label_source)
    return {
        "SNR": "not known"
        if want.snr_db is None
        else next(f"{k}: {name}" for k, (name, low, high) in enumerate(SNR_BINS_DB, 1) if low <= want.snr_db < high),
        "S-P": "no S" if distance is None else next(name for limit, name in bins if distance < limit),
        "instrument": info.instrument or "not known",
        "components": "three" if all(info.components) else "vertical only" if info.components[0] else "others",
        "bandwidth": "up to 25 Hz" if info.bandwidth_hz <= 25 else "over 25 Hz",
        "labelled by": label,
        "kind": info.kind,
        "data set": info.dataset,
    }


def onset_figures(
    task: Task,
    model: Model,
    settings: DetectorSettings,
    raw: Detect,
    threshold: float,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Onset errors with and without the waveform refinement, and delays, at one threshold.

    The delay is from the labelled P to the end of the samples that the first report of the detection needed.
    """
    refined: list[tuple[float, str]] = []
    network: list[tuple[float, str]] = []
    delays: list[tuple[float, str]] = []
    with_events = [i for i in task.indices if task.wanted[i]]
    for done, index in enumerate(with_events):
        info, wanted = task.info(index), task.wanted[index]
        told = publish(task.store, index, model, settings, threshold)
        verdict = judge(info, wanted, [t.found for t in told])
        for want, j in zip(wanted, verdict.picked, strict=True):
            if j is not None:
                of_p = _properties(want, info)
                refined.append(((told[j].found.onset - want.sample) / RATE_HZ, of_p["labelled by"]))
                delays.append(((told[j].decided - want.sample) / RATE_HZ, of_p["SNR"]))
        found = raw(index, threshold)
        verdict = judge(info, wanted, found)
        network += [
            ((found[j].onset - want.sample) / RATE_HZ, _properties(want, info)["labelled by"])
            for want, j in zip(wanted, verdict.picked, strict=True)
            if j is not None
        ]
        if progress is not None:
            progress(done + 1, len(with_events))
    figures: dict[str, Any] = {
        "threshold": threshold,
        "refined": _residuals([value for value, _ in refined]),
        "network": _residuals([value for value, _ in network]),
        "residuals_s": [round(value, 3) for value, _ in refined],
        "network_residuals_s": [round(value, 3) for value, _ in network],
        "by_label": {
            label: {
                "refined": _residuals([value for value, of in refined if of == label]),
                "network": _residuals([value for value, of in network if of == label]),
            }
            for label in sorted({of for _, of in refined})
        },
    }
    if delays:
        seconds = [value for value, _ in delays]
        figures["delay_s"] = _delays(seconds)
        figures["delays_s"] = [round(value, 3) for value in seconds]
        figures["delay_by_snr"] = {
            group: _delays([value for value, of in delays if of == group]) for group in sorted({of for _, of in delays})
        }
    return figures


def _delays(seconds: Sequence[float]) -> dict[str, float]:
    names = ("p05", "median", "p90", "p95")
    values = np.percentile(seconds, (5, 50, 90, 95))
    return {"picks": len(seconds), **{name: round(float(v), 3) for name, v in zip(names, values, strict=True)}}


def own_residuals(task: Task, detect_at: Detect, threshold: float) -> dict[str, Any]:
    """Onset errors of a detector as it gives its onsets, at one threshold."""
    seconds = []
    for index in task.indices:
        if wanted := task.wanted[index]:
            found = detect_at(index, threshold)
            picked = judge(task.info(index), wanted, found).picked
            seconds += [
                (found[j].onset - want.sample) / RATE_HZ
                for want, j in zip(wanted, picked, strict=True)
                if j is not None
            ]
    return _residuals(seconds)


def _residuals(seconds: Sequence[float]) -> dict[str, Any]:
    values = np.asarray(seconds, np.float64)
    if not len(values):
        return {"picks": 0}
    median = float(np.median(values))
    return {
        "picks": len(values),
        "median_s": round(median, 4),
        "mad_s": round(float(np.median(np.abs(values - median))), 4),
        **{f"within_{limit:g}_s": round(float(np.mean(np.abs(values) <= limit)), 4) for limit in _ONSET_WITHIN_S},
    }


def parity(task: Task, one: Detect, other: Detect, threshold: float) -> dict[str, Any]:
    """How many detections of two detectors at one threshold the other does not have.

    `share`: none of the other has its onset within 0.5 s; `missing_share`: none of the other overlaps it at all.
    """
    total = alone = missing = 0
    for index in task.indices:
        left, right = one(index, threshold), other(index, threshold)
        for a, b in ((left, right), (right, left)):
            total += len(a)
            alone += sum(all(abs(d.onset - e.onset) > 0.5 * RATE_HZ for e in b) for d in a)
            missing += sum(all(d.onset > e.end or d.end < e.onset for e in b) for d in a)
    share, missing_share = (alone / total, missing / total) if total else (0.0, 0.0)
    return {
        "detections": total,
        "without_partner": alone,
        "share": share,
        "missing": missing,
        "missing_share": missing_share,
    }


class FalseAlarm(NamedTuple):
    """A detection where no earthquake is labelled: in trace `trace`, from `sample` until `end`."""

    trace: int
    sample: int
    end: int
    score: float


def false_alarms(task: Task, detect_at: Detect, threshold: float) -> list[FalseAlarm]:
    """List the false alarms: what the next training may learn from."""
    result = []
    for index in task.indices:
        if task.info(index).kind == "event":
            continue
        found = detect_at(index, threshold)
        verdict = judge(task.info(index), task.wanted[index], found)
        alarms = (found[j] for j in verdict.false)
        result += [FalseAlarm(index, round(of.onset), round(of.end), of.score) for of in alarms]
    return result


def reliability(task: Task, outputs: Mapping[int, TraceOutputs], *, bins: int = 10) -> dict[str, Any]:
    """How often it is an earthquake when the network says so, per frame; expected calibration error.

    The frames are those of `train.calibrate.known_frames`, of all traces alike.
    """
    pairs = [known_frames(task.info(i), of_trace) for i, of_trace in outputs.items() if i in task.wanted]
    said, true = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    probability = np.concatenate(said) if said else np.zeros(0)
    truth = np.concatenate(true) if true else np.zeros(0)
    if not len(probability):
        return {"frames": 0}
    member = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(member, minlength=bins)
    mean_said = np.bincount(member, probability, bins) / np.maximum(count, 1)
    mean_true = np.bincount(member, truth, bins) / np.maximum(count, 1)
    return {
        "frames": len(probability),
        "expected_calibration_error": round(float(np.sum(count * np.abs(mean_said - mean_true)) / len(truth)), 5),
        "bins": [
            {"frames": int(n), "said": round(float(a), 4), "true": round(float(b), 4)}
            for n, a, b in zip(count, mean_said, mean_true, strict=True)
        ],
    }
