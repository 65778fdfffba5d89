"""The `quantize` step: float Keras model -> int8 TFLite with its metadata."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from monitor.model import (
    LABELS,
    Calibration,
    LogOdds,
    Model,
    ModelMetadata,
    ReferenceAnswer,
    attach_metadata,
    reference_input,
)
from train.augment import ExampleMaker
from train.calibrate import log_odds
from train.dataset import Store
from train.fit import make_batch
from train.geometry import context_frames, look_ahead_frames, output_stride
from train.outputs import FloatModel
from train.settings import Settings

_REPRESENTATIVE_BATCHES = 40
_REPRESENTATIVE_SEED = 1_000_003
# A provisional threshold; `evaluate` puts the calibrated one in its place.
_PROVISIONAL_THRESHOLD = 0.5
_REFERENCE_OUTPUTS = 4
_FIXED_OUTPUTS = 5
# The last layer of `stream` gives log-odds / 2.5 + 3, cut off at 0 and 6: from -7.5 to 7.5 nothing is lost that
# matters, and a step of int8 is 0.06 instead of what the rarest extreme allows.
HEAD_LOG_ODDS = LogOdds(scale=2.5, offset=-7.5)
# Where decisions are made: below it nothing is, nearer to their end outputs may be cut off.
_DECISIVE_LOG_ODDS = (0.0, 7.25)


def quantize(store: Store, settings: Settings, keras_path: Path, out: Path) -> Path:
    """Quantise to int8: weights per channel, activations by what the training split shows them.

    Args:
        store: For representative data.
        settings: The run that made the model.
        keras_path: From `fit`.
        out: Folder; gets `NAME.tflite` and the float `NAME.float.tflite`.

    Returns:
        Path of the int8 model.
    """
    import keras  # noqa: PLC0415  # heavy: only where it is used
    import tensorflow as tf  # noqa: PLC0415

    from train.network import HEAD, HEAD_LATER, build  # noqa: PLC0415

    weights = keras.models.load_model(keras_path, compile=False).get_weights()
    # Layers are numbered on from those there were before, and their names end up in the file.
    keras.backend.clear_session()
    context, stride = context_frames(settings), output_stride(settings)
    # More than one output: the converter would fold the time axis away, and no other length could be run. Five are
    # the second of data that an Edge TPU, which cannot be resized, gets at once.
    outputs = _FIXED_OUTPUTS if settings.network.name == "stream" else 1
    frames = context + 1 + (outputs - 1) * stride
    streaming = settings.network.name == "stream"
    fixed = build(settings, frames, batch=1, for_file=True)
    fixed.set_weights(weights)
    heads = [layer for layer in fixed.layers if layer.name in (HEAD, HEAD_LATER)]
    for head in heads:
        kernel, bias = head.get_weights()
        head.set_weights([kernel / HEAD_LOG_ODDS.scale, (bias - HEAD_LOG_ODDS.offset) / HEAD_LOG_ODDS.scale])
    maker = ExampleMaker(store, settings)
    # Not of the run's seed: trainings that differ in it are rounded by what the same examples show.
    rng = np.random.default_rng(_REPRESENTATIVE_SEED)

    def representative() -> Iterator[list[Any]]:
        for _ in range(_REPRESENTATIVE_BATCHES):
            inputs, _, _ = make_batch(maker, settings, rng)
            for example in inputs.astype(np.float32):
                start = int(rng.integers(0, len(example) - frames + 1))
                yield [example[start : start + frames].reshape(fixed.input_shape)]

    def convert(*, int8: bool) -> bytes:
        converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = representative
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return bytes(converter.convert())

    out.mkdir(parents=True, exist_ok=True)
    exact, path = out / f"{settings.name}.float.tflite", out / f"{settings.name}.tflite"
    exact.write_bytes(convert(int8=False))
    metadata = _metadata(store, settings)
    flatbuffer = convert(int8=True)
    path.write_bytes(attach_metadata(flatbuffer, metadata))
    if streaming:
        # Rounding shifts the outputs a little, on the whole: the last bias takes that back (Nagel et al., 2019).
        rounded = Model(path)
        shift = shift_of_log_odds(FloatModel(exact, rounded), rounded, [inputs[0][0] for inputs in representative()])
        for head in heads:
            kernel, bias = head.get_weights()
            says = np.abs(kernel).sum(axis=(0, 1, 2)) > 0
            head.set_weights([kernel, bias + says * shift / HEAD_LOG_ODDS.scale])
        flatbuffer = convert(int8=True)
        path.write_bytes(attach_metadata(flatbuffer, metadata))
    _write(path, flatbuffer, metadata)
    return path


def _metadata(store: Store, settings: Settings) -> ModelMetadata:
    """What a file says of itself, but for its reference answers."""
    context, stride, streaming = context_frames(settings), output_stride(settings), settings.network.name == "stream"
    return ModelMetadata(
        name=settings.name,
        version=settings.version,
        kind="stream" if streaming else "window",
        spectrogram=settings.spectrogram,
        labels=LABELS if streaming else LABELS[:1],
        log_odds=(HEAD_LOG_ODDS,) * len(LABELS) if streaming else (),
        context_frames=context,
        look_ahead_frames=look_ahead_frames(settings),
        output_stride=stride,
        threshold=_PROVISIONAL_THRESHOLD,
        training_fingerprint=store.fingerprint,
        settings=msgspec.to_builtins(settings),
        reference=ReferenceAnswer(input_frames=context + 1 + (_REFERENCE_OUTPUTS - 1) * stride, output=[]),
    )


def shift_of_log_odds(exact: Model, rounded: Model, inputs: list[Any]) -> Any:
    """Mean of float minus int8 log-odds, where decisions are made and something is heard.

    Silence is left out: it is one single input, met again and again, and what rounding does to it says nothing of what
    it does to recordings.

    Args:
        exact, rounded: The network before and after quantisation.
        inputs: [shape=(frames, n_freq, 3), dtype=float32] decibel above background, each.

    Returns:
        [shape=(labels,), dtype=float32].
    """
    of_exact, of_rounded = (
        log_odds(np.concatenate([model.probabilities(model.run(model.quantize(i))) for i in inputs]).astype(np.float64))
        for model in (exact, rounded)
    )
    metadata = exact.metadata
    heard = np.concatenate([i[metadata.context_frames :: metadata.output_stride].any(axis=(1, 2)) for i in inputs])
    low, high = _DECISIVE_LOG_ODDS
    inside = (np.minimum(of_exact, of_rounded) > low) & (np.maximum(of_exact, of_rounded) < high) & heard[:, None]
    difference = np.where(inside, of_exact - of_rounded, 0.0)
    return (difference.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)).astype(np.float32)


def set_probabilities(path: Path, *, scale: float, offset: float) -> None:
    """Put a calibration of the earthquake's log-odds on top of what a model file holds."""
    content = path.read_bytes()
    metadata = Model(path).metadata
    maps = list(metadata.log_odds or (LogOdds(),) * len(metadata.labels))
    maps[0] = LogOdds(scale=maps[0].scale * scale, offset=maps[0].offset * scale + offset)
    _write(path, content[: _flatbuffer_length(content)], msgspec.structs.replace(metadata, log_odds=tuple(maps)))


def set_calibration(path: Path, *, threshold: float, calibration: Calibration) -> None:
    """Put the threshold and its calibration into a model file."""
    content = path.read_bytes()
    metadata = msgspec.structs.replace(Model(path).metadata, threshold=threshold, calibration=calibration)
    _write(path, content[: _flatbuffer_length(content)], metadata)


def _write(path: Path, flatbuffer: bytes, metadata: ModelMetadata) -> None:
    model = Model(path)
    frames = reference_input(metadata.reference.input_frames, metadata.spectrogram.n_freq, len(metadata.components))
    answer = model.run(frames).reshape(-1).tolist()
    reference = msgspec.structs.replace(metadata.reference, output=answer)
    path.write_bytes(attach_metadata(flatbuffer, msgspec.structs.replace(metadata, reference=reference)))


def _flatbuffer_length(content: bytes) -> int:
    """Where the archive behind the flatbuffer begins: at its first local file header that the directory names."""
    import io  # noqa: PLC0415
    import zipfile  # noqa: PLC0415

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return min(entry.header_offset for entry in archive.infolist())


def today() -> str:
    """The date of a run, ISO 8601."""
    return dt.datetime.now(tz=dt.UTC).date().isoformat()
