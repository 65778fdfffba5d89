"""Synthetic non-earthquakes that training never makes: how a detector does on what it was not shown.

What `train.disturb` makes is in the examples of training, so that a figure on it flatters. These have other sources,
envelopes and rhythms, after what is published of each, and are for the benchmark alone: whoever adds one of them to
`train.disturb` takes it out of here. Each takes the waveform as those do.
"""

from collections.abc import Callable

import numpy as np

from train.disturb import F64, Rng, band_noise, damped, draw_level, draw_shape, noise_scale
from train.traceinfo import RATE_HZ


def _add(wave: F64, at_s: float, sound: F64) -> None:
    """Add what begins at `at_s` [shape=(3, n)]; what lies outside of the waveform is left out."""
    first = round(at_s * RATE_HZ)
    begin, end = max(first, 0), min(first + sound.shape[1], wave.shape[1])
    if begin < end:
        wave[:, begin:end] += sound[:, begin - first : end - first]


def _tone(frequency_hz: F64, rng: Rng) -> F64:
    """A tone of a frequency that changes [shape=(n,)], with its phase on each component [shape=(3, n)]."""
    return np.asarray(np.sin(2 * np.pi * np.cumsum(frequency_hz) / RATE_HZ + rng.uniform(0, 6.3, (3, 1))))


def _begins(rng: Rng, seconds: float, every_s: float, jitter: float) -> list[float]:
    """When each of a train of sounds begins that goes on through the whole waveform, s."""
    times, at = [], rng.uniform(-every_s, 0)
    while at < seconds:
        times.append(at)
        at += every_s * rng.uniform(1 - jitter, 1 + jitter)
    return times


def fin_whales(wave: F64, rng: Rng) -> None:
    """Calls of about a second that sweep down through 20 Hz, 7 to 40 s apart, each with an echo.

    Watkins, Tyack, Moore and Bird (1987), "The 20-Hz signals of finback whales"; on ocean-bottom seismometers
    McDonald, Hildebrand and Webb (1995).
    """
    loud, seconds = noise_scale(wave) * draw_level(rng) * draw_shape(rng), wave.shape[1] / RATE_HZ
    top, length = rng.uniform(20, 28), rng.uniform(0.6, 1.2)
    t = np.arange(round(1.5 * length * RATE_HZ)) / RATE_HZ
    envelope = np.exp(-(((t - length / 2) / (length / 3)) ** 2))
    echo_s, echo = rng.uniform(1, 5), rng.uniform(0.1, 0.7)
    for at in _begins(rng, seconds, rng.uniform(7, 40), 0.03):
        call = loud * envelope * _tone(top * (1 - 0.3 * np.clip(t / length, 0, 1)), rng)
        _add(wave, at, call)
        _add(wave, at + echo_s, echo * call)


def blue_whales(wave: F64, rng: Rng) -> None:
    """Tones of 14 to 17 Hz for some 15 s, about once a minute.

    McDonald, Mesnick and Hildebrand (2006), "Biogeographic characterisation of blue whale song worldwide".
    """
    loud, seconds = noise_scale(wave) * draw_level(rng) * 0.7 * draw_shape(rng), wave.shape[1] / RATE_HZ
    t, length = np.arange(round(20 * RATE_HZ)) / RATE_HZ, rng.uniform(8, 19)
    envelope = np.clip(t / 2, 0, 1) * np.clip((length - t) / 3, 0, 1)
    for at in _begins(rng, seconds, rng.uniform(45, 75), 0.05):
        _add(wave, at, loud * envelope * _tone(np.full(len(t), rng.uniform(14, 17)), rng))


def t_phases(wave: F64, rng: Rng) -> None:
    """What a distant earthquake sends through the ocean: 2 to 12 Hz, swelling and fading over a minute, no onset.

    Okal (2008), "The generation of T waves by earthquakes".
    """
    n = wave.shape[1]
    t, length = np.arange(n) / RATE_HZ, rng.uniform(20, 100)
    from_peak = t - rng.uniform(10, n / RATE_HZ - 10)
    envelope = np.exp(-((from_peak / (length * np.where(from_peak < 0, 0.3, 0.5))) ** 2))
    sound = band_noise(rng, n, rng.uniform(2.0, 3.5), rng.uniform(5, 12))
    wave += noise_scale(wave) * draw_level(rng) * 0.5 * draw_shape(rng) * envelope * sound


def ocean_bottom_bumps(wave: F64, rng: Rng) -> None:
    """Rings of one frequency for a second without any S, as fish, gas or settling sediment give them.

    Buskirk and others (1981), "Evidence that biological activity affects ocean bottom seismograph recordings"; Tary and
    others (2012), "Microevents produced by gas migration and expulsion at the seabed".
    """
    loud, seconds = noise_scale(wave) * draw_shape(rng), wave.shape[1] / RATE_HZ
    frequency, cycles, n = rng.uniform(5, 25), rng.uniform(1.5, 6), 200
    rise = np.clip(np.arange(n) / RATE_HZ / 0.08, 0, 1)
    for _ in range(int(rng.integers(1, 7))):
        ring = damped(rng, frequency * rng.uniform(0.95, 1.05), cycles, n)
        _add(wave, rng.uniform(0, seconds), loud * draw_level(rng) * rng.uniform(0.7, 1.3, (3, 1)) * rise * ring)


