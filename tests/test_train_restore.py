"""An int8 model becomes a float network again that says the same, alone and while it is trained."""

from pathlib import Path

import keras
import msgspec
import numpy as np
import pytest

from monitor.model import Model, default_model_path
from tests.train_store import write_store
from train.augment import ExampleMaker
from train.dataset import Store
from train.fit import fit, make_batch
from train.geometry import context_frames, look_ahead_frames
from train.outputs import F32
from train.quantize import HEAD_LOG_ODDS, quantize
from train.restore import _Convolution, _folded, _second_folded, branches_of, check_restorable, restore
from train.settings import FitSettings, NetworkSettings, Settings, of_branch
from train.steps import train

SHIPPED = Settings(fit=FitSettings(batch=6, tuning_rounds=1, mining_steps=2, mean_of_last=1))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> F32:
    maker = ExampleMaker(write_store(tmp_path_factory.mktemp("restore") / "store"), SHIPPED)
    return make_batch(maker, SHIPPED, np.random.default_rng(4))[0].astype(np.float32)


def test_it_says_what_the_int8_model_says(frames: F32) -> None:
    model = Model(default_model_path())
    network = restore(default_model_path(), SHIPPED, frames)
    said = np.stack([model.run(model.quantize(example)).reshape(-1, 3) for example in frames]).astype(np.float64)
    (detail,) = model._interpreter(frames.shape[1]).get_output_details()
    scale, zero = detail["quantization"]
    log_odds = (said - zero) * scale * HEAD_LOG_ODDS.scale + HEAD_LOG_ODDS.offset
    inside = np.abs(log_odds) < 7
    assert inside.mean() > 0.3
    for training in (False, True):
        restored = np.asarray(network(frames, training=training)).reshape(log_odds.shape)
        assert np.abs(restored - log_odds)[inside].mean() < 0.15
        assert np.corrcoef(restored[inside], log_odds[inside])[0, 1] > 0.995


TINY = msgspec.structs.replace(
    SHIPPED, network=NetworkSettings(filters=(8, 4, 6), channels=8, dilations=(1, 2), branches=1), name="tiny"
)


