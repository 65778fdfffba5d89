"""The one spectrogram, against SciPy and against a slow background written from its description."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from monitor.spectrogram import F32, Background, Bool, SpectrogramParams, complete_frames, power_db

PARAMS = SpectrogramParams()
SMALL = SpectrogramParams(
    nperseg=8, hop=4, first_bin=1, last_bin=3, block=3, background_blocks=4, lag_blocks=1, min_blocks=2
)
F64 = npt.NDArray[np.float64]


@pytest.mark.parametrize(("nperseg", "hop", "first_bin", "last_bin"), [(64, 10, 1, 32), (32, 7, 2, 9), (8, 8, 4, 4)])
def test_power_is_scipys(nperseg: int, hop: int, first_bin: int, last_bin: int) -> None:
    params = SpectrogramParams(nperseg=nperseg, hop=hop, first_bin=first_bin, last_bin=last_bin)
    samples = np.cumsum(np.random.default_rng(1).normal(0, 300, 1000)) + 5000
    stft = signal.ShortTimeFFT(signal.windows.hann(nperseg, sym=False), hop=hop, fs=100)
    difference = np.diff(samples)
    n_frames = (len(difference) - nperseg) // hop + 1
    # SciPy centres slice p on time p * hop: with time 0 half a window into the samples, slice 0 begins with them.
    power = stft.spectrogram(difference, p0=0, p1=n_frames, k_offset=nperseg // 2)
    expected = 10 * np.log10(power[first_bin : last_bin + 1].T)
    found = power_db(samples, params)
    assert found.dtype == np.float32
    assert found.shape == (n_frames, params.n_freq)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_what_is_far_below_a_strong_signal_is_not_rounded_away() -> None:
    """As below a digitizer's anti-alias filter: within 1e-3 dB of the formula, 200 dB down."""
    noise = np.random.default_rng(2).normal(0, 1e6, 30_000)
    samples = signal.sosfilt(signal.butter(8, 1.0, fs=100, output="sos"), noise)
    window = signal.windows.hann(PARAMS.nperseg, sym=False)
    frames = np.lib.stride_tricks.sliding_window_view(np.diff(samples), PARAMS.nperseg)[:: PARAMS.hop] * window
    expected = 10 * np.log10(np.abs(np.fft.rfft(frames, axis=1)[:, PARAMS.first_bin : PARAMS.last_bin + 1]) ** 2)
    assert np.ptp(expected) > 200
    np.testing.assert_allclose(power_db(samples, PARAMS), expected, atol=1e-3)


@given(n=st.integers(0, 60), data=st.data())
def test_complete_frames_by_brute_force(n: int, data: st.DataObject) -> None:
    valid = np.array(data.draw(st.lists(st.sampled_from([True] * 9 + [False]), min_size=n, max_size=n)), bool)
    starts = range(0, n - SMALL.span + 1, SMALL.hop)
    assert complete_frames(valid, SMALL).tolist() == [bool(valid[at : at + SMALL.span].all()) for at in starts]
    assert len(power_db(np.zeros(n), SMALL)) == len(starts)


@given(frame=st.integers(-1000, 10**12), end=st.integers(-1000, 10**12))
def test_which_samples_a_frame_needs(frame: int, end: int) -> None:
    for params in (PARAMS, SMALL):
        assert params.end_sample(frame) - params.first_sample(frame) == params.span
        last = params.frames_before(end) - 1
        assert params.end_sample(last) <= end < params.end_sample(last + 1)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 120), max_size=5), seed=st.integers(0, 99))
def test_frames_do_not_depend_on_the_batch(cuts: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).normal(0, 1000, 1300).round()
    whole = power_db(samples, PARAMS)
    edges = sorted({0, *(min(cut, len(whole)) for cut in cuts), len(whole)})
    for first, stop in pairwise(edges):
        piece = power_db(samples[first * PARAMS.hop : (stop - 1) * PARAMS.hop + PARAMS.span], PARAMS)
        assert piece.tobytes() == whole[first:stop].tobytes()


def test_as_many_frames_as_fit_whatever_the_length() -> None:
    """More than are done at once."""
    samples = np.random.default_rng(5).normal(0, 1000, 12_000 * SMALL.hop)
    whole = power_db(samples, SMALL)
    piece = power_db(samples[7 * SMALL.hop :], SMALL)
    assert len(whole) == (len(samples) - SMALL.span) // SMALL.hop + 1
    assert piece.tobytes() == whole[7:].tobytes()


