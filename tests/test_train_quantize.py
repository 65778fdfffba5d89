"""Float to int8: what the file holds, that it answers as the float network does, whatever the pieces."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from monitor.detector import DetectorSettings
from monitor.model import Calibration, Model, ModelError, attach_metadata, read_metadata
from monitor.spectrogram import F32, SpectrogramParams
from tests.train_store import TINY, write_store
from train.dataset import Store
from train.fit import fit
from train.outputs import FloatModel, all_outputs, publish, trace_outputs
from train.quantize import quantize, set_calibration, shift_of_log_odds
from train.settings import NetworkSettings, Settings, read_settings

REFERENCE = msgspec.structs.replace(
    read_settings(None),
    name="tinyreference",
    augment=msgspec.structs.replace(TINY.augment, seconds=50),
    spectrogram=SpectrogramParams(nperseg=128, hop=48, last_bin=64, block=2, background_blocks=31),
    network=NetworkSettings(name="reference"),
    fit=TINY.fit,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("train") / "store")


def made(store: Store, settings: Settings, out: Path) -> Path:
    return quantize(store, settings, fit(store, settings, out), out)


@pytest.fixture(scope="module")
def path(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(store, TINY, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return Model(path)


def test_metadata_are_the_runs(model: Model, store: Store) -> None:
    metadata = model.metadata
    assert metadata.kind == "stream"
    assert metadata.spectrogram == TINY.spectrogram
    assert msgspec.convert(metadata.settings, Settings) == TINY
    assert metadata.training_fingerprint == store.fingerprint
    assert model.verify() == []
    assert model.accelerator_problems() == []


class Off(Model):
    """Says 1 of all that it hears, in log-odds, or so much more; of silence eight times as much more."""

    def __init__(self, like: Model, by: float) -> None:
        self.metadata, self._by = like.metadata, by

    def quantize(self, decibel: F32) -> F32:  # type: ignore[override]
        return decibel

    def run(self, frames: F32) -> F32:  # type: ignore[override]
        last = frames[self.metadata.context_frames :: self.metadata.output_stride]
        said = 1.0 + np.where(last.any(axis=(1, 2)), self._by, 8 * self._by)
        return np.repeat(said[:, None], 3, axis=1)

    def probabilities(self, output: F32) -> F32:  # type: ignore[override]
        return np.asarray(1 / (1 + np.exp(-output)), np.float32)


def test_what_rounding_does_to_silence_says_nothing_of_recordings(model: Model) -> None:
    heard = np.ones((model.frames_for(9), model.metadata.spectrogram.n_freq, 3), np.float32)
    half = heard.copy()
    half[: model.frames_for(4)] = 0.0
    shift = shift_of_log_odds(Off(model, 0.0), Off(model, 0.25), [heard, half])
    assert shift == pytest.approx([-0.25] * 3, abs=1e-5)


def test_input_steps_round_trip(model: Model) -> None:
    params = model.metadata.spectrogram
    decibel = np.linspace(-10, 10, 999, dtype=np.float32)
    back = model.dequantize(model.quantize(decibel))
    step = float(model.dequantize(np.array([1], np.int8))[0] - model.dequantize(np.array([0], np.int8))[0])
    assert np.abs(back - decibel).max() <= step / 2 * 1.001
    assert model.quantize(np.array([params.clip_high_db * 10], np.float32))[0] == 127
    assert float(model.dequantize(np.array([model.silence], np.int8))[0]) == 0


def test_pieces_do_not_change_an_int8_stream(model: Model) -> None:
    stride = model.metadata.output_stride
    rng = np.random.default_rng(0)
    n = 57
    frames = rng.integers(-128, 128, (model.frames_for(n), model.metadata.spectrogram.n_freq, 3)).astype(np.int8)
    whole = model.run(frames)
    assert whole.shape == (n, 3)
    for size in (1, 5, 28):
        pieces = [
            model.run(frames[at * stride : at * stride + model.frames_for(min(size, n - at))])
            for at in range(0, n, size)
        ]
        assert np.array_equal(np.concatenate(pieces), whole)


def test_a_wrong_number_of_frames_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="frames; accepted"):
        model.run(np.zeros((model.frames_for(2) + 1, model.metadata.spectrogram.n_freq, 3), np.int8))


def test_float_and_int8_agree(model: Model, path: Path, store: Store) -> None:
    double = FloatModel(path.with_suffix(".float.tflite"), model)
    ours, theirs = trace_outputs(store, 0, model), trace_outputs(store, 0, double)
    assert ours is not None
    assert theirs is not None
    assert ours.first_step == theirs.first_step
    assert np.array_equal(ours.judged, theirs.judged)
    assert np.abs(ours.probabilities - theirs.probabilities).max() < 0.05


def test_outputs_speak_of_the_samples_that_the_pipeline_says(model: Model, store: Store) -> None:
    outputs = trace_outputs(store, 2, model)
    assert outputs is not None
    spectrogram = model.metadata.spectrogram
    assert outputs.per_step == model.metadata.output_stride * spectrogram.hop
    info = store.traces[2]
    assert info.starttime_ns is not None
    absolute = outputs.samples + info.starttime_ns // 10_000_000
    frame = absolute // spectrogram.hop
    assert (absolute % spectrogram.hop == 0).all()
    assert ((frame + model.metadata.look_ahead_frames) % model.metadata.output_stride == 1).all()
    # All of the trace is spoken of, its warm-up is not judged.
    assert outputs.samples[0] < 100
    assert outputs.samples[-1] > info.npts - 100
    assert not outputs.judged[outputs.samples < 300].any()
    assert outputs.judged[(outputs.samples > 600) & (outputs.samples < info.npts - 100)].all()


def test_calibration_is_kept_and_the_answers_with_it(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(path.read_bytes())
    calibration = Calibration(thresholds=[0.5, 0.9], false_alarms_per_day=[10.0, 1.0], station_hours=3.0)
    for threshold in (0.7, 0.8):  # twice: what is there already is replaced
        set_calibration(copy, threshold=threshold, calibration=calibration)
        model = Model(copy)
        assert model.metadata.threshold == threshold
        assert model.metadata.calibration == calibration
        assert model.verify() == []
    assert len(copy.read_bytes()) < len(path.read_bytes()) + 1000


def test_metadata_that_do_not_fit_are_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    metadata = read_metadata(content, source="model")
    narrow = msgspec.structs.replace(metadata, spectrogram=SpectrogramParams(last_bin=20))
    wrong = tmp_path / "wrong.tflite"
    wrong.write_bytes(attach_metadata(content[: content.index(b"PK\x03\x04")], narrow))
    with pytest.raises(ModelError, match=r"input has \(bins, components\) \(8, 12\); its metadata says \(20, 3\)"):
        Model(wrong)


def test_quantising_again_gives_the_same_file(store: Store, path: Path, tmp_path: Path) -> None:
    again = quantize(store, TINY, path.parent / "model.keras", tmp_path)
    assert again.read_bytes() == path.read_bytes()


def test_the_reference_network_runs_in_the_pipeline(store: Store, tmp_path: Path) -> None:
    path = made(store, REFERENCE, tmp_path)
    model = Model(path)
    assert model.metadata.kind == "window"
    assert model.metadata.labels == ("earthquake",)
    assert model.verify() == []
    for runner in (model, FloatModel(path.with_suffix(".float.tflite"), model)):
        outputs = all_outputs(store, [0, 1], runner)
        assert sorted(outputs) == [0, 1]
        assert outputs[0].judged.any()
        assert np.isfinite(outputs[0].probabilities).all()
        assert (outputs[0].probabilities[outputs[0].judged, 0] > 0).all()
    publish(store, 0, model, DetectorSettings(), 0.01)
