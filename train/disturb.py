"""Synthetic non-earthquakes, laid over noise: what field recordings hold that is not the Earth.

Each takes the waveform [shape=(3, npts), dtype=float64], changes it in place and is scaled by the recording's own
noise, since absolute units mean nothing here.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from train.spectral import in_band
from train.traceinfo import RATE_HZ

F64 = npt.NDArray[np.float64]
Rng = np.random.Generator

# Cables, digitizers and stiff mountings disturb one component; the ground moves all.
_ALONE_SHARE = 0.25


def noise_scale(wave: F64) -> F64:
    """Standard deviation of each component's differences [shape=(3, 1)], robust; 0 where there is no data."""
    scale: F64 = np.median(np.abs(np.diff(wave, axis=1)), axis=1, keepdims=True) / 0.6745
    return scale


def draw_shape(rng: Rng) -> F64:
    """How strongly the three components see a local source [shape=(3, 1)]."""
    return np.asarray(rng.uniform(0.2, 1.0, (3, 1)))


def damped(rng: Rng, frequency: float, cycles: float, n: int) -> F64:
    """A ring [shape=(3, n)] with its phase on each component, as surface waves have it."""
    t = np.arange(n) / RATE_HZ
    return np.asarray(
        np.exp(-t * frequency / max(cycles, 0.3)) * np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6.3, (3, 1)))
    )


def band_noise(rng: Rng, n: int, low: float, high: float) -> F64:
    """Noise [shape=(3, n)] that the components have more or less in common: near a source most, scattered least."""
    common = rng.uniform(0.0, 1.0)
    out = in_band(
        common * rng.standard_normal(n) + np.sqrt(1 - common**2) * rng.standard_normal((3, n)), low_hz=low, high_hz=high
    )
    return np.asarray(out / (out.std() + 1e-12))


def draw_level(rng: Rng) -> float:
    """Amplitude over that of the noise: 6 to 46 dB."""
    return float(10 ** rng.uniform(0.3, 2.3))


def spikes(wave: F64, rng: Rng) -> None:
    """Single wrong samples."""
    scale = noise_scale(wave)
    for at in rng.integers(0, wave.shape[1], rng.integers(1, 8)):
        wave[:, at : at + rng.integers(1, 3)] += (
            scale * draw_level(rng) * 5 * rng.choice([-1, 1]) * (rng.random((3, 1)) < 0.6)
        )


def steps(wave: F64, rng: Rng) -> None:
    """Offsets that stay, or decay over seconds as after mass recentring."""
    scale = noise_scale(wave)
    for at in rng.integers(0, wave.shape[1], rng.integers(1, 4)):
        tail = np.ones(wave.shape[1] - at)
        if rng.random() < 0.6:
            tail = np.exp(-np.arange(len(tail)) / RATE_HZ / rng.uniform(0.1, 8.0))
        wave[:, at:] += scale * draw_level(rng) * 10 * rng.choice([-1, 1]) * draw_shape(rng) * tail


def footsteps(wave: F64, rng: Rng) -> None:
    """A train of short resonant impulses at walking pace, coming and going."""
    scale, n = noise_scale(wave), wave.shape[1]
    pace, frequency = rng.uniform(0.35, 1.1), rng.uniform(5, 45)
    begin, length = rng.uniform(-10, n / RATE_HZ), rng.uniform(2, 30)
    closest, level, shape = begin + rng.uniform(0, 1) * length, draw_level(rng), draw_shape(rng)
    at = begin
    while at < begin + length:
        i = int(at * RATE_HZ)
        if 0 <= i < n - 10:
            pulse = damped(rng, frequency * rng.uniform(0.85, 1.15), rng.uniform(0.6, 3), min(100, n - i))
            near = 1 / (1 + ((at - closest) / (0.25 * length)) ** 2)
            wave[:, i : i + pulse.shape[1]] += scale * level * near * rng.uniform(0.6, 1.2) * shape * pulse
        at += pace * rng.uniform(0.9, 1.1)


