"""The steps of training as `python -m train` runs them: files in, files out, figures told."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from monitor.detector import DetectorSettings
from monitor.model import Model
from train import benchmark as bench
from train.augment import ExampleMaker
from train.calibrate import calibrated, fit_platt, known_frames
from train.cluster import cluster, mean_over
from train.dataset import Store
from train.disturb_unseen import UNSEEN
from train.disturbed import disturb_noise, disturbed_figures
from train.evaluate import choose_windows, evaluate
from train.faint import faint_figures, lay
from train.mining import mine
from train.outputs import F32, FloatModel, Progress, TraceOutputs, all_outputs
from train.peers import Peer, all_p_probabilities
from train.restore import branches_of
from train.settings import Settings, of_branch, with_branches
from train.stalta import ALL as STA_LTA
from train.stalta import StaLta, trace_ratio
from train.traceinfo import RATE_HZ, Place

Watch = Callable[[str], Progress]
"""Given what is being done, gives what to tell how far it is."""

Report = Callable[[str, int, int, dict[str, float]], None]
"""Told what is being trained, the step, of how many, and the losses."""

SETTINGS_FILE = "settings.json"
EVALUATION_FILE = "evaluation.json"
BENCHMARK_FILE = "benchmark.json"
MINED_FILE = "mined.json"
_STATISTICS_BATCHES = 2
_SEEDS_OF_A_BRANCH = 3

SplitChoice = Literal["dev", "train", "all"]


def save_settings(settings: Settings, out: Path) -> None:
    """Keep the settings of a run with what came out of it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=1) + b"\n")


def saved_settings(out: Path) -> Settings:
    """Read the settings of the run in `out`.

    Raises:
        ValueError: There is none, or it is of another version.
    """
    path = out / SETTINGS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: not there; run fit first") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ValueError(f"{path}: {error}; run fit again") from error


def model_path(out: Path) -> Path:
    """The int8 model of the run in `out`.

    Raises:
        ValueError: There is none yet.
    """
    path = out / f"{saved_settings(out).name}.tflite"
    if not path.exists():
        raise ValueError(f"{path}: not there; run quantize first")
    return path


def chosen_traces(store: Store, *, split: SplitChoice, only: Sequence[str]) -> list[int]:
    """The traces to look at.

    Raises:
        ValueError: There are none.
    """
    indices = store.select(split=None if split == "all" else split, datasets=list(only) or None)
    if not indices:
        raise ValueError(f"{store.path}: no trace in split {split!r} with data set {', '.join(only) or 'any'}")
    return indices


def train(
    store: Store,
    settings: Settings,
    out: Path,
    *,
    start_from: Path | None = None,
    watch: Watch,
    report: Report,
) -> Path:
    """Train, or go on from a model; then as many rounds as the settings say of what the model itself finds in noise.

    What such a round is: see `train.mining`. All branches that are not there yet are trained apart.

    Args:
        store: The prepared recordings.
        settings: The run.
        out: Folder of the run.
        start_from: An int8 model to go on from, instead of the first training: see `train.restore`. If it has fewer
            branches than `settings`, it is kept as it is, and the others are trained beside it.
        watch: For progress of the mining.
        report: For progress of the training.

    Returns:
        Path of the Keras model.
    """
    mean_over(cluster())  # before anything of TensorFlow is made, such as the network to go on from
    there = branches_of(start_from) if start_from is not None else 0
    if settings.network.name == "stream" and settings.network.branches > max(there, 1):
        return _side_by_side(store, settings, out, start_from, watch, report)
    # TensorFlow is only where a model is made.
    from train.fit import fit, mean_weights, save_mean, weights_of  # noqa: PLC0415
    from train.quantize import quantize  # noqa: PLC0415

    first = settings.fit
    if start_from is None:
        path = fit(store, settings, out, report=lambda step, losses: report("training", step, first.steps, losses))
    else:
        path = _restored(store, settings, out, start_from)
    rounds = first.mining_rounds if start_from is None else first.tuning_rounds
    if not rounds or not first.mining_steps or settings.network.name != "stream":
        return path
    hard: list[Place] = []
    begun = weights_of(path)
    # What it began with has a share of its own: see tuned_share.
    late = [begun] if start_from is None else []
    for number in range(1, rounds + 1):
        early = quantize(store, settings, path, out / "before_mining")
        # All that was ever hard, since it is to stay learned.
        hard = list(dict.fromkeys(hard + mine(store, settings, early, watch("mining"))))
        write_json({"places": [[store.traces[index].name, sample] for index, sample in hard]}, out / MINED_FILE)
        later = msgspec.structs.replace(
            settings,
            # Other examples than before.
            seed=settings.seed + number,
            fit=msgspec.structs.replace(
                first, steps=first.mining_steps, learning_rate=first.learning_rate * first.mining_rate_share
            ),
        )
        told = _Told(report, f"with mined negatives, round {number}", first.mining_steps)
        path = fit(store, later, out, hard_negatives=hard, start_from=path, report=told)
        late.append(weights_of(path))
    last = late[-first.mean_of_last :]
    # Towards where fine-tuning leads, not all the way: much of what it brings and little of what it makes forget
    # (Wortsman and others, 2022, "Robust fine-tuning of zero-shot models").
    if start_from is not None:
        save_mean(path, [begun, mean_weights(last)], (1 - first.tuned_share, first.tuned_share))
    else:
        save_mean(path, last)
    return path


