"""What the Edge TPU compiler would make of a model's operators: by its documentation, without the compiler.

The rules are those of Google's table of supported operations and their known limitations
(https://coral.ai/docs/edgetpu/models-intro/#supported-operations) and of the requirements above it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.interpreter import interpreter_class, quiet_stderr, without_delegates


class Operator(NamedTuple):
    """One operator of a model.

    Attributes:
        name: As TensorFlow Lite calls it.
        obstacle: Why the compiler would leave it to the CPU; None where it would map it.
    """

    name: str
    obstacle: str | None


class Facts(NamedTuple):
    """What the rules look at.

    Attributes:
        options: The operator's options, by name; those that the file leaves out are not there.
        inputs, outputs: Shapes.
        constants: Values of the inputs that are constants, by position.
    """

    options: Mapping[str, int]
    inputs: Sequence[tuple[int, ...]]
    outputs: Sequence[tuple[int, ...]]
    constants: Mapping[int, npt.NDArray[Any]]


Rule = Callable[[Facts], str | None]

# Where the options that matter stand in their flatbuffer tables (TensorFlow Lite's schema.fbs), and how wide they are.
_OPTIONS: dict[str, dict[str, tuple[int, str]]] = {
    "CONV_2D": {"dilation_x": (4, "<i4"), "dilation_y": (5, "<i4")},
    "DEPTHWISE_CONV_2D": {"dilation_x": (5, "<i4"), "dilation_y": (6, "<i4")},
    "AVERAGE_POOL_2D": {"activation": (5, "i1")},
    "MAX_POOL_2D": {"activation": (5, "i1")},
    "CONCATENATION": {"activation": (1, "i1")},
    "STRIDED_SLICE": {"ellipsis": (2, "<i4"), "new_axis": (3, "<i4")},
    "PACK": {"axis": (1, "<i4")},
}
# Operator versions that compiler 16.0, the last one, is known to refuse, with the whole model (google-coral/edgetpu,
# issues 631, 845 and 879).
_TOO_NEW = {"CONV_2D": 6, "TRANSPOSE_CONV": 4, "QUANTIZE": 3}


def edge_tpu_operators(content: bytes) -> list[Operator]:
    """Judge each operator of a model, in the order in which they run.

    Args:
        content: A model file, not compiled for the Edge TPU.

    Raises:
        ValueError: It is no model that the interpreter takes.
        RuntimeError: The same.
        RuntimeMissingError: No interpreter is installed.
    """
    with quiet_stderr():
        plain = interpreter_class()(model_content=content, experimental_op_resolver_type=without_delegates())
        plain.allocate_tensors()
    tensors = {int(t["index"]): t for t in plain.get_tensor_details()}
    details = [op for op in plain._get_ops_details() if op["op_name"] != "DELEGATE"]
    changing = {int(t["index"]) for t in plain.get_input_details()} | {int(i) for op in details for i in op["outputs"]}
    found = []
    for op, (options_at, version) in zip(details, _tables(content), strict=True):
        name = str(op["op_name"])
        inputs, outputs = ([int(i) for i in op[key] if i >= 0] for key in ("inputs", "outputs"))
        facts = Facts(
            options=_read_options(content, name, options_at),
            inputs=[_shape(tensors[i]) for i in inputs],
            outputs=[_shape(tensors[i]) for i in outputs],
            constants={at: plain.get_tensor(i) for at, i in enumerate(inputs) if i not in changing},
        )
        obstacle = _of_tensors([tensors[i] for i in (*inputs, *outputs)], changing)
        if obstacle is None and version >= _TOO_NEW.get(name, version + 1):
            obstacle = f"version {version} of it is newer than the compiler"
        if obstacle is None:
            obstacle = _RULES[name](facts) if name in _RULES else "not on the compiler's list"
        found.append(Operator(name, obstacle))
    return found


def _of_tensors(tensors: Sequence[Any], changing: set[int]) -> str | None:
    """What every tensor must be, whatever is done with it."""
    for tensor in tensors:
        if tensor["index"] in changing:
            if tensor["dtype"] not in {np.int8, np.uint8}:
                return f"its data are {np.dtype(tensor['dtype'])}, not 8 bits"
            if any(n < 0 for n in tensor["shape_signature"]):
                return "its size is not fixed"
            if any(n > 1 for n in tensor["shape"][:-3]):
                return "more than the three innermost dimensions are larger than 1"
    return None


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in tensor["shape"])


# -- the table ---------------------------------------------------------------------------------------------------------


def _always(_: Facts) -> str | None:
    return None


def _same_dilation(facts: Facts) -> str | None:
    x, y = facts.options.get("dilation_x", 1), facts.options.get("dilation_y", 1)
    height, width = facts.inputs[1][1:3]
    # A kernel of one in a direction has nothing to dilate there: `make edgetpu` writes the other's dilation.
    if x == y or (width == 1 and x == 1) or (height == 1 and y == 1):
        return None
    return f"dilated by {y} along y and by {x} along x"


def _no_activation(facts: Facts) -> str | None:
    return "with a fused activation" if facts.options.get("activation", 0) else None


def _concatenation(facts: Facts) -> str | None:
    if facts.constants and (len(facts.inputs) != 2 or any(np.any(value) for value in facts.constants.values())):
        return "with a constant that is no padding by zeros"
    return _no_activation(facts)


def _pad(facts: Facts) -> str | None:
    batch = facts.constants.get(1)
    return "pads the batch" if batch is None or (len(batch) == 4 and np.any(batch[0])) else None


def _not_the_batch(facts: Facts) -> str | None:
    axes, rank = facts.constants.get(1), len(facts.inputs[0])
    if axes is None or 0 in {int(axis) % rank for axis in np.atleast_1d(axes)}:
        return "reduces the batch"
    return None


def _mean(facts: Facts) -> str | None:
    axes, shape = facts.constants.get(1), facts.inputs[0]
    if (
        axes is not None
        and len(shape) - 1 in {int(axis) % len(shape) for axis in np.atleast_1d(axes)}
        and shape[-1] % 4
    ):
        return "reduces channels whose number is no multiple of 4"
    return _not_the_batch(facts)


def _strided_slice(facts: Facts) -> str | None:
    strides = facts.constants.get(3)
    if strides is None or np.any(strides != 1):
        return "with strides other than 1"
    if facts.options.get("ellipsis", 0) or facts.options.get("new_axis", 0):
        return "with an ellipsis or a new axis"
    return None


def _squeeze(facts: Facts) -> str | None:
    lengths = [n for n in facts.inputs[0] if n > 1]
    return None if facts.inputs[0][-len(lengths) :] == tuple(lengths) or not lengths else "squeezes inner dimensions"


def _softmax(facts: Facts) -> str | None:
    shape = facts.inputs[0]
    if any(n > 1 for n in shape[:-1]) or shape[-1] > 16_000:
        return "of more than one dimension, or more than 16000 elements"
    return None


def _pack(facts: Facts) -> str | None:
    return "packs the batch" if facts.options.get("axis", 0) == 0 else None


def _prelu(facts: Facts) -> str | None:
    return "with slopes of more than one dimension" if any(n > 1 for n in facts.inputs[1][:-1]) else None


_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        "ADD EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC MAXIMUM MINIMUM MUL QUANTIZE RELU RELU6 RELU_N1_TO_1"
        " RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SUB TANH "
        "TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM".split(),
        _always,
    ),
    "AVERAGE_POOL_2D": _no_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _same_dilation,
    "DEPTHWISE_CONV_2D": _same_dilation,
    "MAX_POOL_2D": _no_activation,
    "MEAN": _mean,
    "PACK": _pack,
    "PAD": _pad,
    "PRELU": _prelu,
    "REDUCE_MAX": _not_the_batch,
    "REDUCE_MIN": _not_the_batch,
    "SOFTMAX": _softmax,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _not_the_batch,
}


# -- the file ----------------------------------------------------------------------------------------------------------
# The interpreter tells no options. Tables, vectors and offsets: https://flatbuffers.dev/internals/


def _tables(content: bytes) -> list[tuple[int | None, int]]:
    """For each operator of the first subgraph where its options are, and its version."""
    model = _number(content, 0, "<u4")
    codes = [_option(content, at, 2, "<i4") or 1 for at in _vector(content, model, 1)]
    (graph, *_) = _vector(content, model, 2)
    return [(_follow(content, at, 4), codes[_option(content, at, 0, "<u4") or 0]) for at in _vector(content, graph, 3)]


def _read_options(content: bytes, name: str, at: int | None) -> dict[str, int]:
    if at is None:
        return {}
    read = {key: _option(content, at, slot, kind) for key, (slot, kind) in _OPTIONS.get(name, {}).items()}
    return {key: value for key, value in read.items() if value is not None}


def _number(content: bytes, at: int, kind: str) -> int:
    return int(np.frombuffer(content, kind, 1, at)[0])


def _field(content: bytes, table: int, slot: int) -> int | None:
    """Where a table's field is; None where it is left out."""
    index = table - _number(content, table, "<i4")
    entry = 4 + 2 * slot
    offset = _number(content, index + entry, "<u2") if entry < _number(content, index, "<u2") else 0
    return table + offset if offset else None


def _option(content: bytes, table: int, slot: int, kind: str) -> int | None:
    at = _field(content, table, slot)
    return None if at is None else _number(content, at, kind)


def _follow(content: bytes, table: int, slot: int) -> int | None:
    at = _field(content, table, slot)
    return None if at is None else at + _number(content, at, "<u4")


def _vector(content: bytes, table: int, slot: int) -> list[int]:
    """Where the tables of a vector are."""
    at = _follow(content, table, slot)
    if at is None:
        return []
    places = [at + 4 + 4 * n for n in range(_number(content, at, "<u4"))]
    return [place + _number(content, place, "<u4") for place in places]
