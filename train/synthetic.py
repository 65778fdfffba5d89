"""Earthquakes made by the stochastic method, for what the recordings lack: every distance, site and strength.

Noise with the spectrum and the envelope that theory gives an earthquake (Boore, 2003, "Simulation of ground motion
using the stochastic method"): the spectrum of Brune's source (1970), attenuated along the path and under the site; a
coda that decays as lapse time and frequency have it (Aki and Chouet, 1975). P and S have a polarisation, codas none.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft

from train.spectral import in_band

F64 = npt.NDArray[np.float64]
Rng = np.random.Generator

_RATE = 100.0
# Octaves in which the envelope decays for itself; the lowest and the highest also hold what is beyond them.
_BANDS_HZ = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
# So much under its peak a spectrum ends: the logarithm of it has to be finite.
_LOWEST_GAIN = 1e-4
_P_SAMPLES = 150


@dataclass(frozen=True, slots=True)
class Ground:
    """What there is between the source and the sensor.

    Attributes:
        s_s: Travel time of S, seconds.
        quality: Quality factor of S at 1 Hz; it grows as frequency to the power `quality_power`.
        coda_quality: The same of the coda.
        quality_power: See there.
        kappa_s: Attenuation under the site, seconds (Anderson and Hough, 1984).
    """

    s_s: float
    quality: float
    coda_quality: float
    quality_power: float
    kappa_s: float


def earthquake(rng: Rng, npts: int) -> tuple[F64, float]:
    """Make the ground's velocity in an earthquake, from its P on.

    Args:
        rng: Where chance comes from.
        npts: Samples at 100 Hz.

    Returns:
        Z, N and E [shape=(3, npts), dtype=float64], the power of whose first 1.5 s is 1 on the vertical from 1.5 to
        20 Hz, and the sample at which S arrives, which may lie behind the end.
    """
    velocity_ratio = rng.uniform(1.65, 1.95)
    s_minus_p = float(np.exp(rng.uniform(np.log(0.7), np.log(25.0))))
    ground = Ground(
        s_s=s_minus_p * velocity_ratio / (velocity_ratio - 1),
        quality=float(np.exp(rng.uniform(np.log(40), np.log(500)))),
        coda_quality=float(np.exp(rng.uniform(np.log(40), np.log(300)))),
        quality_power=rng.uniform(0.2, 0.9),
        kappa_s=float(np.exp(rng.uniform(np.log(0.004), np.log(0.05)))),
    )
    corner_hz = float(np.exp(rng.uniform(np.log(1.0), np.log(35.0))))
    length = next_fast_len(npts + npts // 8, real=True)
    frequency = np.arange(length // 2 + 1) * (_RATE / length)
    site_z, site_h = _site(frequency, rng), _site(frequency, rng)
    s_sample = s_minus_p * _RATE

    incidence, azimuth = rng.uniform(0, np.radians(50)), rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(incidence), *(np.sin(incidence) * np.array([np.cos(azimuth), np.sin(azimuth)]))])
    across = np.array([rng.uniform(0.1, 0.6), np.cos(azimuth + np.pi / 2), np.sin(azimuth + np.pi / 2)])
    if rng.random() < 0.5:
        across[1:] = across[[2, 1]] * [-1, 1]
    of_p = replace(ground, quality=ground.quality * rng.uniform(0.8, 2.0))
    p_spectrum = _spectrum(frequency, corner_hz * rng.uniform(1.0, 1.6), ground.s_s - s_minus_p, of_p)
    s_spectrum = _spectrum(frequency, corner_hz, ground.s_s, ground)
    strength = float(np.clip(np.exp(rng.normal(np.log(4.0), 0.6)), 1.0, 15.0))

    wave = np.zeros((3, length))
    arrivals = [(0.0, 1.0, p_spectrum, along), (s_sample, strength, s_spectrum, across)]
    if s_minus_p > 2 and rng.random() < 0.3:
        # Another way for P to come: Pg after Pn.
        arrivals.append((rng.uniform(0.05, 0.5) * s_sample, rng.uniform(0.5, 3.0), p_spectrum, along))
    for at, amplitude, spectrum, polarisation in arrivals:
        start = round(at)
        if start >= npts:
            continue
        train = _train(rng, length, start, corner_hz, ground, polarisation)
        for rows, site in ((slice(0, 1), site_z), (slice(1, 3), site_h)):
            causal = _minimum_phase(spectrum * site, length)
            wave[rows] += amplitude * irfft(rfft(train[rows]) * causal, length)
    wave = wave[:, :npts]
    power = float(np.mean(in_band(np.pad(wave[0], (500, 0)))[500 : 500 + _P_SAMPLES] ** 2))
    return wave / np.sqrt(power), s_sample


def _spectrum(frequency: F64, corner_hz: float, travel_s: float, ground: Ground) -> F64:
    """Velocity spectrum of Brune's source after its way through the ground."""
    lowest = np.maximum(frequency, frequency[1])
    quality = ground.quality * lowest**ground.quality_power
    attenuation = np.exp(-np.pi * lowest * (ground.kappa_s + travel_s / quality))
    return np.asarray(lowest / (1 + (lowest / corner_hz) ** 2) * attenuation)


