"""STA/LTA without SciPy is STA/LTA with SciPy."""

import numpy as np
import pytest
from scipy import signal

from monitor.explain.stalta import BAND_HZ, band_pass, ratio
from tests.waveforms import earthquake
from train.stalta import ENERGY
from train.stalta import ratio as reference

WAVE = earthquake(rate=100.0, p_s=30.0, s_minus_p=3.0, seconds=60.0, snr=10.0, seed=3)[0]


@pytest.mark.parametrize("rate", [50.0, 100.0, 200.0])
@pytest.mark.parametrize("n", [999, 1000])
def test_the_filter_is_a_butterworth_band_pass(rate: float, n: int) -> None:
    sections = signal.butter(4, BAND_HZ, "bandpass", fs=rate, output="sos")
    expected = signal.sosfilt(sections, WAVE[:n])
    np.testing.assert_allclose(band_pass(WAVE[:n], rate), expected, atol=1e-8 * np.abs(expected).max())


def test_the_ratio_is_that_of_the_evaluation() -> None:
    expected = reference(WAVE.astype(np.float32), ENERGY)
    found = ratio(WAVE.astype(np.float32).astype(np.float64), 100.0)
    assert np.isnan(found[:500]).all()
    np.testing.assert_allclose(found[500:], expected[500:], rtol=1e-6)
    assert found[3000:3300].max() > 20


def test_each_run_of_samples_is_one_of_its_own() -> None:
    cut = WAVE.copy()
    cut[2000:2300] = np.nan
    found = ratio(cut, 100.0)
    assert np.isnan(found[2000:2800]).all()
    np.testing.assert_array_equal(found[2800:], ratio(WAVE[2300:], 100.0)[500:])
    np.testing.assert_array_equal(found[:2000], ratio(WAVE[:2000], 100.0))
    assert np.isnan(ratio(np.full(300, np.nan), 100.0)).all()