def _side_by_side(
    store: Store, settings: Settings, out: Path, start_from: Path | None, watch: Watch, report: Report
) -> Path:
    """Train each branch that is not there yet as a network of its own, in a folder of its own, then join them."""
    import keras  # noqa: PLC0415  # heavy: only where it is used

    from train.network import join  # noqa: PLC0415

    there, parts = 0, []
    if start_from is not None:
        there = branches_of(start_from)
        parts.append(_restored(store, with_branches(settings, there), out / "start", start_from))
    for number in range(there, settings.network.branches):
        name = f"branch{number + 1}"
        # Rounds of mining add their number to the seed.
        seed = settings.seed + number * _SEEDS_OF_A_BRANCH
        alone = msgspec.structs.replace(of_branch(settings, number), seed=seed)
        parts.append(train(store, alone, out / name, watch=watch, report=_of(name, report)))
    joined = join([keras.models.load_model(path, compile=False) for path in parts], settings)
    joined.save(out / "model.keras")
    return out / "model.keras"


def _of(branch: str, report: Report) -> Report:
    return lambda name, step, steps, losses: report(f"{branch}, {name}", step, steps, losses)


def _restored(store: Store, settings: Settings, out: Path, path: Path) -> Path:
    from train.fit import make_batch  # noqa: PLC0415
    from train.restore import restore  # noqa: PLC0415

    maker, rng = ExampleMaker(store, settings), np.random.default_rng(settings.seed)
    frames = np.concatenate([make_batch(maker, settings, rng)[0] for _ in range(_STATISTICS_BATCHES)])
    out.mkdir(parents=True, exist_ok=True)
    restore(path, settings, frames.astype(np.float32)).save(out / "model.keras")
    return out / "model.keras"


@dataclass(frozen=True, slots=True)
class _Told:
    """Passes on what `fit` reports, with what is being trained."""

    report: Report
    name: str
    steps: int

    def __call__(self, step: int, losses: dict[str, float]) -> None:
        self.report(self.name, step, self.steps, losses)


class Outputs:
    """What the models, STA/LTA and SeisBench's pickers say of traces.

    Args:
        store: The recordings.
        indices: Traces.
        path: The int8 model; the float one lies next to it.
        watch: For progress.
        peers: Pickers to compare with.
    """

    def __init__(
        self, store: Store, indices: list[int], path: Path, watch: Watch, *, peers: Sequence[Peer] = ()
    ) -> None:
        self.int8 = Model(path)
        self.float = FloatModel(path.with_suffix(".float.tflite"), self.int8)
        self.by_model: dict[str, Mapping[int, TraceOutputs]] = {
            name: all_outputs(store, indices, model, progress=watch(f"{name} network"))
            for name, model in (("int8", self.int8), ("float", self.float))
        }
        self.ratios: Mapping[StaLta, Mapping[int, F32]] = {
            setting: {i: trace_ratio(store, i, setting) for i in indices} for setting in STA_LTA
        }
        self.peers: list[tuple[Peer, Mapping[int, F32]]] = [
            (peer, all_p_probabilities(peer, store, indices, progress=watch(peer.name))) for peer in peers
        ]

    def calibrate(self, store: Store, path: Path) -> None:
        """Calibrate the probabilities, in the model file and here."""
        # The flatbuffer's tools are only where a model is written.
        from train.quantize import set_probabilities  # noqa: PLC0415

        frames = [known_frames(store.traces[i], of_trace) for i, of_trace in self.by_model["int8"].items()]
        platt = fit_platt(np.concatenate([said for said, _ in frames]), np.concatenate([true for _, true in frames]))
        set_probabilities(path, scale=platt.scale, offset=platt.offset)
        self.by_model = {name: calibrated(of, platt) for name, of in self.by_model.items()}
        self.reload(path)

    def reload(self, path: Path) -> None:
        """Take the metadata of the model file as they are now."""
        self.int8 = Model(path)


def run_evaluation(store: Store, indices: list[int], outputs: Outputs, *, split: str) -> dict[str, Any]:
    """Evaluate on windows, at the model's threshold."""
    settings, threshold = outputs.int8.metadata.settings, outputs.int8.metadata.threshold
    windows = choose_windows(store, indices, seed=int(settings["seed"]))
    models = {name: (of_model, threshold) for name, of_model in outputs.by_model.items()}
    along = {peer.name: (of_peer, peer.threshold) for peer, of_peer in outputs.peers}
    return {"split": split, **evaluate(windows, models=models, ratios=outputs.ratios, peers=along)}


