"""STA/LTA, the detector that every network already has, for comparison.

Two settings: the energy ratio of 0.5 s to 10 s at 1 to 20 Hz, and rsudp's defaults, a recursive 6 s to 30 s at 0.8 to
9 Hz that ends below 0.9. Allen, R. (1978), "Automatic earthquake recognition and timing from single traces", BSSA 68;
Withers et al. (1998), "A comparison of select trigger algorithms", BSSA 88.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal

from train.dataset import Store
from train.outputs import Found, real_runs
from train.traceinfo import RATE_HZ

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# As long as the network's background takes before it judges.
_WARM_UP_S = 5.0
_DEAD_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StaLta:
    """One setting of STA/LTA.

    Attributes:
        name: What tables call it.
        sta_s, lta_s: Lengths of the averages, seconds.
        band_hz: Of the causal fourth-order Butterworth filter ahead of it.
        recursive: Exponential averages; else boxes, the long one ending where the short one begins.
        off: The detection ends below this ratio.
        off_share: The same as a share of the threshold; the larger one counts.
        threshold: The usual one.
    """

    name: str
    sta_s: float
    lta_s: float
    band_hz: tuple[float, float]
    recursive: bool
    off: float
    off_share: float
    threshold: float


ENERGY = StaLta(
    name="STA/LTA 0.5/10 s", sta_s=0.5, lta_s=10, band_hz=(1, 20), recursive=False, off=0.0, off_share=0.4, threshold=5
)
RSUDP = StaLta(
    name="STA/LTA rsudp", sta_s=6, lta_s=30, band_hz=(0.8, 9), recursive=True, off=0.9, off_share=0.0, threshold=3.95
)
ALL = (ENERGY, RSUDP)


def ratio(samples: F32, setting: StaLta) -> F64:
    """Compute the ratio along a run of samples [shape=(n,)]; 0 where it has not warmed up."""
    n = len(samples)
    warm = round(_WARM_UP_S * RATE_HZ)
    if n <= warm:
        return np.zeros(n)
    sections = signal.butter(4, setting.band_hz, "bandpass", fs=RATE_HZ, output="sos")
    energy = signal.sosfilt(sections, samples.astype(np.float64) - float(samples[0])) ** 2
    # The filter's own beginning is not signal.
    settle = round(RATE_HZ)
    energy[:settle] = np.median(energy[settle : 2 * settle])
    sta, lta = round(setting.sta_s * RATE_HZ), round(setting.lta_s * RATE_HZ)
    short, long = _recursive(energy, sta, lta) if setting.recursive else _boxes(energy, sta, lta)
    tiny = max(float(energy.max()) * 1e-15, 1e-300)
    result: F64 = short / np.maximum(long, tiny)
    result[:warm] = 0.0
    return result


def _boxes(energy: F64, sta: int, lta: int) -> tuple[F64, F64]:
    total = np.concatenate(([0.0], np.cumsum(energy)))
    stop = np.arange(1, len(energy) + 1)
    middle = np.maximum(stop - sta, 0)
    start = np.maximum(middle - lta, 0)
    short = (total[stop] - total[middle]) / np.maximum(stop - middle, 1)
    return short, (total[middle] - total[start]) / np.maximum(middle - start, 1)


def _recursive(energy: F64, sta: int, lta: int) -> tuple[F64, F64]:
    """Exponential averages that begin as if the mean of the warm-up had gone on before it for ever."""
    before = float(energy[: round(_WARM_UP_S * RATE_HZ)].mean())

    def average(length: int) -> F64:
        keep = 1 - 1 / length
        averaged, _ = signal.lfilter([1 - keep], [1, -keep], energy, zi=[keep * before])
        return np.asarray(averaged)

    return average(sta), average(lta)


def trace_ratio(store: Store, index: int, setting: StaLta) -> F32:
    """Compute the ratio along a trace's vertical (else its first) component [shape=(npts,)]; 0 in its gaps."""
    info = store.traces[index]
    result = np.zeros(info.npts, np.float32)
    row = info.components.index(True)
    for start, stop in real_runs(info):
        result[start:stop] = ratio(store.waveform(index, start, stop)[row], setting)
    return result


def triggers(ratios: F32, setting: StaLta, threshold: float) -> list[Found]:
    """Turn a ratio into detections: from the threshold until it is below the end; 3 s apart at least."""
    off = min(max(setting.off, setting.off_share * threshold), threshold)
    above = ratios >= threshold
    rises = np.flatnonzero(above & ~np.concatenate(([False], above[:-1])))
    ends = np.append(np.flatnonzero(ratios < off), len(ratios))
    found: list[Found] = []
    free = 0
    for start in rises.tolist():
        if start < free:
            continue
        end = int(ends[np.searchsorted(ends, start)])
        if found and start - found[-1].end < _DEAD_S * RATE_HZ:
            found[-1] = Found(found[-1].onset, end, max(found[-1].score, float(ratios[start:end].max())))
        else:
            found.append(Found(start, end, float(ratios[start:end].max())))
        free = end
    return found
