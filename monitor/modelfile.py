"""What travels inside a model file, and how to read and attach it.

A model file is a flatbuffer with a ZIP archive behind it, as TensorFlow Lite's model metadata stores associated
files; the archive holds `monitor.json`, the `ModelMetadata`. Interpreters ignore what follows the flatbuffer.
"""

import io
import struct
import zipfile
import zlib
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.spectrogram import SpectrogramParams

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

METADATA_NAME = "monitor.json"
# What zipfile raises on a damaged archive: positions before its begin, unknown or broken compression, encryption.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, KeyError, ValueError, OverflowError, EOFError),
    *(NotImplementedError, RuntimeError, OSError, zlib.error, struct.error),
)
METADATA_SCHEMA = "monitor.model/1"
COMPONENTS = ("Z", "N", "E")
LABELS = ("earthquake", "P", "S")


class ModelError(Exception):
    """The model file cannot be used; the message names the file, the field, what it holds and what is accepted."""


class ReferenceAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model must answer to `reference_input`, int8, within `monitor.model.REFERENCE_TOLERANCE`."""

    input_frames: int
    output: list[int]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """False alarms per station-day on held-out noise at each threshold of the event probability."""

    thresholds: list[float]
    false_alarms_per_day: list[float]
    station_hours: float


class LogOdds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an output becomes log-odds: `scale * output + offset`, so that their sigmoid is a calibrated probability."""

    scale: float = 1.0
    offset: float = 0.0


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What travels inside a model file.

    Attributes:
        schema: `monitor.model/1`.
        name, version: Who the model is; the version names the training run.
        kind: `stream`: the network slides along time, one output each `output_stride` frames; `window`: it judges
            `context_frames + 1` frames at a time and is run every `output_stride` frames.
        spectrogram: What it was trained on; must be what this code computes.
        components: Order of the input's last axis.
        labels: Order of the output's last axis.
        log_odds: For each label, how its output becomes log-odds; empty where outputs are log-odds.
        context_frames: Input frames before the last one that one output needs.
        look_ahead_frames: An output speaks of the frame this many before the last one that it needs.
        output_stride: Frames between outputs, on the absolute grid.
        threshold: Default threshold of the event probability.
        calibration: False alarms against threshold, or null.
        training_fingerprint: SHA-256 of the training data.
        settings: The training settings as they were.
        reference: For `monitor model verify`.
    """

    schema: Literal["monitor.model/1"] = "monitor.model/1"
    name: str
    version: str
    kind: Literal["stream", "window"]
    spectrogram: SpectrogramParams
    components: tuple[str, ...] = COMPONENTS
    labels: tuple[str, ...] = LABELS
    log_odds: tuple[LogOdds, ...] = ()
    context_frames: int
    look_ahead_frames: int
    output_stride: int
    threshold: float
    calibration: Calibration | None = None
    training_fingerprint: str
    settings: dict[str, Any]
    reference: ReferenceAnswer


def read_metadata(content: bytes, *, source: str) -> ModelMetadata:
    """Read the metadata of a model file.

    Raises:
        ModelError: There is none, or it is not what this version reads.
    """
    if content[4:8] != b"TFL3":
        raise ModelError(f"{source}: not a TensorFlow Lite model (no TFL3 identifier at byte 4)")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            text = archive.read(METADATA_NAME)
    except _ZIP_ERRORS as error:
        raise ModelError(f"{source}: no {METADATA_NAME} inside; accepted: a model made by `python -m train`") from error
    try:
        metadata = msgspec.json.decode(text, type=ModelMetadata)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ModelError(f"{source}: {METADATA_NAME}: {error}") from error
    for field, accepted in (("components", COMPONENTS), ("labels", LABELS[: len(metadata.labels)])):
        if getattr(metadata, field) != accepted:
            raise ModelError(f"{source}: {METADATA_NAME}: {field} is {getattr(metadata, field)}; accepted: {accepted}")
    checks = {
        "context_frames": metadata.context_frames >= 0,
        "look_ahead_frames": 0 <= metadata.look_ahead_frames <= metadata.context_frames,
        "output_stride": metadata.output_stride >= 1,
        "threshold": 0 < metadata.threshold < 1,
        "labels": len(metadata.labels) >= 1,
        "log_odds": len(metadata.log_odds) in (0, len(metadata.labels)) and all(m.scale > 0 for m in metadata.log_odds),
    }
    for field, fine in checks.items():
        if not fine:
            raise ModelError(f"{source}: {METADATA_NAME}: {field} is {getattr(metadata, field)}, out of its range")
    return metadata


def attach_metadata(flatbuffer: bytes, metadata: ModelMetadata) -> bytes:
    """Append the metadata to a TFLite flatbuffer; the same inputs give the same bytes."""
    stream = io.BytesIO()
    stream.write(flatbuffer)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(METADATA_NAME, date_time=(1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, msgspec.json.encode(metadata))
    return stream.getvalue()


def reference_input(n_frames: int, n_freq: int, n_components: int) -> I8:
    """A fixed, patternless int8 input [shape=(n_frames, n_freq, n_components)] for `monitor.model.Model.verify`."""
    index = np.arange(n_frames * n_freq * n_components, dtype=np.uint64)
    # Knuth's multiplicative hash: the high bits of index * 2^32 / golden ratio.
    mixed = (index * np.uint64(2654435761)) % np.uint64(2**32) >> np.uint64(24)
    return mixed.astype(np.uint8).view(np.int8).reshape(n_frames, n_freq, n_components)


def to_probabilities(outputs: npt.NDArray[np.floating], metadata: ModelMetadata) -> F32:
    """Turn real-valued outputs [shape=(..., n_labels)] into probabilities [same shape, dtype=float32]."""
    maps = metadata.log_odds or (LogOdds(),) * len(metadata.labels)
    log_odds = outputs.astype(np.float64) * [m.scale for m in maps] + [m.offset for m in maps]
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)), np.float32)
