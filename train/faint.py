"""How faint an earthquake may be: clear ones of the data, laid over noise of the data at set signal-to-noise ratios.

Labelled recordings hold few earthquakes that are hardly there, since they are hardly labelled. Here the truth is known
however faint one is: its recording is scaled until its P has a set share of the power of another recording's noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from train import benchmark as bench
from train.dataset import Samples, Store
from train.spectral import in_band
from train.traceinfo import RATE_HZ, Pick, TraceInfo

F64 = npt.NDArray[np.float64]

RATIOS_DB = (-6, -3, 0, 3, 6, 10)
"""Power of the P over that of the noise: of the first 1.5 s on the vertical, 1.5 to 20 Hz. At 0 dB the amplitude with
the P is 1.4 times that without."""

_LENGTH, _P = round(59 * RATE_HZ), round(30 * RATE_HZ)
_P_LENGTH = round(1.5 * RATE_HZ)
_AHEAD = round(2 * RATE_HZ)
# Of its own noise an earthquake brings next to nothing.
_CLEAR_DB = 20
_LEAST_AFTER = round(15 * RATE_HZ)
_NOISES = 2


@dataclass(frozen=True, slots=True)
class _Laid:
    """An earthquake of trace `event` with its P at `p`, `gain` times as strong, over trace `noise`."""

    event: int
    p: int
    noise: int
    gain: float


class FaintStore(Store):
    """Recordings that are made when they are asked for.

    Attributes:
        ratios_db: Of each trace.
    """

    def __init__(self, of: Store, traces: list[TraceInfo], laid: list[_Laid], ratios_db: list[int]) -> None:
        self.path, self.manifest, self.traces = of.path, of.manifest, traces
        self.ratios_db = ratios_db
        self._of, self._laid = of, laid

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Samples:
        """As `Store.waveform`."""
        laid = self._laid[index]
        wave = self._of.waveform(laid.noise, 0, _LENGTH).astype(np.float64)
        end = min(_LENGTH - _P, self._of.traces[laid.event].npts - laid.p)
        event = self._of.waveform(laid.event, laid.p - _AHEAD, laid.p + end).astype(np.float64)
        event -= np.median(event[:, :_AHEAD], axis=1, keepdims=True)
        fade = np.ones(event.shape[1])
        fade[: _AHEAD // 2] = np.linspace(0, 1, _AHEAD // 2)
        fade[-_AHEAD // 2 :] *= np.linspace(1, 0, _AHEAD // 2)
        wave[:, _P - _AHEAD : _P + end] += laid.gain * fade * event
        return wave[:, start:stop].astype(np.float32)


def lay(store: Store, indices: Sequence[int], *, seed: int) -> FaintStore:
    """Lay the three-component earthquakes among these traces over the noise among them."""
    rng = np.random.default_rng(seed)
    three = [i for i in indices if all(store.traces[i].components) and not store.traces[i].gaps]
    long = [i for i in three if store.traces[i].kind == "noise" and store.traces[i].npts >= _LENGTH]
    noise_power = {i: power for i in long if (power := _noise_power(store, i)) > 0}
    noises = list(noise_power)
    traces: list[TraceInfo] = []
    laid: list[_Laid] = []
    ratios: list[int] = []
    for index in three:
        info = store.traces[index]
        if info.kind != "event" or not noises:
            continue
        for p, s in info.events:
            if p is None or p < 2 * _AHEAD or p + _LEAST_AFTER > info.npts:
                continue
            power, own = _p_power(store, index, round(p))
            if power < 10 ** (_CLEAR_DB / 10) * own or power <= 0:
                continue
            for noise in rng.choice(noises, _NOISES).tolist():
                for ratio_db in RATIOS_DB:
                    gain = float(np.sqrt(10 ** (ratio_db / 10) * noise_power[noise] / power))
                    traces.append(_described(info, p, s, name=f"{info.name} at {ratio_db} dB over {noise}"))
                    laid.append(_Laid(index, round(p), noise, gain))
                    ratios.append(ratio_db)
    return FaintStore(store, traces, laid, ratios)


def _described(info: TraceInfo, p: float, s: float | None, *, name: str) -> TraceInfo:
    shift = _P - round(p)
    return replace(
        info,
        name=name,
        npts=_LENGTH,
        starttime_ns=None,
        picks=(Pick("P", p + shift),),
        events=((p + shift, None if s is None else s + shift),),
        unknown=(),
    )


def _noise_power(store: Store, index: int) -> float:
    vertical = in_band(store.waveform(index, 0, _LENGTH)[0].astype(np.float64))
    return float(np.mean(vertical[_P - 2 * _AHEAD : _P + _P_LENGTH] ** 2))


def _p_power(store: Store, index: int, p: int) -> tuple[float, float]:
    """Power of a P and of what is ahead of it."""
    first = p - 2 * _AHEAD
    vertical = in_band(store.waveform(index, first, p + _LEAST_AFTER)[0].astype(np.float64))
    at = 2 * _AHEAD
    return float(np.mean(vertical[at : at + _P_LENGTH] ** 2)), float(np.mean(vertical[: at - 30] ** 2))


def faint_figures(faint: FaintStore, detectors: bench.Detectors) -> dict[str, Any]:
    """Recall of the faint earthquakes' P.

    Args:
        faint: The recordings.
        detectors: What finds something in them.

    Returns:
        For each detector and threshold the recall at each of `RATIOS_DB`, and how many there are of each.
    """
    at = bench.curves_by(faint, faint.ratios_db, detectors)
    task, _ = next(iter(at.values()))
    return {
        "ratios_db": list(at),
        "p_arrivals_each": len(task.all_wanted),
        "recall": {
            name: {
                key: [round(float(curves[name].recalls()[column]), 4) for _, curves in at.values()]
                for column, key in enumerate(thresholds)
            }
            for name, (_, thresholds) in detectors.items()
        },
    }