def trains(wave: F64, rng: Rng) -> None:
    """Band noise from 3 to 45 Hz that swells and fades over a quarter of a minute to a minute, bogie by bogie.

    Fuchs, Bokelmann and the AlpArray Working Group (2018), "Equidistant spectral lines in train vibrations".
    """
    n = wave.shape[1]
    t, length = np.arange(n) / RATE_HZ, rng.uniform(15, 60)
    passing = (1 + ((t - rng.uniform(0, n / RATE_HZ)) / (length / 3)) ** 2) ** -1.5
    passing *= 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 1.2) * t)
    sound = band_noise(rng, n, rng.uniform(3, 10), rng.uniform(15, 45))
    wave += noise_scale(wave) * draw_level(rng) * 0.6 * draw_shape(rng) * passing * sound


def helicopters(wave: F64, rng: Rng) -> None:
    """A tone of 10 to 24 Hz and its overtones, gliding down as it passes.

    Eibl, Lokmer, Bean and Akerlie (2017), "Helicopter location and tracking using seismometer recordings".
    """
    n = wave.shape[1]
    t, length, blades = np.arange(n) / RATE_HZ, rng.uniform(8, 40), rng.uniform(10, 24)
    after = t - rng.uniform(0, n / RATE_HZ)
    glide = blades * (1 - 0.15 * np.tanh(after / (length / 3)))
    sound = sum((_tone(k * glide, rng) / k for k in range(1, 5) if k * blades * 1.15 < RATE_HZ / 2), np.zeros((3, n)))
    wave += noise_scale(wave) * draw_level(rng) * 0.6 * draw_shape(rng) / (1 + (after / (length / 2)) ** 2) * sound


def pile_driving(wave: F64, rng: Rng) -> None:
    """The same blow 30 to 75 times a minute for up to a minute."""
    loud, seconds = noise_scale(wave) * draw_level(rng) * draw_shape(rng), wave.shape[1] / RATE_HZ
    frequency, begin, length = rng.uniform(6, 25), rng.uniform(-10, seconds - 5), rng.uniform(5, 60)
    for after in _begins(rng, length, rng.uniform(0.8, 2.0), 0.05):
        blow = damped(rng, frequency * rng.uniform(0.98, 1.02), rng.uniform(2, 4), 150)
        _add(wave, begin + max(after, 0.0), loud * blow)


def vibrators(wave: F64, rng: Rng) -> None:
    """A sweep from 3 to 8 Hz up to 25 to 48 Hz, as trucks shake the ground in surveys, for 8 to 30 s.

    Crawford, Doty and Lee (1960), "Continuous signal seismograph".
    """
    n = wave.shape[1]
    t, length, begin = np.arange(n) / RATE_HZ, rng.uniform(8, 30), rng.uniform(0, n / RATE_HZ - 5)
    low, high = rng.uniform(3, 8), rng.uniform(25, 48)
    on = np.clip((t - begin) / 0.3, 0, 1) * np.clip((begin + length - t) / 0.3, 0, 1)
    sweep = _tone(low + (high - low) * np.clip((t - begin) / length, 0, 1), rng)
    wave += noise_scale(wave) * draw_level(rng) * draw_shape(rng) * on * sweep


def air_guns(wave: F64, rng: Rng) -> None:
    """The same decaying burst of 3 to 45 Hz every 10 to 60 s, as a ship's guns give it at the ocean bottom.

    Caldwell and Dragoset (2000), "A brief overview of seismic air-gun arrays".
    """
    loud, seconds = noise_scale(wave) * draw_level(rng) * draw_shape(rng), wave.shape[1] / RATE_HZ
    n = round(6 * RATE_HZ)
    fade = np.exp(-np.arange(n) / RATE_HZ / rng.uniform(0.3, 2.5))
    shot = fade * band_noise(rng, n, rng.uniform(3, 8), rng.uniform(15, 45))
    for at in _begins(rng, seconds, rng.uniform(10, 60), 0.01):
        _add(wave, at, loud * rng.uniform(0.9, 1.1) * shot)


def thunder(wave: F64, rng: Rng) -> None:
    """Claps that roll for 5 to 20 s, rough, some with a sharp beginning.

    Kappus and Vernon (1991), "Acoustic signature of thunder from seismic records".
    """
    scale, seconds = noise_scale(wave), wave.shape[1] / RATE_HZ
    for _ in range(int(rng.integers(1, 3))):
        n = round(rng.uniform(5, 20) * RATE_HZ)
        t = np.arange(n) / RATE_HZ
        knots = np.arange(0, t[-1] + 0.4, 0.4)
        rough = np.exp(np.interp(t, knots, 0.6 * rng.standard_normal(len(knots))))
        envelope = rough * np.exp(-t / rng.uniform(2, 6)) * np.clip(t / rng.uniform(0.1, 2), 0, 1)
        sound = band_noise(rng, n, rng.uniform(3, 8), rng.uniform(20, 45))
        loud = scale * draw_level(rng) * 0.5 * draw_shape(rng)
        _add(wave, rng.uniform(0, seconds - 5), loud * envelope * sound)


UNSEEN: tuple[Callable[[F64, Rng], None], ...] = (
    fin_whales,
    blue_whales,
    t_phases,
    ocean_bottom_bumps,
    trains,
    helicopters,
    pile_driving,
    vibrators,
    air_guns,
    thunder,
)