def _site(frequency: F64, rng: Rng) -> F64:
    """What soft layers make of a spectrum: smooth along the logarithm of frequency, some decibel up and down."""
    octave = np.log2(np.maximum(frequency, 0.5))
    decibel = sum(
        rng.normal(0, 3.0) * np.cos(2 * np.pi * octave / width + rng.uniform(0, 2 * np.pi)) for width in (1.0, 2.0, 4.0)
    )
    return np.asarray(10 ** (decibel / 20))


def _train(rng: Rng, length: int, start: int, corner_hz: float, ground: Ground, polarisation: F64) -> F64:
    """White noise under the envelope of an arrival and its coda [shape=(3, length)]."""
    time = np.arange(length - start) / _RATE
    # As long as the source takes, and as scattering has made it.
    pulse_s = rng.uniform(0.3, 1.5) / corner_hz + rng.uniform(0.002, 0.03) * ground.s_s
    pulse = np.exp(-time / pulse_s) * np.minimum(1.0, (time + 0.01) / rng.uniform(0.01, 0.02 + 0.5 * pulse_s))
    train = np.zeros((3, length))
    train[:, start:] = polarisation[:, None] * (pulse * rng.standard_normal(len(time)))

    share, power = rng.uniform(0.05, 0.5), rng.uniform(0.5, 1.5)
    spreading = (ground.s_s / (ground.s_s + time)) ** power
    noise = rfft(rng.standard_normal((3, length)))
    noise[1:] *= np.exp(rng.normal(0.2, 0.3))
    octave = np.log2(np.maximum(np.arange(length // 2 + 1) * (_RATE / length), 1e-3))
    centres = np.log2(_BANDS_HZ)
    for band, centre_hz in enumerate(_BANDS_HZ):
        mask = np.interp(octave, centres, np.eye(len(centres))[band])
        quality = ground.coda_quality * centre_hz**ground.quality_power
        envelope = share * spreading * np.exp(-np.pi * centre_hz * time / quality)
        train[:, start:] += irfft(noise * mask, length)[:, start:] * envelope
    return train


def _minimum_phase(gain: F64, length: int) -> npt.NDArray[np.complex128]:
    """The causal filter of a gain (Oppenheim and Schafer): nothing comes before the onset."""
    cepstrum = irfft(np.log(np.maximum(gain, _LOWEST_GAIN * gain.max())), length)
    fold = np.zeros(length)
    fold[0], fold[1 : (length + 1) // 2] = 1.0, 2.0
    if length % 2 == 0:
        fold[length // 2] = 1.0
    return np.asarray(np.exp(rfft(cepstrum * fold)))
