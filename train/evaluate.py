"""The `evaluate` step: is there an earthquake in these 30 seconds? Float, int8 and STA/LTA on the same windows.

A window's score is the highest event probability of the outputs that speak of a moment in it, taken from the
station's pipeline as it runs along the whole trace: what the monitor would have shown. Windows:

* positive: a labelled P lies in it, with 2 s or more after it, and was there to be judged (see `train.truth`);
* negative: no labelled earthquake nor its coda, nothing of unknown truth; from noise traces and from continuous ones;
* where in a trace they lie is drawn from the seed; at least 25 s of a window must have been there to be judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from monitor.spectrogram import Bool
from train.dataset import Store
from train.outputs import F32, TraceOutputs, real_runs
from train.stalta import StaLta
from train.traceinfo import RATE_HZ
from train.truth import AFTER_S, WARM_UP_S, demanded, not_noise

F64 = npt.NDArray[np.float64]

WINDOW_S = 30.0
_LEAST_REAL_S = 25.0

SNR_BINS_DB: tuple[tuple[str, float, float], ...] = (
    ("SNR < 1.5", -np.inf, 3.52),
    ("SNR 1.5 to 3", 3.52, 9.54),
    ("SNR 3 to 10", 9.54, 20.0),
    ("SNR ≥ 10", 20.0, np.inf),
)
"""Ratios of amplitudes, as the field quotes them, and their decibels."""


@dataclass(frozen=True, slots=True)
class Window:
    """Thirty seconds of a trace.

    Attributes:
        index: The trace.
        start: First sample.
        positive: An earthquake's P is in it.
        snr_db: Of that P; None if negative or not measurable.
    """

    index: int
    start: int
    positive: bool
    snr_db: float | None = None


def choose_windows(store: Store, indices: Sequence[int], *, seed: int) -> list[Window]:
    """Choose the windows of some traces; the same for the same seed."""
    length = round(WINDOW_S * RATE_HZ)
    windows: list[Window] = []
    for index in indices:
        info = store.traces[index]
        if info.npts < length:
            continue
        # By the trace's name: what else is evaluated does not move a trace's windows.
        rng = np.random.default_rng([seed, *info.name.encode()])
        judgeable = np.zeros(info.npts, bool)
        for start, stop in real_runs(info):
            judgeable[start + round(WARM_UP_S * RATE_HZ) : stop] = True
        there = np.concatenate(([0], np.cumsum(judgeable)))

        def real(start: int, there: npt.NDArray[np.int64] = there) -> bool:
            return bool(there[start + length] - there[start] >= _LEAST_REAL_S * RATE_HZ)

        for want in demanded(store, index):
            low = max(0, int(want.sample + AFTER_S * RATE_HZ) - length + 1)
            high = min(int(want.sample), info.npts - length)
            if low <= high:
                start = int(rng.integers(low, high + 1))
                if real(start):
                    windows.append(Window(index, start, True, want.snr_db))
        if info.kind not in ("noise", "continuous"):
            continue
        doubtful = np.zeros(info.npts, bool)
        for a, b in not_noise(info):
            doubtful[a:b] = True
        # The first windows may begin in the warm-up: those 5 s are not judged.
        at = int(rng.integers(0, info.npts % length + 1)) if info.kind == "noise" else int(rng.integers(0, length))
        while at + length <= info.npts:
            if doubtful[at : at + length].any():
                at += int(np.flatnonzero(doubtful[at : at + length])[-1]) + 1
                continue
            if real(at):
                windows.append(Window(index, at, False))
            at += length
    return windows


def window_scores(windows: Sequence[Window], outputs: Mapping[int, TraceOutputs]) -> F64:
    """The highest judged event probability in each window, 0 where nothing was judged [shape=(n,), dtype=float64]."""
    length = round(WINDOW_S * RATE_HZ)
    scores = np.zeros(len(windows))
    for number, window in enumerate(windows):
        of_trace = outputs.get(window.index)
        if of_trace is None:
            continue
        samples = of_trace.samples
        inside = (samples >= window.start) & (samples < window.start + length) & of_trace.judged
        scores[number] = float(of_trace.probabilities[inside, 0].max(initial=0.0))
    return scores


def highest(windows: Sequence[Window], along: Mapping[int, F32]) -> F64:
    """The highest value along the trace, such as of STA/LTA, in each window [shape=(n,), dtype=float64]."""
    length = round(WINDOW_S * RATE_HZ)
    return np.array([float(along[w.index][w.start : w.start + length].max(initial=0.0)) for w in windows])


def roc_auc(positive: Bool, scores: F64) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney U), ties half; None without both classes."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    ranks = rankdata(scores)
    above = float(ranks[positive].sum()) - n_positive * (n_positive + 1) / 2
    return above / (n_positive * n_negative)


def best_f1_threshold(positive: Bool, scores: F64) -> float:
    """The threshold that gives the highest F1 on these very windows."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + max(1, int(positive.sum())))
    # Only between different scores can a threshold lie.
    ordered = scores[order]
    last = np.append(ordered[1:] < ordered[:-1], True)
    return float(ordered[int(np.argmax(np.where(last, f1, -1.0)))])


