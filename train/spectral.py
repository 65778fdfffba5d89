"""Filters by multiplying spectra: zero phase, at a length that is quick to transform."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft

F64 = npt.NDArray[np.float64]
_RATE = 100.0


def filtered(wave: F64, gain: Callable[[F64], F64]) -> F64:
    """Filter waveforms at 100 Hz.

    Args:
        wave: [shape=(..., npts)].
        gain: Frequencies in Hz [shape=(n,)] -> gain [shape=(n,)].

    Returns:
        [shape as given, dtype=float64].
    """
    n = wave.shape[-1]
    length = next_fast_len(n + n // 64, real=True)
    # From the end back to the begin, since a spectrum takes what it is given as a circle.
    bridge = np.linspace(1.0, 0.0, length - n)
    whole = np.empty((*wave.shape[:-1], length))
    whole[..., :n] = wave
    whole[..., n:] = wave[..., -1:] * bridge + wave[..., :1] * (1 - bridge)
    frequency = np.arange(length // 2 + 1) * (_RATE / length)
    return np.asarray(irfft(rfft(whole) * gain(frequency), length)[..., :n])


def in_band(wave: F64, *, low_hz: float = 1.5, high_hz: float = 20.0) -> F64:
    """Keep what lies from `low_hz` to `high_hz`."""
    return filtered(wave, lambda frequency: ((frequency >= low_hz) & (frequency <= high_hz)).astype(np.float64))
