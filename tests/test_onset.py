"""The onset picker on made-up arrivals: right, and honest about how right."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.onset import Onset, aic, refine

F64 = npt.NDArray[np.float64]

RATE = 100
SIGMA_S = 0.25
TRIALS = 150


def arrival(rng: np.random.Generator, snr: float, *, onset_s: float, rise_s: float = 0.005) -> F64:
    """Two and a half seconds of noise with a decaying oscillation from `onset_s` on."""
    time = np.arange(260) / RATE
    noise = np.convolve(rng.standard_normal(262), [0.25, 0.5, 0.25], "valid")
    since = np.clip(time - onset_s, 0, None)
    envelope = np.clip(since / rise_s, 0, 1) * np.exp(-since)
    oscillation = np.sin(2 * np.pi * rng.uniform(2, 12) * since) * (1 + 0.3 * rng.standard_normal(260))
    return np.asarray(noise / noise.std() + np.sqrt(2) * snr * envelope * oscillation)


def errors(snr: float) -> tuple[F64, F64, F64]:
    """Errors of the pick, its stated uncertainty and errors of the guess."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(TRIALS):
        onset_s = 1.6 + rng.uniform(-0.3, 0.3)
        guess_s = onset_s + SIGMA_S * rng.standard_normal()
        samples = np.diff(arrival(rng, snr, onset_s=onset_s))
        found = refine(samples, sampling_rate=RATE, guess_s=guess_s, guess_sigma_s=SIGMA_S)
        rows.append((found.offset_s + 1 / RATE - onset_s, found.uncertainty_s, guess_s - onset_s))
    error, uncertainty, guess = np.array(rows).T
    return error, uncertainty, guess


@pytest.mark.parametrize(
    ("snr", "median_s", "p90_s"), [(3, 0.04, 0.2), (5, 0.025, 0.08), (10, 0.02, 0.04), (30, 0.02, 0.03)]
)
def test_the_error_is_small_and_the_uncertainty_honest(snr: float, median_s: float, p90_s: float) -> None:
    error, uncertainty, guess = errors(snr)
    assert np.median(np.abs(error)) < median_s
    assert np.quantile(np.abs(error), 0.9) < p90_s
    assert np.median(np.abs(error)) < 0.3 * np.median(np.abs(guess)), "better than what it was given"
    assert (np.abs(error) < 2 * uncertainty).mean() > 0.9
    assert np.quantile(np.abs(error) / uncertainty, 0.68) > 0.2, "no idle doubt"


def test_more_signal_is_less_doubt() -> None:
    medians = [float(np.median(errors(snr)[1])) for snr in (1.5, 3, 10, 30)]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > 5 * medians[-1]


def test_noise_alone_stays_near_the_guess() -> None:
    rng = np.random.default_rng(1)
    found = [
        refine(rng.standard_normal(260), sampling_rate=RATE, guess_s=1.6, guess_sigma_s=SIGMA_S) for _ in range(100)
    ]
    assert np.mean([abs(onset.offset_s - 1.6) < 3 * SIGMA_S for onset in found]) > 0.97
    assert np.median([onset.uncertainty_s for onset in found]) > 0.1


@settings(max_examples=30)
@given(gain=st.floats(1e-9, 1e9), offset=st.floats(-1e3, 1e3), seed=st.integers(0, 50))
def test_unit_and_offset_do_not_matter(gain: float, offset: float, seed: int) -> None:
    samples = arrival(np.random.default_rng(seed), 10, onset_s=1.5)
    plain = refine(samples, sampling_rate=RATE, guess_s=1.6, guess_sigma_s=SIGMA_S)
    other = refine(gain * (samples + offset), sampling_rate=RATE, guess_s=1.6, guess_sigma_s=SIGMA_S)
    assert other.offset_s == plain.offset_s
    assert other.uncertainty_s == pytest.approx(plain.uncertainty_s, rel=1e-3)


@settings(max_examples=60)
@given(n=st.integers(0, 60), rate=st.sampled_from([2.0, 5.0, 20.0, 31.25, 100.0]), constant=st.booleans())
def test_any_length_gives_a_time(n: int, rate: float, constant: bool) -> None:
    samples = np.full(n, 3.0) if constant else np.random.default_rng(n).standard_normal(n)
    found = refine(samples, sampling_rate=rate, guess_s=0.2, guess_sigma_s=SIGMA_S)
    assert np.isfinite(found.offset_s)
    assert found.uncertainty_s >= 1e-3
    if constant or n < 8:
        assert found == Onset(0.2, SIGMA_S)


def test_constant_noise_before_the_onset() -> None:
    """A noise-free recording: no logarithm of nothing."""
    samples = np.zeros(260)
    samples[150:] = np.random.default_rng(0).standard_normal(110)
    found = refine(samples, sampling_rate=RATE, guess_s=1.6, guess_sigma_s=SIGMA_S)
    assert found == Onset(1.5, 0.01)


def slow_aic(samples: F64) -> list[float]:
    n = len(samples)
    return [
        k * np.log(np.var(samples[:k])) + (n - k) * np.log(np.var(samples[k:])) if 2 <= k <= n - 2 else np.inf
        for k in range(n)
    ]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 100])
def test_aic_is_akaikes(n: int) -> None:
    samples = np.random.default_rng(n).standard_normal(n)
    samples -= samples.mean() if n else 0.0
    np.testing.assert_allclose(aic(samples), slow_aic(samples), rtol=1e-6, atol=1e-9)