def slow_background(frames: F32, valid: Bool, params: SpectrogramParams, first_frame: int) -> tuple[F64, Bool]:
    """What `Background` says of itself, frame by frame, in float64."""
    relative, judged = np.zeros(frames.shape), np.zeros(len(frames), bool)
    at = {first_frame + i: i for i in range(len(frames))}

    def rows(block: int) -> list[int | None]:
        return [at.get(frame) for frame in range(block * params.block, (block + 1) * params.block)]

    def real(row: int | None) -> bool:
        return row is not None and bool(valid[row])

    first_block = first_frame // params.block
    for frame, row in at.items():
        own = frame // params.block
        newest = own - 1 - params.lag_blocks
        used = []
        for block in range(own - 1, newest - params.background_blocks, -1):
            if block < first_block or not any(real(r) for r in rows(block)):
                break
            if block <= newest and all(real(r) for r in rows(block)):
                used.append(frames[[r for r in rows(block) if r is not None]].astype(float).mean(axis=0))
        judged[row] = valid[row] and len(used) >= params.min_blocks
        if judged[row]:
            relative[row] = np.clip(frames[row] - np.mean(used, axis=0), params.clip_low_db, params.clip_high_db)
    return relative, judged


@st.composite
def frames_and_holes(draw: st.DrawFn) -> tuple[F32, Bool]:
    n = draw(st.integers(0, 90))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    frames = rng.normal(-20, 30, (n, SMALL.n_freq)).astype(np.float32)
    valid = np.ones(n, bool)
    for start, length in draw(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9)), max_size=4)):
        valid[start : start + length] = False
    frames[~valid] = -360.0
    return frames, valid


@settings(max_examples=100)
@given(
    given_frames=frames_and_holes(),
    first_frame=st.one_of(st.integers(-20, 20), st.just(17_000_000_001)),
    cuts=st.lists(st.integers(0, 90), max_size=8),
    lag=st.integers(0, 2),
)
def test_background(given_frames: tuple[F32, Bool], first_frame: int, cuts: list[int], lag: int) -> None:
    frames, valid = given_frames
    params = SpectrogramParams(nperseg=8, hop=4, last_bin=3, block=3, background_blocks=4, lag_blocks=lag, min_blocks=2)
    whole, whole_judged = Background(params, first_frame).push(frames, valid)
    expected, expected_judged = slow_background(frames, valid, params, first_frame)
    assert whole_judged.tolist() == expected_judged.tolist()
    np.testing.assert_allclose(whole, expected, atol=1e-3)
    assert not whole[~whole_judged].any()

    split = Background(params, first_frame)
    edges = sorted({0, *(min(cut, len(frames)) for cut in cuts), len(frames)})
    pieces = [split.push(frames[a:b], valid[a:b]) for a, b in pairwise(edges)]
    if pieces:
        assert np.concatenate([piece[0] for piece in pieces]).tobytes() == whole.tobytes()
        assert np.concatenate([piece[1] for piece in pieces]).tolist() == whole_judged.tolist()


@settings(max_examples=25)
@given(
    later=st.integers(0, 400),
    step=st.sampled_from([1, 2, 7, 600]),
    holes=st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 25)), max_size=4),
    seed=st.integers(0, 99),
)
def test_of_a_background_only_what_it_reaches_matters(
    later: int, step: int, holes: list[tuple[int, int]], seed: int
) -> None:
    """One that began later, with other cuts, gives the same bits as soon as it has what it looks at."""
    frames = np.random.default_rng(seed).normal(0, 40, (1500, PARAMS.n_freq)).astype(np.float32)
    frames += np.random.default_rng(seed).choice(np.array([-300, 0, 200], np.float32), (1500, 1))
    valid = np.ones(1500, bool)
    for start, length in holes:
        valid[start : start + length] = False
    whole, whole_judged = Background(PARAMS, 3).push(frames, valid)
    late = Background(PARAMS, 3 + later)
    pieces = [late.push(frames[a : a + step], valid[a : a + step]) for a in range(later, 1500, step)]
    reach = (PARAMS.background_blocks + PARAMS.lag_blocks + 2) * PARAMS.block
    assert np.concatenate([piece[0] for piece in pieces])[reach:].tobytes() == whole[later + reach :].tobytes()
    assert np.concatenate([piece[1] for piece in pieces])[reach:].tolist() == whole_judged[later + reach :].tolist()


