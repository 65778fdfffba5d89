"""The ratio of a short to a long average of energy: the detector that every network already has, for comparison.

0.5 s to 10 s at 1 to 20 Hz, boxes, the long one ending where the short one begins. Allen, R. (1978), "Automatic
earthquake recognition and timing from single traces", BSSA 68.
"""

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

STA_S, LTA_S = 0.5, 10.0
BAND_HZ = (1.0, 20.0)
TRIGGER = 5.0
_ORDER = 4
# The filter's and the long average's beginnings are not signal.
_WARM_UP_S = 5.0
# The filter's response to what is a second ago is below 1e-6 after this.
_RINGS_S = 30.0
_SETTLES_S = 1.0


def band_pass(samples: F64, rate: float) -> F64:
    """Filter as a causal fourth-order Butterworth band-pass does from rest.

    The analogue filter under the bilinear transform, applied to the spectrum of the samples with enough zeros behind
    them that nothing wraps round (Oppenheim and Schafer, "Discrete-Time Signal Processing", ch. 7).

    Args:
        samples: [shape=(n,)]
        rate: Hz, above twice the upper corner.
    """
    n = len(samples)
    length = n + round(_RINGS_S * rate)
    omega = 2 * np.pi * np.arange(length // 2 + 1) / length
    with np.errstate(divide="ignore", invalid="ignore"):
        s = 2j * np.tan(omega / 2)
        low, high = (2 * np.tan(np.pi * corner / rate) for corner in BAND_HZ)
        prototype = (s**2 + low * high) / (s * (high - low))
        poles = np.exp(1j * np.pi * (2 * np.arange(_ORDER) + _ORDER + 1) / (2 * _ORDER))
        response = np.ones(len(s), np.complex128)
        for pole in poles:
            response /= prototype - pole
    response[~np.isfinite(response)] = 0.0
    response[0] = 0.0
    if length % 2 == 0:
        response[-1] = 0.0
    return np.asarray(np.fft.irfft(np.fft.rfft(samples, length) * response, length)[:n])


def ratio(samples: F64, rate: float) -> F64:
    """Compute the ratio along samples.

    Args:
        samples: [shape=(n,)], NaN where there are none.
        rate: Hz.

    Returns:
        [shape=(n,)]; NaN where there is none, and for the first five seconds of each run of samples.
    """
    result = np.full(len(samples), np.nan)
    real = np.isfinite(samples)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], real, [False])).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        warm = round(_WARM_UP_S * rate)
        if stop - start > warm:
            result[start + warm : stop] = _of_run(samples[start:stop], rate)[warm:]
    return result


def _of_run(samples: F64, rate: float) -> F64:
    energy = band_pass(samples - samples[0], rate) ** 2
    settle = round(_SETTLES_S * rate)
    energy[:settle] = np.median(energy[settle : 2 * settle])
    sta, lta = round(STA_S * rate), round(LTA_S * rate)
    total = np.concatenate(([0.0], np.cumsum(energy)))
    stop = np.arange(1, len(energy) + 1)
    middle = np.maximum(stop - sta, 0)
    start = np.maximum(middle - lta, 0)
    short = (total[stop] - total[middle]) / np.maximum(stop - middle, 1)
    long = (total[middle] - total[start]) / np.maximum(middle - start, 1)
    tiny = max(float(energy.max()) * 1e-15, 1e-300)
    return np.asarray(short / np.maximum(long, tiny))
