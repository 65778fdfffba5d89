"""What noise has buried is not asked for; what stands out stays."""

import numpy as np
import numpy.typing as npt
import pytest

from train.buried import seen
from train.spectral import filtered, in_band

NPTS, P, S = 5000, 2000, 2800


def noise(seed: int = 1) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((3, NPTS))


def with_burst(at: int, amplitude: float, wave: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    t = np.arange(NPTS - at) / 100
    wave = wave.copy()
    wave[:, at:] += amplitude * np.exp(-t / 3) * np.sin(2 * np.pi * 7 * t)
    return wave


def test_an_earthquake_that_stands_out_stays() -> None:
    left = seen(with_burst(P, 10.0, noise()), [(P, S)], highest_hz=45)
    assert left.events == [(P, S)]
    assert not left.unknown.any()


def test_a_buried_one_is_unknown_from_before_its_p_to_behind_its_coda() -> None:
    left = seen(noise(), [(P, S)], highest_hz=45)
    assert left.events == []
    where = np.flatnonzero(left.unknown)
    assert where[0] < P
    assert where[-1] > S + 500
    assert not left.unknown[: P - 60].any()


def test_a_buried_p_leaves_an_s_that_can_be_seen() -> None:
    left = seen(with_burst(S, 10.0, noise()), [(P, S)], highest_hz=45)
    assert left.events == [(None, S)]
    assert left.unknown[P : S - 20].all()
    assert not left.unknown[S:].any()


def test_one_component_is_enough() -> None:
    wave = noise()
    wave[2] = with_burst(P, 10.0, noise())[2]
    wave[0] = 0.0  # absent
    assert seen(wave, [(P, None)], highest_hz=45).events == [(P, None)]


def test_what_the_recorder_cannot_keep_does_not_make_it_seen() -> None:
    t = np.arange(NPTS - P) / 100
    wave = noise(2)
    wave[:, P:] += 5 * np.clip(t, 0, 1) ** 2 * np.sin(2 * np.pi * 15 * t)  # no sharp begin: that has all frequencies
    assert seen(wave, [(P, None)], highest_hz=45).events == [(P, None)]
    assert seen(in_band(wave, high_hz=9), [(P, None)], highest_hz=9).events == []


@pytest.mark.parametrize("p", [20.0, NPTS - 50.0, None])
def test_near_the_edge_nobody_can_tell(p: float | None) -> None:
    left = seen(noise(), [(p, None if p else 3000.0)], highest_hz=45)
    assert left.events == [(p, None if p else 3000.0)]
    assert not left.unknown.any()


def test_filters_keep_what_passes_and_their_edges_do_not_ring() -> None:
    t = np.arange(NPTS) / 100
    inside, outside = np.sin(2 * np.pi * 10 * t), np.sin(2 * np.pi * 30 * t)
    kept = in_band((inside + outside)[None], low_hz=5, high_hz=20)[0]
    assert np.abs(kept - inside)[300:-300].max() < 0.02
    # A ramp's ends are far apart: what bridges them stays outside.
    ramp = np.linspace(0, 1000, NPTS)[None]
    assert np.allclose(filtered(ramp, np.ones_like), ramp)
    assert np.abs(in_band(ramp, low_hz=2, high_hz=20))[:, 300:-300].max() < 5