def test_an_empty_block_forgets_and_a_missing_frame_does_not() -> None:
    def judged_after(hole: int) -> Bool:
        frames, valid = np.zeros((60, SMALL.n_freq), np.float32), np.ones(60, bool)
        valid[30 : 30 + hole] = False
        return Background(SMALL).push(frames, valid)[1]

    assert judged_after(2)[32:].all()
    # Blocks 10 (empty), 11 and 12 (the new background), 13 (the lag): 14 is the first judged again.
    after = judged_after(3)
    assert not after[33 : 14 * 3 - 0].any()
    assert after[14 * 3 :].all()


def test_a_background_does_not_keep_what_it_was_given() -> None:
    frames, valid = np.zeros((10, SMALL.n_freq), np.float32), np.ones(10, bool)
    background = Background(SMALL)
    background.push(frames, valid)
    frames[:] = 1000.0
    relative, _ = background.push(np.zeros((30, SMALL.n_freq), np.float32), np.ones(30, bool))
    assert not relative.any()


@settings(max_examples=25)
@given(power=st.integers(-300, 30), gain=st.floats(1e-9, 1e6), seed=st.integers(0, 99))
def test_gain_does_not_matter(power: int, gain: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(0, 100, 3000)
    samples[2000:2100] *= 30

    def relative(scale: float) -> F32:
        frames = power_db(samples * scale, PARAMS)
        return Background(PARAMS).push(frames, np.ones(len(frames), bool))[0]

    reference = relative(1.0)
    assert np.abs(reference).max() > 20
    # The logarithm is in float32: a step of it near -180 dB is 1.5e-5 dB, near -1700 dB 1.2e-4 dB.
    np.testing.assert_allclose(relative(2.0**power), reference, atol=2e-4 if power >= -60 else 8e-4)
    np.testing.assert_allclose(relative(gain), reference, atol=3e-4)


def test_what_float32_does_not_hold_keeps_its_shape() -> None:
    samples = np.random.default_rng(5).normal(0, 100, 300)
    for power in (-70, -75, -140, -400):
        found = power_db(samples * 2.0**power, PARAMS) - power_db(samples, PARAMS)
        np.testing.assert_allclose(found, 20 * np.log10(2.0) * power, atol=1e-3)


def test_no_power_at_all_is_the_level_that_models_know() -> None:
    samples = np.full(300, -12345.0)
    samples[200:] += np.random.default_rng(5).normal(0, 100, 100)
    found = power_db(samples, PARAMS)
    np.testing.assert_allclose(found[:13], -360.0, atol=1e-3)
    assert np.median(found[15:]) > 40


@pytest.mark.parametrize("samples", [np.zeros(200), np.full(200, -(2.0**31)), np.arange(200) * 1e15 % 2e15 - 1e15])
def test_power_is_finite_for_whatever_a_recorder_writes(samples: F64) -> None:
    found = power_db(samples, PARAMS)
    assert np.isfinite(found).all()


def test_usable_bins() -> None:
    assert PARAMS.usable_bins(100.0).all()
    assert PARAMS.usable_bins(1000.0).all()
    assert PARAMS.usable_bins(99.9995).all(), "a nominal 100 Hz"
    found = PARAMS.usable_bins(50.0)
    assert found.dtype == bool
    assert found.tolist() == [f <= 22.5 for f in PARAMS.frequencies_hz]
    assert 0 < PARAMS.usable_bins(20.0).sum() < found.sum()


def test_axes() -> None:
    assert PARAMS.n_freq == 32
    assert PARAMS.frequencies_hz[0] == 1.5625
    assert PARAMS.frequencies_hz[-1] == 50.0
    assert PARAMS.frame_interval_s == 0.1
    tone = np.sin(2 * np.pi * 12.5 * np.arange(640) / 100)
    assert PARAMS.frequencies_hz[power_db(tone, PARAMS).mean(axis=0).argmax()] == 12.5


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sampling_rate", [0, -1, 10_001]),
        ("nperseg", [6, 4098, 65]),
        ("hop", [0, 65]),
        ("first_bin", [0, 33]),
        ("last_bin", [0, 33]),
        ("block", [0, 1001]),
        ("background_blocks", [0, 1001]),
        ("lag_blocks", [-1, 101]),
        ("min_blocks", [0, 31]),
        ("guard", [0.05, 1.1, float("nan")]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"spectrogram {name} is {value}; accepted"):
            SpectrogramParams(**{name: value})


@pytest.mark.parametrize("clip", [(0.0, 60.0), (-20.0, 0.0), (5.0, -5.0), (float("nan"), 60.0)])
def test_clip_range_is_checked(clip: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="clip range"):
        SpectrogramParams(clip_low_db=clip[0], clip_high_db=clip[1])
