"""The int8 TFLite model: loading, checking, running, on the processor or on a Coral Edge TPU."""

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from monitor.edgetpu import FALLBACK_REASONS, EdgeTpu, StickError, compiled_path
from monitor.interpreter import RuntimeMissingError, interpreter_class, quiet_stderr
from monitor.modelfile import (
    COMPONENTS,
    F32,
    I8,
    LABELS,
    METADATA_NAME,
    METADATA_SCHEMA,
    Calibration,
    LogOdds,
    ModelError,
    ModelMetadata,
    ReferenceAnswer,
    attach_metadata,
    read_metadata,
    reference_input,
    to_probabilities,
)
from monitor.records import ModelRef

if TYPE_CHECKING:
    from monitor.operators import Operator

__all__ = [
    "COMPONENTS",
    "LABELS",
    "METADATA_NAME",
    "METADATA_SCHEMA",
    "Calibration",
    "Device",
    "LogOdds",
    "Model",
    "ModelError",
    "ModelMetadata",
    "ReferenceAnswer",
    "attach_metadata",
    "default_model_path",
    "read_metadata",
    "reference_input",
    "to_probabilities",
]

Device = Literal["auto", "cpu", "edgetpu"]

# Interpreters and processors round each layer's sums in their own way: tflite-runtime 2.14 is up to 2 off where LiteRT
# made the answers. A wrong weight or a missing layer is off by tens.
REFERENCE_TOLERANCE = 3
# A live length, a batch length and the odd tail.
_MAX_INTERPRETERS = 4
_DEFAULT_MODEL = "seismic.tflite"

log = logging.getLogger("monitor")


def default_model_path() -> Path:
    """Path of the model that ships with this package."""
    return Path(str(resources.files("monitor") / "models" / _DEFAULT_MODEL))


