"""Probabilities that mean what they say: Platt scaling of the earthquake's log-odds on recordings not trained on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from train.outputs import TraceOutputs
from train.traceinfo import RATE_HZ, TraceInfo
from train.truth import noise_samples

F64 = npt.NDArray[np.float64]

# An output is never as sure as this.
_LEAST = 1e-6
_ITERATIONS = 50
_CONVERGED = 1e-9


class Platt(NamedTuple):
    """Calibrated log-odds = `scale` * log-odds + `offset`."""

    scale: float = 1.0
    offset: float = 0.0


def known_frames(info: TraceInfo, outputs: TraceOutputs) -> tuple[F64, F64]:
    """What was said of a trace's frames whose truth is known.

    A frame is an earthquake from P to S and as long again at most 10 s (as it was trained), noise where
    `train.truth` says noise; all others are left out.

    Returns:
        Earthquake probability and truth, 0 or 1 [shape=(n,) each].
    """
    samples = outputs.samples
    within = (samples >= 0) & (samples < info.npts) & outputs.judged
    noise = noise_samples(info) if info.kind != "event" else np.zeros(info.npts, bool)
    quake = np.zeros(info.npts, bool)
    for p, s in info.events:
        if p is not None:
            end = p + 3 * RATE_HZ if s is None else s + max(1.5 * RATE_HZ, min(s - p, 10 * RATE_HZ))
            quake[max(0, int(p + 0.1 * RATE_HZ)) : int(end)] = True
    chosen = samples[within]
    known = noise[chosen] | quake[chosen]
    return outputs.probabilities[within, 0][known].astype(np.float64), quake[chosen][known].astype(np.float64)


def fit_platt(probability: F64, truth: F64) -> Platt:
    """Fit scale and offset of the log-odds by maximum likelihood (Platt, 1999), the scale not below 0.05.

    Args:
        probability: [shape=(n,)] what was said.
        truth: [shape=(n,)] 0 or 1; both must occur, else nothing is changed.
    """
    if not 0 < truth.sum() < len(truth):
        return Platt()
    x = log_odds(probability)
    scale, offset = 1.0, 0.0
    for _ in range(_ITERATIONS):
        said = 1 / (1 + np.exp(-(scale * x + offset)))
        weight = said * (1 - said) + 1e-12
        gradient = np.array([np.mean((truth - said) * x), np.mean(truth - said)])
        curvature = np.array(
            [[np.mean(weight * x * x), np.mean(weight * x)], [np.mean(weight * x), np.mean(weight)]]
        ) + 1e-9 * np.eye(2)
        step = np.clip(np.linalg.solve(curvature, gradient), -1.0, 1.0)
        scale, offset = max(0.05, scale + float(step[0])), offset + float(step[1])
        if np.abs(step).max() < _CONVERGED:
            break
    return Platt(scale, offset)


def log_odds(probability: F64) -> F64:
    """Logarithm of p / (1 - p), kept finite."""
    p = np.clip(probability, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(p / (1 - p)))


def calibrated(outputs: Mapping[int, TraceOutputs], platt: Platt) -> dict[int, TraceOutputs]:
    """The outputs with calibrated earthquake probabilities."""
    result = {}
    for index, of_trace in outputs.items():
        probabilities = of_trace.probabilities.copy()
        x = log_odds(probabilities[:, 0].astype(np.float64))
        # Where nothing was judged the network said nothing: 0 stays 0.
        said = probabilities[:, 0] > 0
        probabilities[said, 0] = (1 / (1 + np.exp(-(platt.scale * x + platt.offset))))[said]
        result[index] = replace(of_trace, probabilities=probabilities)
    return result
