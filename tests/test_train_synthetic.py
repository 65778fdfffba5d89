"""Made earthquakes: S where it is said to be, a coda that loses its high frequencies first."""

import numpy as np
import numpy.typing as npt
import pytest

from train.spectral import in_band
from train.synthetic import earthquake

F64 = npt.NDArray[np.float64]


def made(seed: int, npts: int = 4000) -> tuple[F64, float]:
    return earthquake(np.random.default_rng(seed), npts)


def band_power(wave: F64, start: int, stop: int, low_hz: float, high_hz: float) -> float:
    return float(np.mean(in_band(wave, low_hz=low_hz, high_hz=high_hz)[..., start:stop] ** 2))


def test_the_same_seed_makes_the_same() -> None:
    (first, s), (again, s_again) = made(1), made(1)
    assert first.tobytes() == again.tobytes()
    assert s == s_again
    assert made(2)[0].tobytes() != first.tobytes()


@pytest.mark.parametrize("npts", [150, 151, 997, 5000])
def test_any_length_is_made(npts: int) -> None:
    wave, s = made(3, npts)
    assert wave.shape == (3, npts)
    assert np.isfinite(wave).all()
    assert 70 <= s <= 2500


@pytest.mark.parametrize("seed", range(12))
def test_the_p_has_the_power_of_one(seed: int) -> None:
    wave, _ = made(seed)
    ahead = np.pad(wave, ((0, 0), (500, 0)))
    assert band_power(ahead[0], 500, 650, 1.5, 20.0) == pytest.approx(1.0)


def test_p_is_more_on_the_vertical_than_s() -> None:
    at_p, at_s = [], []
    for seed in range(60):
        wave, s = made(seed)
        if 300 < s < 3500:
            at_p.append(np.sum(wave[0, :50] ** 2) / np.sum(wave[1:, :50] ** 2))
            at_s.append(np.sum(wave[0, int(s) : int(s) + 100] ** 2) / np.sum(wave[1:, int(s) : int(s) + 100] ** 2))
    assert len(at_p) > 15
    assert np.median(at_p) > 0.7
    assert np.median(at_s) < 0.4
    assert np.mean(np.array(at_p) > np.array(at_s)) > 0.8


def test_s_is_the_stronger_mostly() -> None:
    ratios = []
    for seed in range(60):
        wave, s = made(seed)
        if 300 < s < 3500:
            at = int(s)
            ratios.append(np.sum(wave[1:, at + 5 : at + 105] ** 2) / np.sum(wave[1:, at - 105 : at - 5] ** 2))
    assert np.median(ratios) > 3
    assert np.mean(np.array(ratios) > 1) > 0.8


def test_a_coda_decays_and_its_high_frequencies_first() -> None:
    lost = []
    for seed in range(60):
        wave, s = made(seed)
        at = int(s)
        if at < 1000:
            early, late = (at + 200, at + 700), (at + 1700, at + 2200)
            low, high = (
                band_power(wave, *late, low_hz, high_hz) / band_power(wave, *early, low_hz, high_hz)
                for low_hz, high_hz in ((1.0, 3.0), (12.0, 24.0))
            )
            lost.append((low, high))
    low, high = np.median(lost, axis=0)
    assert low < 1
    assert high < low / 2


def test_s_has_an_onset() -> None:
    wave, s = made(7, 5000)
    at = int(s)
    assert 100 < at < 4500
    assert np.abs(wave[1:, at : at + 100]).max() > 1.5 * np.abs(wave[1:, at - 10 : at]).max()