class Model:
    """A loaded model.

    Args:
        path: The `.tflite` file; the shipped one if None.
        device: What runs it: the processor, or a Coral Edge TPU where its library, the stick and the model's compiled
            form (`*_edgetpu.tflite` beside `path`) are there. `edgetpu` warns where they are not, `auto` does not; the
            processor does what the stick does not.
        edge_tpu: What stands for the stick; tests give their own.

    Raises:
        ModelError: It cannot be read, its metadata does not fit this code, or the interpreter refuses it.
    """

    # What only has an interpreter, as a float network, has no stick.
    _edge_tpu: EdgeTpu | None = None
    _fallbacks: Mapping[str, int] = MappingProxyType(dict.fromkeys(FALLBACK_REASONS, 0))
    edge_tpu_trouble: str | None = None
    """Why it did not run on the Edge TPU from the start, though it was to or might have."""

    def __init__(
        self, path: Path | None = None, *, device: Device = "cpu", edge_tpu: Callable[..., EdgeTpu] = EdgeTpu
    ) -> None:
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
        # Some of the neighbouring bins may stand as one, of so many times the components: the same values in a row.
        if math.prod(found) != math.prod(expected) or found[-1] % expected[-1]:
            raise ModelError(f"{path}: input has (bins, components) {found}; its metadata says {expected}")
        self._scale, self._zero = (float(details["quantization"][0]), int(details["quantization"][1]))
        output = interpreter.get_output_details()[0]
        if int(output["shape"][-1]) != len(self.metadata.labels):
            raise ModelError(f"{path}: output has {output['shape'][-1]} labels; its metadata {self.metadata.labels}")
        scale, zero = float(output["quantization"][0]), int(output["quantization"][1])
        values = (np.arange(-128, 128, dtype=np.float64) - zero) * scale
        # [shape=(256, n_labels)]
        self._probability_of = to_probabilities(np.repeat(values[:, None], len(self.metadata.labels), 1), self.metadata)
        if device != "cpu":
            self._open_edge_tpu(edge_tpu, wanted=device == "edgetpu")

    def _open_edge_tpu(self, edge_tpu: Callable[..., EdgeTpu], *, wanted: bool) -> None:
        metadata, path = self.metadata, compiled_path(self.path)
        stick = edge_tpu(
            path,
            context=metadata.context_frames,
            stride=metadata.output_stride,
            one_by_one=metadata.kind == "window",
            check=self._differences,
        )
        self._fallbacks = stick.fallbacks
        try:
            if not path.is_file():
                raise StickError("no_model", f"{path} is missing, the model compiled for it (make edgetpu)")
            try:
                compiled = read_metadata(path.read_bytes(), source=str(path))
            except (ModelError, OSError) as error:
                raise StickError("no_model", f"{path}: {error}") from error
            if compiled != metadata:
                raise StickError("no_model", f"{path} was compiled from another model than {self.path}")
            self._edge_tpu = stick
            stick.start()
        except StickError as error:
            self.edge_tpu_trouble = str(error)
            if wanted:
                stick.count(error)
                log.warning("the model runs on the CPU, not on the Edge TPU: %s", error)
            else:
                log.info("the model runs on the CPU: %s", error)
        else:
            log.info("the model runs on the Edge TPU, compiled: %s", path)

    @property
    def device(self) -> Literal["cpu", "edgetpu"]:
        """What runs it now."""
        return "edgetpu" if self._edge_tpu is not None and self._edge_tpu.ready else "cpu"

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """How often the processor had to do what the Edge TPU was to do, by reason."""
        return self._fallbacks

    def close(self) -> None:
        """Give the Edge TPU back; the processor goes on."""
        if self._edge_tpu is not None:
            self._edge_tpu.close()
            self._edge_tpu = None

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
        if self._edge_tpu is not None:
            judged = self._edge_tpu.run(frames)
            if judged is not None:
                return judged
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
            interpreter.set_tensor(details["index"], np.ascontiguousarray(piece).reshape(details["shape"]))
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(answer))
        return np.concatenate(outputs).reshape(n_outputs + 1, len(self.metadata.labels))

    def probabilities(self, output: I8) -> F32:
        """Turn int8 outputs into probabilities [same shape, dtype=float32]."""
        return np.asarray(self._probability_of[output.astype(np.int16) + 128, np.arange(output.shape[-1])], np.float32)

    def verify(self) -> list[str]:
        """Run the reference input; returns what differs, nothing if all is well."""
        return self._differences(self.run)

    def _differences(self, run: Callable[[I8], I8]) -> list[str]:
        metadata = self.metadata
        reference = metadata.reference
        spectrogram = metadata.spectrogram
        frames = reference_input(reference.input_frames, spectrogram.n_freq, len(metadata.components))
        found = run(frames).reshape(-1).astype(int)
        expected = np.array(reference.output)
        if len(found) != len(expected):
            return [f"reference answer has {len(expected)} values, this model gave {len(found)}"]
        off = np.abs(found - expected)
        if off.max(initial=0) > REFERENCE_TOLERANCE:
            at = int(np.argmax(off))
            return [
                f"reference answer {at} is {expected[at]}, this machine gave {found[at]};"
                f" accepted: within {REFERENCE_TOLERANCE}"
            ]
        return []

    def operators(self) -> dict[str, int]:
        """How often each operator occurs."""
        return dict(Counter(operator.name for operator in self.edge_tpu_operators()))

    def edge_tpu_operators(self) -> "list[Operator]":
        """Judge whether the Edge TPU compiler would map each operator, in the order in which they run."""
        # Only who asks about the model needs it.
        from monitor.operators import edge_tpu_operators  # noqa: PLC0415

        return edge_tpu_operators(self._content)

    def accelerator_problems(self) -> list[str]:
        """Operators that the Edge TPU compiler would leave to the CPU."""
        return sorted({operator.name for operator in self.edge_tpu_operators() if operator.obstacle is not None})

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
            with quiet_stderr():
                interpreter = interpreter_class()(model_content=self._content, num_threads=1)
            details = interpreter.get_input_details()[0]
            tail = [int(n) for n in details["shape"][2:]]
            shape = [1, n_frames, *tail]
            if list(details["shape"]) != shape:
                interpreter.resize_tensor_input(details["index"], shape)
            with quiet_stderr():
                interpreter.allocate_tensors()
        except RuntimeMissingError as error:
            raise ModelError(str(error)) from error
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{self.path}: the interpreter refuses it: {error}") from error
        if len(self._interpreters) >= _MAX_INTERPRETERS:
            self._interpreters.pop(next(iter(self._interpreters)))
        self._interpreters[n_frames] = interpreter
        return interpreter