def thumps(wave: F64, rng: Rng) -> None:
    """Doors, dropped things, blasts of a nail gun: one or a few impulses with a short ring."""
    scale, n = noise_scale(wave), wave.shape[1]
    for _ in range(rng.integers(1, 6)):
        i = int(rng.integers(0, n - 20))
        pulse = damped(rng, rng.uniform(3, 45), 10 ** rng.uniform(-0.3, 1.0), min(int(rng.integers(20, 300)), n - i))
        wave[:, i : i + pulse.shape[1]] += scale * draw_level(rng) * draw_shape(rng) * pulse


def vehicles(wave: F64, rng: Rng) -> None:
    """Band noise that swells and fades over seconds."""
    scale, n = noise_scale(wave), wave.shape[1]
    for _ in range(rng.integers(1, 4)):
        low = rng.uniform(1.5, 20)
        t = np.arange(n) / RATE_HZ
        envelope = np.exp(-(((t - rng.uniform(0, n / RATE_HZ)) / rng.uniform(0.7, 10)) ** 2))
        level, shape = draw_level(rng), draw_shape(rng)
        wave += scale * level * 0.5 * shape * envelope * band_noise(rng, n, low, low * rng.uniform(1.2, 5))


def machinery(wave: F64, rng: Rng) -> None:
    """A motor that switches on and off: a tone with harmonics and some band noise, sudden or run up."""
    scale, n = noise_scale(wave), wave.shape[1]
    t = np.arange(n) / RATE_HZ
    begin, length, ramp = rng.uniform(-10, n / RATE_HZ), rng.uniform(0.5, 40), 10 ** rng.uniform(-2, 0.7)
    envelope = np.clip((t - begin) / ramp, 0, 1) * np.clip((begin + length - t) / ramp, 0, 1)
    base = rng.uniform(2, 49)
    sweep = rng.choice([0.0, rng.uniform(-0.3, 0.3)])
    phase = 2 * np.pi * np.cumsum(base * (1 + sweep * np.clip((t - begin) / length, 0, 1))) / RATE_HZ
    phase = phase + rng.uniform(0, 6.3, (3, 1))
    sound = sum(np.sin(k * phase + rng.uniform(0, 6.3)) * rng.uniform(0, 1) for k in range(1, 4) if k * base < 49)
    sound = sound + rng.uniform(0, 0.6) * band_noise(rng, n, base * 0.7, min(49.0, base * 1.6))
    wave += scale * draw_level(rng) * 0.7 * draw_shape(rng) * envelope * sound


def wind(wave: F64, rng: Rng) -> None:
    """Gusts: broad-band noise whose level wanders over seconds."""
    scale, n = noise_scale(wave), wave.shape[1]
    knots = np.arange(0, n + 200, 200)
    slow = np.interp(np.arange(n), knots, rng.standard_normal(len(knots)).cumsum() * 0.5)
    envelope = np.exp(np.clip(slow - slow.mean(), -2, 3))
    wave += scale * 0.7 * draw_shape(rng) * envelope * band_noise(rng, n, rng.uniform(1, 4), rng.uniform(8, 45))


def calibration(wave: F64, rng: Rng) -> None:
    """The response to a current pulse in the coil: all components alike, again after some seconds."""
    scale, n = noise_scale(wave), wave.shape[1]
    frequency, cycles, level = 10 ** rng.uniform(-0.3, 1.1), rng.uniform(0.3, 0.8), draw_level(rng) * 3
    for sign, at in zip(
        (1, -1, 1), rng.integers(0, n - 50, 1) + np.arange(3) * int(rng.integers(200, 1500)), strict=True
    ):
        if at < n - 10:
            pulse = damped(np.random.default_rng(0), frequency, cycles, min(1000, n - int(at)))[:1]
            wave[:, at : at + pulse.shape[1]] += sign * scale * level * pulse