def run_benchmark(
    store: Store,
    indices: list[int],
    outputs: Outputs,
    *,
    split: str,
    only: Sequence[str],
    path: Path,
    calibrate: bool,
    watch: Watch,
    rates_hz: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Run the continuous evaluation; sets the model's threshold and calibration if told to.

    Args:
        store: The recordings.
        indices: Traces.
        outputs: What the detectors say of them.
        split, only: How the traces were chosen, for the report.
        path: The int8 model.
        calibrate: Set its threshold and calibration.
        watch: For progress.
        rates_hz: Sampling rates at which the int8 model is to be judged, too, with the horizontals and without; None:
            `benchmark.OTHER_RATES_HZ`.
    """
    # The flatbuffer's tools are only where a model is written.
    from train.quantize import set_calibration  # noqa: PLC0415

    task = bench.make_task(store, indices)
    if calibrate:
        outputs.calibrate(store, path)
    detector = DetectorSettings()
    detect_at = {name: bench.model_detect(of, detector) for name, of in outputs.by_model.items()}
    seed = int(outputs.int8.metadata.settings["seed"])
    curves = {
        name: bench.run_curve(task, name, at, bench.MODEL_THRESHOLDS, progress=watch(f"{name} thresholds"))
        for name, at in detect_at.items()
    }
    threshold = outputs.int8.metadata.threshold
    if calibrate:
        threshold = bench.shipped_threshold(curves["int8"])
        set_calibration(path, threshold=threshold, calibration=bench.calibration(curves["int8"]))
    figures = {
        name: bench.curve_figures(curve, bench.run_curve(task, name, detect_at[name], [threshold]), task, seed=seed)
        for name, curve in curves.items()
    }
    own = {
        setting.name: (bench.ratio_detect(ratios, setting), bench.RATIO_THRESHOLDS, setting.threshold)
        for setting, ratios in outputs.ratios.items()
    } | {
        peer.name: (bench.peer_detect(of_peer), bench.PEER_THRESHOLDS, peer.threshold)
        for peer, of_peer in outputs.peers
    }
    for name, (at, thresholds, usual) in own.items():
        curve = bench.run_curve(task, name, at, thresholds, progress=watch(name))
        figures[name] = bench.curve_figures(curve, bench.run_curve(task, name, at, [usual]), task, seed=seed)
    model = Model(path)
    at_rates = {
        name: {f"{rate} /h": of["at_rate"][rate]["threshold"] for rate in ("1", "0.1")}
        | {"its default": of["at_threshold"]["threshold"]}
        for name, of in figures.items()
    }

    def detectors_on(made: Store, what: str) -> bench.Detectors:
        every = range(len(made))
        on = {"int8": bench.model_detect(all_outputs(made, every, model, progress=watch(what)), detector)}
        for setting in outputs.ratios:
            on[setting.name] = bench.ratio_detect({i: trace_ratio(made, i, setting) for i in every}, setting)
        for peer, _ in outputs.peers:
            along = all_p_probabilities(peer, made, every, progress=watch(f"{what}, {peer.name}"))
            on[peer.name] = bench.peer_detect(along)
        return {name: (at, at_rates[name]) for name, at in on.items()}

    rates_hz = bench.OTHER_RATES_HZ if rates_hz is None else rates_hz
    ways = {f"{rate_hz:g} Hz": (rate_hz, False) for rate_hz in rates_hz}
    ways |= {"vertical alone": (RATE_HZ, True)}
    ways |= {f"vertical alone, {rate_hz:g} Hz": (rate_hz, True) for rate_hz in rates_hz}
    recorded = {
        name: bench.recorded_figures(
            task,
            model,
            detector,
            threshold,
            name=name,
            rate_hz=rate_hz,
            vertical_alone=alone,
            seed=seed,
            progress=watch(f"as if recorded: {name}"),
        )
        for name, (rate_hz, alone) in ways.items()
    }
    faint, disturbed = lay(store, indices, seed=seed), disturb_noise(store, indices, seed=seed)
    unseen = disturb_noise(store, indices, UNSEEN, seed=seed)
    return {
        "split": split,
        "only": list(only),
        "calibrated_here": calibrate,
        "threshold": threshold,
        "detectors": figures,
        "recorded": recorded,
        "onsets": bench.onset_figures(
            task, model, detector, detect_at["int8"], threshold, progress=watch("onsets and delays")
        )
        | {"others": {name: bench.own_residuals(task, at, usual) for name, (at, _, usual) in own.items()}},
        "faint": faint_figures(faint, detectors_on(faint, "faint earthquakes")) if len(faint) else None,
        "disturbed": disturbed_figures(disturbed, detectors_on(disturbed, "disturbed noise"))
        if len(disturbed)
        else None,
        "unseen": disturbed_figures(unseen, detectors_on(unseen, "what training never makes")) if len(unseen) else None,
        "parity": bench.parity(task, detect_at["int8"], detect_at["float"], threshold),
        "reliability": bench.reliability(task, outputs.by_model["int8"]),
        "false_alarms": [
            {"trace": store.traces[alarm.trace].name, "sample": alarm.sample, "score": round(alarm.score, 4)}
            for alarm in bench.false_alarms(task, detect_at["int8"], threshold)
        ],
    }


def write_json(figures: Mapping[str, Any], path: Path) -> None:
    """Write figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read figures; None where there are none."""
    if not path.exists():
        return None
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures
