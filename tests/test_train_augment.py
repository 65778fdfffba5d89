"""Examples: targets where the arrivals are, nothing said of what is not there, the same from the same seed."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from tests.train_store import NPTS, PLAIN, TINY, P, S, write_store
from train.augment import Crop, ExampleMaker, cut, frames_of, lay_synthetic, targets
from train.dataset import Store
from train.disturb import KINDS, disturb
from train.disturb_unseen import UNSEEN
from train.geometry import look_ahead_frames, output_stride
from train.settings import read_settings
from train.spectral import in_band


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("train") / "store")


def spoken_samples(n_frames: int) -> npt.NDArray[np.int64]:
    """The crop's sample that each output speaks of, by the definition in `monitor.pipeline`."""
    stride, spectrogram = output_stride(TINY), TINY.spectrogram
    last = np.arange(n_frames // stride) * stride + stride - 1
    # The crop's frame 0 begins with the crop's sample 0: its centre is -first_sample(0) further on.
    return (last - look_ahead_frames(TINY)) * spectrogram.hop - spectrogram.first_sample(0)


def test_the_highest_p_and_s_targets_are_at_the_arrivals(store: Store) -> None:
    crop = cut(store, 0, 1500, 3000)
    n_frames = 290
    target, weight = targets(crop, n_frames, TINY)
    spoken = spoken_samples(n_frames)
    for label, arrival in ((1, P), (2, S)):
        best = int(np.argmax(target[:, label]))
        nearest = int(np.argmin(np.abs(spoken - (arrival - 1500))))
        assert best == nearest
        assert weight[best, label] == 1
    active = spoken[target[:, 0] == 1]
    assert P - 1500 < active.min() < P - 1500 + 40
    assert active.max() > S - 1500


def test_before_an_earthquake_is_noise_and_its_coda_counts_for_neither(store: Store) -> None:
    crop = cut(store, 0, 0, NPTS)
    target, weight = targets(crop, 880, TINY)
    spoken = spoken_samples(880)
    before = (spoken >= 33) & (spoken < P - 60)  # 33: the middle of the first frame
    assert not target[before, 0].any()
    assert weight[before].all()
    end = S + (S - P)
    coda = (spoken > end + 30) & (spoken < end + 3 * (S - P) - 30)
    assert coda.any()
    assert not weight[coda, 0].any()


def test_unknown_intervals_do_not_count(store: Store) -> None:
    crop = cut(store, 4, 0, NPTS)
    crop.unknown[2000:3000] = True
    _, weight = targets(crop, 880, TINY)
    spoken = spoken_samples(880)
    inside = (spoken >= 2000) & (spoken < 3000)
    assert not weight[inside].any()
    assert weight[~inside & (spoken >= 33)].all()


def test_a_gap_is_never_judged(store: Store) -> None:
    crop = cut(store, 0, 0, NPTS)
    crop.real[:, 4000:4100] = False
    crop.wave[~crop.real] = 0
    frames, judged = frames_of(crop, TINY)
    hop, span = TINY.spectrogram.hop, TINY.spectrogram.span
    begin = np.arange(len(judged)) * hop
    touches = (begin < 4100) & (begin + span > 4000)
    assert not judged[touches].any()
    assert not frames[touches].any()
    assert judged[(begin > 600) & ~touches & ((begin < 3900) | (begin > 4700))].all()


def test_what_lies_outside_a_trace_is_not_real(store: Store) -> None:
    crop = cut(store, 1, -500, NPTS)
    assert not crop.real[:, :500].any()
    assert crop.real[0, 500:].all()
    assert not crop.real[1:].any()  # a vertical-only trace
    assert crop.events == [(P + 500, S + 500)]


@pytest.mark.parametrize("kind", [*(kind for kind, _ in KINDS), *UNSEEN], ids=lambda kind: kind.__name__)
def test_disturbances_keep_shape_and_stay_finite(kind: Callable[..., None]) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        wave = rng.standard_normal((3, 3000))
        wave[1] = 0  # an absent component
        kind(wave, rng)
        assert wave.shape == (3, 3000)
        assert np.isfinite(wave).all()


def test_what_training_never_makes_is_not_made_in_training() -> None:
    assert not {kind.__name__ for kind in UNSEEN} & {kind.__name__ for kind, _ in KINDS}


def test_disturbances_survive_silence_and_change_noise() -> None:
    silent = np.zeros((3, 3000))
    disturb(silent, np.random.default_rng(0))
    assert np.isfinite(silent).all()
    noise = np.random.default_rng(1).standard_normal((3, 3000))
    before = noise.copy()
    disturb(noise, np.random.default_rng(2))
    assert (noise != before).any()


def laid(kind: Callable[..., None], seed: int) -> npt.NDArray[np.float64]:
    before = np.random.default_rng(100 + seed).standard_normal((3, 6000))
    wave = before.copy()
    kind(wave, np.random.default_rng(seed))
    return wave - before


@pytest.mark.parametrize("name", ["footsteps", "thumps", "vehicles", "machinery", "wind", "bustle"])
def test_what_comes_through_the_ground_is_not_one_wave_on_all_components(name: str) -> None:
    kind = next(kind for kind, _ in KINDS if kind.__name__ == name)
    of = [np.linalg.svd(laid(kind, seed), compute_uv=False) for seed in range(10)]
    assert np.median([second / first for first, second, _ in of if first > 0]) > 0.1


def test_the_response_to_a_calibration_is_one_wave_on_all_components() -> None:
    kind = next(kind for kind, _ in KINDS if kind.__name__ == "calibration")
    first, second, _ = np.linalg.svd(laid(kind, 0), compute_uv=False)
    assert first > 0
    assert second < 1e-6 * first


def test_bustle_is_many_bursts_without_a_rhythm() -> None:
    kind = next(kind for kind, _ in KINDS if kind.__name__ == "bustle")
    gaps: list[int] = []
    for seed in range(20):
        power = (laid(kind, seed) ** 2).sum(axis=0)
        begins = np.flatnonzero((power[1:] > 0) & (power[:-1] == 0))
        gaps += list(np.diff(begins))
    assert len(gaps) > 20
    assert np.std(gaps) > 0.5 * np.mean(gaps)


def test_now_and_then_one_component_alone_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(wave: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
        wave += rng.uniform(1, 2)

    monkeypatch.setattr("train.disturb.KINDS", ((shift, 1.0),))
    alone = 0
    for seed in range(100):
        wave = np.zeros((3, 3000))
        disturb(wave, np.random.default_rng(seed))
        changed = (wave != 0).any(axis=1)
        assert changed.any()
        alone += changed.sum() == 1
    assert 5 < alone < 40


def test_examples_are_the_same_from_the_same_seed(store: Store) -> None:
    maker, again = ExampleMaker(store, TINY), ExampleMaker(store, TINY)
    rng, other = np.random.default_rng(8), np.random.default_rng(8)
    for _ in range(12):
        a, b = maker.make(rng), again.make(other)
        assert np.array_equal(a.frames, b.frames)
        assert np.array_equal(a.targets, b.targets)
        assert np.array_equal(a.weights, b.weights)
        assert a.frames.shape == (maker.n_frames, TINY.spectrogram.n_freq, 3)
        assert a.targets.shape == a.weights.shape == (maker.n_frames // 2, 3)
        assert np.isfinite(a.frames).all()


def test_nothing_is_demanded_of_outputs_without_data(store: Store) -> None:
    maker = ExampleMaker(store, PLAIN)
    example = maker.make(np.random.default_rng(1))
    # Before the background has settled nothing is judged: 3 s and the lag.
    silent = np.asarray(~example.frames.any(axis=(1, 2)))
    spoken = np.arange(maker.n_frames // 2) * 2 + 1 - look_ahead_frames(PLAIN)
    assert silent[:30].all()
    assert not example.weights[(spoken < 0) | silent[np.clip(spoken, 0, None)]].any()


def test_left_out_data_sets_are_not_drawn(store: Store) -> None:
    import msgspec

    without = msgspec.structs.replace(TINY, data=msgspec.structs.replace(TINY.data, exclude=["synthetic"]))
    with pytest.raises(ValueError, match="no event traces in split 'train'"):
        ExampleMaker(store, without)


def test_the_settings_files_are_what_they_say() -> None:
    import train.settings

    configs = Path(train.settings.__file__).parent / "configs"
    assert read_settings(configs / "default.toml") == read_settings(None)
    reference = read_settings(configs / "reference.toml")
    assert reference.network.name == "reference"
    assert reference.spectrogram.n_freq == 64
    assert 30 < 64 * reference.spectrogram.frame_interval_s < 31


def test_crops_without_events_have_no_targets() -> None:
    crop = Crop(np.zeros((3, 3000)), np.ones((3, 3000), bool), np.zeros(3000, bool), [])
    target, _ = targets(crop, 290, TINY)
    assert not target.any()


def test_a_made_earthquake_is_laid_over_noise_as_strong_as_asked(store: Store) -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 100, (3, 5000))
    for ratio_db in (0.0, 10.0, 40.0):
        crop = Crop(noise.copy(), np.ones((3, 5000), bool), np.zeros(5000, bool), [])
        lay_synthetic(crop, rng, (ratio_db, ratio_db))
        ((p, s),) = crop.events
        assert p is not None
        assert s is not None
        assert 0.12 * 5000 <= p < s
        start = int(p)
        np.testing.assert_array_equal(crop.wave[:, :start], noise[:, :start])
        added = in_band(crop.wave[0] - noise[0])[start : start + 150]
        asked = 10 ** (ratio_db / 20) * np.sqrt(np.mean(in_band(noise[0]) ** 2))
        # The end of the crop cuts the filter short.
        assert np.sqrt(np.mean(added**2)) == pytest.approx(asked, rel=0.15)


def test_a_made_earthquake_needs_data(store: Store) -> None:
    crop = Crop(np.zeros((3, 3000)), np.zeros((3, 3000), bool), np.zeros(3000, bool), [])
    lay_synthetic(crop, np.random.default_rng(1), (10.0, 10.0))
    assert not crop.events
    assert not crop.wave.any()
    crop = Crop(np.zeros((3, 3000)), np.ones((3, 3000), bool), np.zeros(3000, bool), [])
    crop.wave[0] = np.random.default_rng(2).normal(0, 1, 3000)
    crop.real[0, 1000:2000] = False
    lay_synthetic(crop, np.random.default_rng(1), (10.0, 10.0))
    assert len(crop.events) == 1
    assert crop.wave[0].std() > 1.0


def test_examples_of_made_earthquakes_have_targets(store: Store) -> None:
    augment = msgspec.structs.replace(PLAIN.augment, synthetic_share=1.0, synthetic_snr_db=(20.0, 40.0))
    maker, rng = ExampleMaker(store, msgspec.structs.replace(PLAIN, augment=augment)), np.random.default_rng(1)
    examples = [maker.make(rng) for _ in range(10)]
    for example in examples:
        assert np.isfinite(example.frames).all()
    assert sum(bool(example.targets[:, 0].any()) for example in examples) >= 8
    assert any(example.targets[:, 2].max() > 0.9 for example in examples)
