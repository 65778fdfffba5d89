"""The int8 TFLite model: loading, checking, running.

A model file is a flatbuffer with a ZIP archive behind it, as TensorFlow Lite's model metadata stores associated
files; the archive holds `monitor.json`, the `ModelMetadata`. Interpreters ignore what follows the flatbuffer.
"""

import contextlib
import hashlib
import io
import os
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.records import ModelRef
from monitor.spectrogram import SpectrogramParams

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

METADATA_NAME = "monitor.json"
METADATA_SCHEMA = "monitor.model/1"
COMPONENTS = ("Z", "N", "E")
LABELS = ("earthquake", "P", "S")
# Interpreters and processors round each layer's sums in their own way: tflite-runtime 2.14 is up to 2 off where LiteRT
# made the answers. A wrong weight or a missing layer is off by tens.
_REFERENCE_TOLERANCE = 3
_DEFAULT_MODEL = "seismic.tflite"

# Operators that Google's documentation of the Edge TPU compiler lists as supported for int8, those that occur in
# convolutional networks. https://coral.ai/docs/edgetpu/models-intro/#supported-operations
_EDGE_TPU_OPERATORS = frozenset(
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED LOGISTIC MAX_POOL_2D MEAN MUL PAD "
    "QUANTIZE RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SLICE SOFTMAX SPLIT SQUEEZE "
    "STRIDED_SLICE SUB SUM TANH TRANSPOSE_CONV".split()
)


class ModelError(Exception):
    """The model file cannot be used; the message names the file, the field, what it holds and what is accepted."""


class ReferenceAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model must answer to `reference_input`, int8, within `_REFERENCE_TOLERANCE`."""

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


def default_model_path() -> Path:
    """Path of the model that ships with this package."""
    return Path(str(resources.files("monitor") / "models" / _DEFAULT_MODEL))


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
    except (zipfile.BadZipFile, KeyError) as error:
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
    """A fixed, patternless int8 input [shape=(n_frames, n_freq, n_components)] for `Model.verify`."""
    index = np.arange(n_frames * n_freq * n_components, dtype=np.uint64)
    # Knuth's multiplicative hash: the high bits of index * 2^32 / golden ratio.
    mixed = (index * np.uint64(2654435761)) % np.uint64(2**32) >> np.uint64(24)
    return mixed.astype(np.uint8).view(np.int8).reshape(n_frames, n_freq, n_components)


def to_probabilities(outputs: npt.NDArray[np.floating], metadata: ModelMetadata) -> F32:
    """Turn real-valued outputs [shape=(..., n_labels)] into probabilities [same shape, dtype=float32]."""
    maps = metadata.log_odds or (LogOdds(),) * len(metadata.labels)
    log_odds = outputs.astype(np.float64) * [m.scale for m in maps] + [m.offset for m in maps]
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)), np.float32)


class Model:
    """A loaded model.

    Args:
        path: The `.tflite` file; the shipped one if None.

    Raises:
        ModelError: It cannot be read, its metadata does not fit this code, or the interpreter refuses it.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or default_model_path()
        self.path = path
        try:
            self._content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        self.metadata = read_metadata(self._content, source=str(path))
        self.ref = ModelRef(self.metadata.name, self.metadata.version, hashlib.sha256(self._content).hexdigest())
        self._interpreters: dict[int, Any] = {}
        interpreter = self._interpreter(self.frames_for(1))
        details = interpreter.get_input_details()[0]
        spectrogram = self.metadata.spectrogram
        expected = (spectrogram.n_freq, len(self.metadata.components))
        found = tuple(int(n) for n in details["shape"][2:])
        if details["dtype"] is not np.int8:
            raise ModelError(f"{path}: input is {np.dtype(details['dtype'])}; accepted: int8")
        if found != expected:
            raise ModelError(f"{path}: input has (bins, components) {found}; its metadata says {expected}")
        self._scale, self._zero = (float(details["quantization"][0]), int(details["quantization"][1]))
        output = interpreter.get_output_details()[0]
        if int(output["shape"][-1]) != len(self.metadata.labels):
            raise ModelError(f"{path}: output has {output['shape'][-1]} labels; its metadata {self.metadata.labels}")
        scale, zero = float(output["quantization"][0]), int(output["quantization"][1])
        values = (np.arange(-128, 128, dtype=np.float64) - zero) * scale
        # [shape=(256, n_labels)]
        self._probability_of = to_probabilities(np.repeat(values[:, None], len(self.metadata.labels), 1), self.metadata)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self._content)

    def frames_for(self, n_outputs: int) -> int:
        """Input frames that `n_outputs` consecutive outputs need."""
        return self.metadata.context_frames + 1 + (n_outputs - 1) * self.metadata.output_stride

    def quantize(self, decibel: F32) -> I8:
        """Quantise spectrogram values, decibel above background, to the model's input."""
        steps = decibel / np.float32(self._scale)
        np.rint(steps, out=steps)
        steps += np.float32(self._zero)
        return np.clip(steps, np.float32(-128), np.float32(127), out=steps).astype(np.int8)

    def dequantize(self, frames: I8) -> F32:
        """Turn quantised frames back into decibel above background."""
        return (frames.astype(np.float32) - np.float32(self._zero)) * np.float32(self._scale)

    @property
    def silence(self) -> int:
        """The int8 input value of 0 dB above background, which also stands for what is absent."""
        return self._zero

    def run(self, frames: I8) -> I8:
        """Judge consecutive frames.

        Args:
            frames: [shape=(n_frames, n_freq, n_components), dtype=int8], `n_frames = frames_for(n_outputs)`.

        Returns:
            [shape=(n_outputs, n_labels), dtype=int8]

        Raises:
            ValueError: The number of frames is not `frames_for` of a whole number of outputs.
        """
        n_outputs, rest = divmod(len(frames) - self.metadata.context_frames - 1, self.metadata.output_stride)
        if rest or n_outputs < 0:
            raise ValueError(f"{len(frames)} frames; accepted: {self.frames_for(1)} and then in steps of the stride")
        interpreter = self._interpreter(len(frames))
        details = interpreter.get_input_details()[0]
        answer = interpreter.get_output_details()[0]["index"]
        if self.metadata.kind == "stream":
            pieces = [frames]
        else:
            # One by one: the flatten within such a network fixes the batch.
            length, stride = self.metadata.context_frames + 1, self.metadata.output_stride
            pieces = [frames[at * stride : at * stride + length] for at in range(n_outputs + 1)]
        outputs: list[I8] = []
        for piece in pieces:
            interpreter.set_tensor(details["index"], np.ascontiguousarray(piece[None]))
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(answer))
        return np.concatenate(outputs).reshape(n_outputs + 1, len(self.metadata.labels))

    def probabilities(self, output: I8) -> F32:
        """Turn int8 outputs into probabilities [same shape, dtype=float32]."""
        return np.asarray(self._probability_of[output.astype(np.int16) + 128, np.arange(output.shape[-1])], np.float32)

    def verify(self) -> list[str]:
        """Run the reference input; returns what differs, nothing if all is well."""
        metadata = self.metadata
        reference = metadata.reference
        spectrogram = metadata.spectrogram
        frames = reference_input(reference.input_frames, spectrogram.n_freq, len(metadata.components))
        found = self.run(frames).reshape(-1).astype(int)
        expected = np.array(reference.output)
        if len(found) != len(expected):
            return [f"reference answer has {len(expected)} values, this model gave {len(found)}"]
        off = np.abs(found - expected)
        if off.max(initial=0) > _REFERENCE_TOLERANCE:
            at = int(np.argmax(off))
            return [
                f"reference answer {at} is {expected[at]}, this machine gave {found[at]};"
                f" accepted: within {_REFERENCE_TOLERANCE}"
            ]
        return []

    def operators(self) -> dict[str, int]:
        """How often each operator occurs."""
        with _quiet_stderr():
            plain = _interpreter_class()(
                model_content=self._content, experimental_op_resolver_type=_without_delegates()
            )
        names = (str(op["op_name"]) for op in plain._get_ops_details())
        return dict(Counter(name for name in names if name != "DELEGATE"))

    def accelerator_problems(self) -> list[str]:
        """Operators that the Edge TPU compiler would leave to the CPU."""
        return sorted(name for name in self.operators() if name not in _EDGE_TPU_OPERATORS)

    def parameters(self) -> int:
        """Number of weights and biases."""
        interpreter = self._interpreter(self.frames_for(1))
        ends = {d["index"] for d in (*interpreter.get_input_details(), *interpreter.get_output_details())}
        computed = {int(i) for op in interpreter._get_ops_details() for i in op["outputs"]}
        return sum(
            int(np.prod(tensor["shape"]))
            for tensor in interpreter.get_tensor_details()
            if tensor["index"] not in ends | computed and tensor["quantization_parameters"]["scales"].size
        )

    def bench(self, n_outputs: int, *, repeats: int) -> list[float]:
        """Seconds that each of `repeats` inferences of `n_outputs` outputs took, after one that is not counted."""
        frames = reference_input(
            self.frames_for(n_outputs), self.metadata.spectrogram.n_freq, len(self.metadata.components)
        )
        self.run(frames)
        seconds = []
        for _ in range(repeats):
            before = time.perf_counter()
            self.run(frames)
            seconds.append(time.perf_counter() - before)
        return seconds

    def _interpreter(self, n_frames: int) -> Any:
        """One interpreter per input length: a live hop and a replay batch alternate without re-planning memory."""
        metadata = self.metadata
        if metadata.kind == "window":
            n_frames = metadata.context_frames + 1
        if n_frames in self._interpreters:
            return self._interpreters[n_frames]
        try:
            with _quiet_stderr():
                interpreter = _interpreter_class()(model_content=self._content, num_threads=1)
            details = interpreter.get_input_details()[0]
            tail = [int(n) for n in details["shape"][2:]]
            shape = [1, n_frames, *tail]
            if list(details["shape"]) != shape:
                interpreter.resize_tensor_input(details["index"], shape)
            with _quiet_stderr():
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{self.path}: the interpreter refuses it: {error}") from error
        if len(self._interpreters) >= _MAX_INTERPRETERS:
            self._interpreters.pop(next(iter(self._interpreters)))
        self._interpreters[n_frames] = interpreter
        return interpreter


# A live length, a batch length and the odd tail.
_MAX_INTERPRETERS = 4


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The interpreter tells the terminal which delegate it made; its errors come as exceptions all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter  # noqa: PLC0415
        except ImportError as error:
            raise ModelError(
                "no TensorFlow Lite interpreter is installed; accepted: ai-edge-litert or tflite-runtime"
            ) from error
    return Interpreter


def _without_delegates() -> Any:
    try:
        from ai_edge_litert.interpreter import OpResolverType  # noqa: PLC0415
    except ImportError:
        from tflite_runtime.interpreter import OpResolverType  # noqa: PLC0415
    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
