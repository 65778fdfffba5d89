"""Facts about raw samples that no metadata tells, and the conversion to 100 Hz."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal

from train.traceinfo import RATE_HZ, Interval

Float = npt.NDArray[np.float64]
Raw = npt.NDArray[Any]

RATE_TOLERANCE = 1e-4
"""Relative; the default of libmseed. Below it a rate counts as 100 Hz."""

CONSTANT_S = 2.0
"""A run of one value this long is fill, not ground motion."""

DEAD_SHARE = 0.99
"""A component that does not change from one sample to the next this often is dead."""

_SEGMENT = 512
_MOST_SEGMENTS = 200
_CLIFF_DB = 12.0
_LOWEST_CLIFF_HZ = 12.0
_ABOVE_ROUNDING_DB = 3.0


def ratio_to_100_hz(rate_hz: float) -> Fraction:
    """Return the rational factor from `rate_hz` to 100 Hz.

    Raises:
        ValueError: No factor of terms up to 10,000 is close enough (1e-4), or the rate is not positive.
    """
    if not 0 < rate_hz < float("inf"):
        raise ValueError(f"sampling rate {rate_hz} Hz; accepted: positive and finite")
    if abs(rate_hz / RATE_HZ - 1) <= RATE_TOLERANCE:
        return Fraction(1)
    ratio = Fraction(RATE_HZ / rate_hz).limit_denominator(1000)
    if not ratio or ratio.numerator > 10_000 or abs(rate_hz * float(ratio) / RATE_HZ - 1) > RATE_TOLERANCE:
        raise ValueError(f"sampling rate {rate_hz} Hz has no simple ratio to {RATE_HZ} Hz")
    return ratio


def resampled(samples: Float, ratio: Fraction) -> Float:
    """Resample along the last axis, zero phase, anti-aliased; sample 0 stays at sample 0."""
    if ratio == 1:
        return samples
    result: Float = signal.resample_poly(samples, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    return result


def is_dead(samples: Raw) -> bool:
    """Tell whether a component [shape=(npts,)] carries nothing: empty, constant or nearly so."""
    return len(samples) < 2 or float(np.mean(samples[1:] == samples[:-1])) > DEAD_SHARE


def true_runs(mask: npt.NDArray[np.bool_]) -> list[Interval]:
    """Return the [start, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def constant_runs(samples: Raw, rate_hz: float) -> list[Interval]:
    """Return the [start, end) of each run of one value of at least 2 s."""
    least = round(CONSTANT_S * rate_hz)
    return [(a, b + 1) for a, b in true_runs(samples[1:] == samples[:-1]) if b + 1 - a >= least]


def looks_clipped(samples: Raw) -> bool:
    """Tell whether the samples stay at their extreme value: 10 in a row, far above the usual amplitude."""
    centred = samples.astype(np.float64) - np.median(samples)
    usual = float(np.median(np.abs(centred)))
    for extreme in (centred.max(), centred.min()):
        if abs(extreme) > 20 * max(usual, 1e-30) and any(b - a >= 10 for a, b in true_runs(centred == extreme)):
            return True
    return False


def snr_db(component: Raw, p_sample: float) -> float | None:
    """Return the P signal (1.5 s) over the noise (3 s before it), 2-20 Hz, or None without room for both."""
    at = round(p_sample)
    if at < 400 or at + 150 > len(component):
        return None
    sections = signal.butter(4, (2, 20), "bandpass", fs=RATE_HZ, output="sos")
    filtered = signal.sosfiltfilt(sections, component[at - 400 : at + 150].astype(np.float64))
    noise, after = float(np.mean(filtered[90:390] ** 2)), float(np.mean(filtered[400:] ** 2))
    return round(10 * math.log10(after / noise), 2) if noise > 0 and after > 0 else None


def rounding_step(samples: Raw) -> float:
    """Return the spacing of the stored values: 1 where all are whole numbers, else 0 (not known)."""
    return 1.0 if samples.dtype.kind in "iu" or bool(np.all(samples == np.round(samples.astype(np.float64)))) else 0.0


def bandwidth_hz(samples: Raw, rate_hz: float, *, step: float) -> float:
    """Measure the highest frequency that holds signal.

    Data that were upsampled, or come from a recorder with a low cut-off, have a cliff in their spectrum; above it is
    only what the filter leaks, or the white noise of rounding. The lower of two figures counts: the last frequency
    above the rounding noise, and the cliff: the level falls by 12 dB within 3 Hz, at least twice as much as over the
    3 Hz before (or it is just the decay of an earthquake's spectrum), and does not come back.

    Args:
        samples: [shape=(npts,)] one component as stored.
        rate_hz: Its sampling rate.
        step: Spacing of the stored values, 0 where not known.

    Returns:
        Hertz, at most half the sampling rate and at most 50.
    """
    nyquist = min(rate_hz, RATE_HZ) / 2
    if len(samples) < _SEGMENT:
        return nyquist
    stride = max(_SEGMENT // 2, len(samples) // _MOST_SEGMENTS)
    windows = np.lib.stride_tricks.sliding_window_view(samples, _SEGMENT)[::stride].astype(np.float64)
    taper = signal.windows.hann(_SEGMENT)
    windows = (windows - windows.mean(axis=1, keepdims=True)) * taper
    power = (np.abs(np.fft.rfft(windows, axis=1)) ** 2).mean(axis=0) * 2 / (rate_hz * float(taper @ taper))
    hz = np.fft.rfftfreq(_SEGMENT, 1 / rate_hz)
    level = 10 * np.log10(signal.medfilt(power, 5) + 1e-300)
    inner = hz < min(nyquist, RATE_HZ / 2) - 1
    floor = 10 * np.log10(step**2 / (6 * rate_hz) + 1e-300) + _ABOVE_ROUNDING_DB
    above = np.flatnonzero(level[inner] > floor)
    best = nyquist if not len(above) or inner[above[-1] + 1] is np.False_ else float(hz[above[-1]])
    width = round(1.5 * _SEGMENT / rate_hz)
    local = np.median(np.lib.stride_tricks.sliding_window_view(level, width), axis=1)
    at = np.arange(round(_LOWEST_CLIFF_HZ * _SEGMENT / rate_hz), len(level) - 2 * width)
    before, shoulder, after = local[at - 3 * width], local[at - width], local[at + width]
    highest_after = np.maximum.accumulate(level[::-1])[::-1][at + width]
    drop, usual = shoulder - after, np.maximum(before - shoulder, 0)
    falls = (drop >= _CLIFF_DB) & (drop >= 2 * usual) & (highest_after <= shoulder - 0.8 * _CLIFF_DB)
    if not falls.any():
        return min(best, nyquist)
    return min(best, nyquist, float(hz[at[np.argmax(np.where(falls, drop - usual, 0))]]))
