"""SeisBench's pickers along the same traces, where the user has them: `pip install seisbench`.

Woollam, J. et al. (2022), "SeisBench: A toolbox for machine learning in seismology", SRL 93. Nothing else imports it.
A model gets each run of samples through its own `annotate`: its sampling rate, its normalisation, its windows and
their overlap. What it says of P is kept along the trace; a pick is the highest moment of a stretch above the threshold
that ends below half of it, as SeisBench's own `classify` picks.
"""

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.dataset import Store
from train.outputs import Found, Progress, real_runs
from train.traceinfo import RATE_HZ
from train.truth import WARM_UP_S

F32 = npt.NDArray[np.float32]

# What SeisBench picks at where a model does not say.
_USUAL_THRESHOLD = 0.3
_OFF_SHARE = 0.5
# As much as counts are: what is stored as metres or less is nothing beside what pickers add before they divide by it.
_COUNTS = 1000.0
_P = "_P"
_FILE = re.compile(r"(.+?)(?:\.(pt|json)(?:\.v(.+))?)?")
_ABSENT = "seisbench is not installed; it comes with: pip install seisbench"


class AbsentError(Exception):
    """SeisBench, a model or its weights are not there; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A picker of SeisBench, loaded.

    Attributes:
        name: What tables call it.
        threshold: P probability at which it picks, as it was published.
        model: `seisbench.models.WaveformModel`, or what behaves like one: `annotate`, `in_samples`, `sampling_rate`.
    """

    name: str
    threshold: float
    model: Any


def load_peers(names: str) -> list[Peer]:
    """Load pickers.

    Args:
        names: Such as `PhaseNet:original,EQTransformer:weights/mine.pt`: a model of SeisBench and the name of its
            weights, or a file of them with its `.json` next to it, as SeisBench saves them (with a version
            `mine.pt.v2`).

    Raises:
        AbsentError: SeisBench, a model or weights are not there.
    """
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    if not wanted:
        raise AbsentError(f"{names!r} names no model; accepted: such as PhaseNet:original,EQTransformer:original")
    try:
        models = importlib.import_module("seisbench.models")
    except ImportError as error:
        raise AbsentError(f"{_ABSENT} ({error})") from error
    return [_load(part, models) for part in wanted]


def _load(text: str, models: Any) -> Peer:
    name, _, weights = text.partition(":")
    kind: Any = getattr(models, name, None)
    if not hasattr(kind, "from_pretrained") or not hasattr(kind, "annotate"):
        raise AbsentError(f"{name}: not a picker of this SeisBench; accepted: such as PhaseNet, EQTransformer, GPD")
    weights = weights or "original"
    base, ending, version = _FILE.fullmatch(weights).groups()  # type: ignore[union-attr]  # it matches anything
    file = Path(base)
    try:
        if ending or file.is_file() or len(file.parts) > 1:
            model = kind.load(file, version_str=version)
            label = f"{name} {file.name}"
        else:
            model = kind.from_pretrained(weights)
            label = f"{name} {weights}"
    # Not in the cache and no network, no such name, no such file: SeisBench has an exception of its own for each.
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise AbsentError(f"{text}: no weights: {_first_line(error)}") from error
    model.eval()
    return Peer(label, _threshold(model), model)


def _threshold(model: Any) -> float:
    """What it picks P at: as its weights say, else as its kind does."""
    of_weights: Mapping[str, Any] = getattr(model, "default_args", None) or {}
    of_kind: Mapping[str, Any] = getattr(model, "_annotate_args", None) or {}
    _, usual = of_kind.get("*_threshold", ("", _USUAL_THRESHOLD))
    return float(of_weights.get("P_threshold", of_weights.get("*_threshold", usual)))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def p_probability(peer: Peer, store: Store, index: int) -> F32:
    """What a picker says of P along a trace [shape=(npts,)]; 0 in gaps and in the first 5 s after them.

    A run is continued by its mirror image for as long as the model's window needs, or its end would not be looked at.

    Raises:
        AbsentError: The model gives no P probability.
    """
    from obspy import Stream, Trace, UTCDateTime  # noqa: PLC0415  # what SeisBench takes

    info = store.traces[index]
    network, _, station = info.station.partition(".")
    result = np.zeros(info.npts, np.float32)
    window = int(np.ceil(peer.model.in_samples * RATE_HZ / (peer.model.sampling_rate or RATE_HZ))) + 1
    for first, stop in real_runs(info):
        if stop - first <= WARM_UP_S * RATE_HZ:
            continue
        samples = store.waveform(index, first, stop).astype(np.float64)
        samples -= samples.mean(axis=1, keepdims=True)
        samples *= _COUNTS / (float(samples.std()) or 1.0)
        samples = np.pad(samples, ((0, 0), (0, window)), "reflect")
        header = {"network": network, "station": station, "sampling_rate": RATE_HZ, "starttime": UTCDateTime(0)}
        stream = Stream(
            Trace(samples[row], {**header, "channel": f"H{info.instrument or 'H'}{letter}"})
            for row, (letter, present) in enumerate(zip("ZNE", info.components, strict=True))
            if present
        )
        said = [trace for trace in peer.model.annotate(stream) if trace.stats.channel.endswith(_P)]
        if not said:
            raise AbsentError(f"{peer.name}: gives no P probability; accepted: models whose phases hold P")
        for trace in said:
            _lay(result[first:stop], trace)
        result[first : first + round(WARM_UP_S * RATE_HZ)] = 0
    return result


def _lay(onto: F32, trace: Any) -> None:
    """Lay what a model says, at its own rate, onto 100 Hz."""
    begin = float(trace.stats.starttime.timestamp) * RATE_HZ
    step = RATE_HZ / float(trace.stats.sampling_rate)
    values = np.nan_to_num(np.asarray(trace.data, np.float64))
    positions = begin + step * np.arange(len(values))
    at = np.arange(len(onto))
    laid = np.interp(at, positions, values, left=0.0, right=0.0)
    np.maximum(onto, laid.astype(np.float32), out=onto)


def all_p_probabilities(
    peer: Peer, store: Store, indices: Iterable[int], *, progress: Progress | None = None
) -> Mapping[int, F32]:
    """P probabilities along traces, by index."""
    chosen = list(indices)
    result = {}
    for done, index in enumerate(chosen):
        result[index] = p_probability(peer, store, index)
        if progress is not None:
            progress(done + 1, len(chosen))
    return result


def picks(probability: F32, threshold: float) -> list[Found]:
    """Pick where a P probability is highest, from the threshold until it is below half of it."""
    above = probability >= threshold
    rises = np.flatnonzero(above & ~np.concatenate(([False], above[:-1])))
    ends = np.append(np.flatnonzero(probability < _OFF_SHARE * threshold), len(probability))
    found: list[Found] = []
    free = 0
    for start in rises.tolist():
        if start < free:
            continue
        free = int(ends[np.searchsorted(ends, start)])
        peak = start + int(np.argmax(probability[start:free]))
        found.append(Found(peak, free, float(probability[peak])))
    return found