@pytest.mark.parametrize(
    ("last", "share_of"), [(1, ["round 2"]), (2, ["round 1", "round 2"]), (9, ["first", "round 1", "round 2"])]
)
def test_from_nothing_the_first_training_is_part_of_the_mean(
    last: int, share_of: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, means = iter(["first", "round 1", "round 2"]), []
    monkeypatch.setattr("train.fit.fit", lambda *_, **__: Path(next(trained)))
    monkeypatch.setattr("train.fit.weights_of", str)
    monkeypatch.setattr("train.fit.save_mean", lambda _, several, shares=None: means.append((several, shares)))
    monkeypatch.setattr("train.quantize.quantize", lambda *_: tmp_path)
    monkeypatch.setattr("train.steps.mine", lambda *_: [])
    settings = msgspec.structs.replace(TINY, fit=FitSettings(mining_rounds=2, mean_of_last=last))
    train(write_store(tmp_path / "store"), settings, tmp_path, watch=lambda _: lambda *_: None, report=lambda *_: None)
    assert means == [(share_of, None)]


@pytest.fixture(scope="module")
def of_two_branches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store and what training gives."""
    folder = tmp_path_factory.mktemp("branches")
    settings = two_branches()
    path = train(
        write_store(folder / "store"), settings, folder, watch=lambda _: lambda *_: None, report=lambda *_: None
    )
    assert path == folder / "model.keras"
    return folder


def two_branches() -> Settings:
    return msgspec.structs.replace(
        TINY,
        network=msgspec.structs.replace(TINY.network, branches=2),
        fit=msgspec.structs.replace(TINY.fit, steps=2, mining_steps=0),
    )


def test_branches_are_trained_apart_and_say_the_mean(of_two_branches: Path, frames: F32) -> None:
    folders = (of_two_branches / "branch1", of_two_branches / "branch2", of_two_branches)
    one, other, joined = (
        np.asarray(keras.models.load_model(folder / "model.keras", compile=False)(frames)) for folder in folders
    )
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(joined, (one + other) / 2, atol=1e-4)


def test_two_branches_become_a_file_and_a_network_again(of_two_branches: Path, frames: F32) -> None:
    settings = two_branches()
    int8 = quantize(Store.open(of_two_branches / "store"), settings, of_two_branches / "model.keras", of_two_branches)
    assert len(check_restorable(int8, settings)) == 64
    joined = keras.models.load_model(of_two_branches / "model.keras", compile=False)
    said, restored = np.asarray(joined(frames)), np.asarray(restore(int8, settings, frames)(frames))
    assert np.corrcoef(restored.ravel(), said.ravel())[0, 1] > 0.98


def test_the_last_branch_may_look_further_ahead(frames: F32, tmp_path: Path) -> None:
    """Two outputs later the mean of both counts where it is greater; of P and S the first alone speaks."""
    settings = two_branches()
    # What has hardly been trained is nowhere sure by much.
    network = msgspec.structs.replace(settings.network, later_s=0.4, quick_margin=0.02)
    settings = msgspec.structs.replace(settings, network=network)
    assert [of_branch(settings, number).network.look_ahead_s for number in (0, 1)] == [0.6, 1.0]
    assert context_frames(settings) == context_frames(two_branches()) + 4
    assert look_ahead_frames(settings) == look_ahead_frames(two_branches())
    store = write_store(tmp_path / "store")
    path = train(store, settings, tmp_path, watch=lambda _: lambda *_: None, report=lambda *_: None)
    quick, far, joined = (
        np.asarray(keras.models.load_model(file, compile=False)(frames))[:, :, 0]
        for file in (tmp_path / "branch1" / "model.keras", tmp_path / "branch2" / "model.keras", path)
    )
    together = (quick[:, :-2, 0] + far[:, 2:, 0]) / 2
    np.testing.assert_allclose(joined[..., 0], np.maximum(quick[:, 2:, 0] - 0.02, together), atol=1e-4)
    assert 0.05 < np.mean(quick[:, 2:, 0] - 0.02 > together) < 0.95, "each is the greater somewhere"
    np.testing.assert_allclose(joined[..., 1:], quick[:, 2:, 1:], atol=1e-4)
    int8 = quantize(store, settings, path, tmp_path)
    assert Model(int8).accelerator_problems() == []
    restored = np.asarray(restore(int8, settings, frames)(frames))[:, :, 0]
    assert np.corrcoef(restored.ravel(), joined.ravel())[0, 1] > 0.98
    with pytest.raises(ValueError, match=r"later_s=0\.4.*later_s=0\.0"):
        check_restorable(int8, two_branches())


def test_a_model_is_kept_and_another_network_trained_beside_it(frames: F32, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    one = msgspec.structs.replace(TINY, fit=msgspec.structs.replace(TINY.fit, steps=2, mining_steps=0))
    int8 = quantize(store, one, fit(store, one, tmp_path / "one"), tmp_path / "one")
    assert branches_of(int8) == 1
    parts: list[str] = []
    path = train(
        store,
        two_branches(),
        tmp_path,
        start_from=int8,
        watch=lambda _: lambda *_: None,
        report=lambda part, *_: parts.append(part),
    )
    assert set(parts) == {"branch2, training"}
    kept = np.asarray(restore(int8, one, frames)(frames))
    beside, joined = (
        np.asarray(keras.models.load_model(file, compile=False)(frames))
        for file in (tmp_path / "branch2" / "model.keras", path)
    )
    assert np.abs(kept - beside).max() > 0.01
    assert np.corrcoef(joined.ravel(), (kept + beside).ravel())[0, 1] > 0.99


def test_the_first_convolutions_of_version_4_become_folded_ones() -> None:
    rng = np.random.default_rng(6)
    image, first, second = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((1, 9, 32, 3), (3, 5, 3, 4), (3, 3, 4, 5))
    )
    bias = rng.standard_normal(4).astype(np.float32)

    def convolve(x: F32, kernel: F32, strides: tuple[int, int]) -> F32:
        pad = kernel.shape[1] // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (0, 0)))
        return np.asarray(keras.ops.conv(padded, kernel, strides, "valid"))

    then = convolve(np.maximum(convolve(image, first, (1, 2)) + bias, 0), second, (2, 2))
    folded = _folded(_Convolution(first, bias))
    now = np.maximum(convolve(image.reshape(1, 9, 8, 12), folded.kernel, (1, 1)) + folded.bias, 0)
    np.testing.assert_allclose(convolve(now, _second_folded(second), (2, 1)), then, atol=1e-4)


def test_training_goes_on_from_it(frames: F32, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("on")
    store, tiny = write_store(folder / "store"), TINY
    first = msgspec.structs.replace(tiny, fit=msgspec.structs.replace(tiny.fit, steps=2, mining_steps=0))
    int8 = quantize(store, first, fit(store, first, folder / "first"), folder / "first")
    parts: list[str] = []
    path = train(
        store,
        tiny,
        folder / "on",
        start_from=int8,
        watch=lambda _: lambda *_: None,
        report=lambda part, *_: parts.append(part),
    )
    assert path.exists()
    assert set(parts) == {"with mined negatives, round 1"}, "no training from nothing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(network=NetworkSettings(channels=32)), r"seismic.tflite: its network is .*channels=64.*channels=32"),
        (Settings(network=NetworkSettings(branches=1)), r"its network is .*branches=2.*branches=1"),
        (Settings(network=NetworkSettings(name="reference")), "network.name is 'reference'.*stream"),
    ],
)
def test_another_network_is_refused(settings: Settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_restorable(default_model_path(), settings)


def test_what_is_no_model_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("no") / "model.tflite"
    with pytest.raises(ValueError, match=r"model\.tflite"):
        check_restorable(path, SHIPPED)
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match=r"model\.tflite"):
        check_restorable(path, SHIPPED)
    assert len(check_restorable(default_model_path(), SHIPPED)) == 64