def gain_change(wave: F64, rng: Rng) -> None:
    """The noise level itself changes at once: another gain, a pump that stays on."""
    at = int(rng.integers(0, wave.shape[1]))
    wave[:, at:] *= 10 ** rng.uniform(-1, 1)


def pulses(wave: F64, rng: Rng) -> None:
    """Telemetry or GPS pulses: the same small thing at a fixed interval."""
    scale, n = noise_scale(wave), wave.shape[1]
    pulse = damped(rng, rng.uniform(5, 45), rng.uniform(0.3, 2), 60) * draw_level(rng)
    shape = draw_shape(rng)
    for at in range(int(rng.integers(0, 300)), n - 60, int(rng.choice([50, 100, 200, 500, 1000]))):
        wave[:, at : at + 60] += scale * shape * pulse


def crackle(wave: F64, rng: Rng) -> None:
    """A bad contact or a thunderstorm in the cable: bursts of noise on one component, such as no wave can be."""
    scale, n, component = noise_scale(wave), wave.shape[1], int(rng.integers(3))
    begin, length = rng.uniform(-5, n / RATE_HZ), 10 ** rng.uniform(0, 1.5)
    for at in begin + length * rng.random(int(rng.integers(1, 15))):
        i = int(at * RATE_HZ)
        if 0 <= i < n - 20:
            m = min(int(rng.integers(20, 400)), n - i)
            low = rng.uniform(1.5, 20)
            burst = band_noise(rng, m, low, low * rng.uniform(1.5, 8))[component]
            fade = np.exp(-np.arange(m) / RATE_HZ / 10 ** rng.uniform(-1.3, 0.2))
            wave[component, i : i + m] += scale[component] * draw_level(rng) * fade * burst


def bustle(wave: F64, rng: Rng) -> None:
    """People, animals, branches: bursts without a rhythm for some seconds to a minute, no two alike."""
    scale, n, shape = noise_scale(wave), wave.shape[1], draw_shape(rng)
    begin, length, level = rng.uniform(-20, n / RATE_HZ - 5), rng.uniform(5, 60), draw_level(rng)
    low, wide = rng.uniform(2, 15), rng.uniform(1.5, 6)
    for at in begin + length * rng.random(int(max(4, length * 10 ** rng.uniform(-0.6, 0.5)))):
        i = int(at * RATE_HZ)
        if 0 <= i < n - 20:
            m = min(int(rng.integers(30, 400)), n - i)
            t, own = np.arange(m) / RATE_HZ, low * rng.uniform(0.7, 1.5)
            envelope = np.exp(-t / 10 ** rng.uniform(-1.2, 0.1)) * (1 - np.exp(-t / 10 ** rng.uniform(-2.5, -0.7)))
            burst = envelope * band_noise(rng, m, own, min(48.0, own * wide))
            strength = level * 10 ** rng.normal(0, 0.35)
            wave[:, i : i + m] += scale * strength * shape * rng.uniform(0.7, 1.3, (3, 1)) * burst


KINDS: tuple[tuple[Callable[[F64, Rng], None], float], ...] = (
    (footsteps, 3.0),
    (thumps, 2.5),
    (machinery, 2.5),
    (vehicles, 1.5),
    (spikes, 1.0),
    (steps, 1.0),
    (wind, 1.0),
    (calibration, 0.7),
    (gain_change, 0.7),
    (pulses, 1.0),
    (crackle, 2.0),
    (bustle, 3.0),
)
"""Each kind with how often it is chosen, relative to the others."""


def disturb(wave: F64, rng: Rng) -> None:
    """Lay one to three disturbances over the waveform, in place; now and then on one component alone."""
    weights = np.array([weight for _, weight in KINDS])
    for kind in rng.choice(len(KINDS), int(rng.choice([1, 1, 2, 3])), p=weights / weights.sum()):
        before = wave.copy()
        KINDS[int(kind)][0](wave, rng)
        if rng.random() < _ALONE_SHARE:
            others = np.arange(3) != rng.integers(3)
            wave[others] = before[others]