def scored(windows: Sequence[Window], scores: F64, threshold: float) -> dict[str, Any]:
    """All figures of one detector on the windows."""
    positive = np.array([w.positive for w in windows], bool)
    said = scores >= threshold
    tp, fn = int((said & positive).sum()), int((~said & positive).sum())
    fp, tn = int((said & ~positive).sum()), int((~said & ~positive).sum())
    precision, recall = _share(tp, tp + fp), _share(tp, tp + fn)
    both = (precision or 0.0) + (recall or 0.0)
    return {
        "threshold": threshold,
        "accuracy": _share(tp + tn, len(windows)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * (precision or 0.0) * (recall or 0.0) / both if both else 0.0,
        "roc_auc": roc_auc(positive, scores),
        "confusion": {"tp": tp, "fn": fn, "fp": fp, "tn": tn},
        "recall_by_snr": {
            name: {
                "windows": len(members),
                "recall": _share(int(said[members].sum()), len(members)),
            }
            for name, members in _snr_members(windows).items()
        },
    }


def _snr_members(windows: Sequence[Window]) -> dict[str, list[int]]:
    members = {
        name: [i for i, w in enumerate(windows) if w.positive and w.snr_db is not None and low <= w.snr_db < high]
        for name, low, high in SNR_BINS_DB
    }
    members["SNR not known"] = [i for i, w in enumerate(windows) if w.positive and w.snr_db is None]
    return members


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def evaluate(
    windows: Sequence[Window],
    *,
    models: Mapping[str, tuple[Mapping[int, TraceOutputs], float]],
    ratios: Mapping[StaLta, Mapping[int, F32]],
    peers: Mapping[str, tuple[Mapping[int, F32], float]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Evaluate detectors on the same windows.

    Args:
        windows: From `choose_windows`.
        models: Name -> (outputs by trace, threshold).
        ratios: STA/LTA setting -> ratios by trace.
        peers: Name -> (P probability by trace, threshold).

    Returns:
        For the report: the windows' numbers, and the figures of each detector by name. STA/LTA is shown at its usual
        threshold and, which flatters it, at the one that is best on these very windows.
    """
    positive = np.array([w.positive for w in windows], bool)
    detectors: dict[str, Any] = {
        name: scored(windows, window_scores(windows, outputs), threshold)
        for name, (outputs, threshold) in models.items()
    }
    for name, (by_trace, threshold) in peers.items():
        detectors[name] = scored(windows, highest(windows, by_trace), threshold)
    for setting, by_trace in ratios.items():
        scores = highest(windows, by_trace)
        detectors[setting.name] = scored(windows, scores, setting.threshold)
        if positive.any():
            best = best_f1_threshold(positive, scores)
            detectors[f"{setting.name}, best threshold"] = scored(windows, scores, best)
    return {
        "window_s": WINDOW_S,
        "positive": int(positive.sum()),
        "negative": int((~positive).sum()),
        "traces": len({w.index for w in windows}),
        "detectors": detectors,
    }
