"""A float network out of an int8 model file, so that training can go on from it: fine-tuning, or the next version."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.interpreter import interpreter_class, quiet_stderr, without_delegates
from monitor.model import Model, ModelError
from train.settings import FOLD, NetworkSettings, Settings, with_branches

F32 = npt.NDArray[np.float32]

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_STARTS = Path(__file__).parent / "start"


class _Convolution(NamedTuple):
    """Weights of a convolution of the file: `kernel` as Keras has it, `bias`."""

    kernel: F32
    bias: F32


def check_restorable(path: Path, settings: Settings) -> str:
    """Refuse a model that the network of the settings cannot go on from.

    Returns:
        SHA-256 of the file.

    Raises:
        ValueError: It is no model of this project, or of another network or spectrogram; the message says which.
    """
    try:
        model = Model(path)
    except (ModelError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    of_file = model.metadata.settings
    if settings.network.name != "stream":
        raise ValueError(f"network.name is {settings.network.name!r}; training goes on from a model of: stream")
    network, wanted = _network_of(model), settings.network
    if network.branches > wanted.branches or network != with_branches(settings, network.branches).network:
        raise ValueError(f"{path}: its network is {network}; the settings have {wanted}")
    spectrogram = msgspec.to_builtins(settings.spectrogram)
    if of_file.get("spectrogram") != spectrogram:
        raise ValueError(f"{path}: its spectrogram is {of_file.get('spectrogram')}; the settings have {spectrogram}")
    return model.ref.sha256


def shipped_start(sha256: str) -> str | None:
    """Which of the models that come with this project to start from it is: its path from the project's folder."""
    for path in sorted(_STARTS.glob("*.tflite")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path.relative_to(_STARTS.parent.parent).as_posix()
    return None


def branches_of(path: Path) -> int:
    """How many networks side by side a model of this project is."""
    return _network_of(Model(path)).branches


def _network_of(model: Model) -> NetworkSettings:
    """The network of a file as this code builds it.

    Raises:
        ValueError: Its settings are not known; the message names the file.
    """
    of_file: dict[str, Any] = dict(model.metadata.settings.get("network", {}))
    if "branches" not in of_file:
        # Version 4 and before: of one branch, and each filter of the first convolution was at every second frequency,
        # where now two of them are at every fourth.
        first, *rest = of_file.get("filters", (16, 32, 48))
        of_file |= {"branches": 1, "filters": (2 * first, *rest)}
    try:
        return msgspec.convert(of_file, NetworkSettings)
    except msgspec.ValidationError as error:
        raise ValueError(f"{model.path}: its settings: network: {error}") from error


def restore(path: Path, settings: Settings, frames: F32) -> Any:
    """Build the float network that an int8 file came from, but for what rounding took.

    The file's convolutions have their normalisation folded in. It is taken out again: the normalisation gets the mean
    and the variance that the convolution has on `frames`, and the scale and offset that undo them, so that training
    goes on where the model was.

    Args:
        path: The model, see `check_restorable`.
        settings: The run, with as many branches as the model has.
        frames: [shape=(batch, frames, n_freq, 3), dtype=float32] decibel above background, as in training.

    Returns:
        keras.Model, as `train.network.build` gives it.
    """
    import keras  # noqa: PLC0415  # heavy: only where it is used

    from train.network import HEAD, HEAD_LATER, build, in_order  # noqa: PLC0415
    from train.quantize import HEAD_LOG_ODDS  # noqa: PLC0415

    network = build(settings)
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    convolutions = [layer for layer in in_order(network) if isinstance(layer, kinds)]
    heads = [layer for layer in convolutions if layer.name in (HEAD, HEAD_LATER)]
    convolutions = convolutions[: -len(heads)]
    normalisations = [layer for layer in in_order(network) if isinstance(layer, keras.layers.BatchNormalization)]
    inner = _convolutions(path)
    of_heads = [inner.pop()]
    if len(heads) > 1:
        # What is said at once comes ahead of the last branch, which has no part in it.
        of_heads.insert(0, inner.pop(len(convolutions) // settings.network.branches * (settings.network.branches - 1)))
    for layer, normalisation, of_file in zip(convolutions, normalisations, inner, strict=True):
        layer.set_weights([of_file.kernel])
        said = keras.Model(network.input, layer.output).predict(frames, verbose=0)
        mean, variance = said.mean(axis=(0, 1, 2)), said.var(axis=(0, 1, 2))
        scale = np.sqrt(variance + normalisation.epsilon)
        normalisation.set_weights([scale, of_file.bias + mean, mean, variance])
    # In the file they are as `train.quantize` writes them; what calibration put on top of that is not the network's.
    for head, of in zip(heads, of_heads, strict=True):
        head.set_weights([of.kernel * HEAD_LOG_ODDS.scale, of.bias * HEAD_LOG_ODDS.scale + HEAD_LOG_ODDS.offset])
    return network


def _convolutions(path: Path) -> list[_Convolution]:
    """The convolutions of a file as they follow each other: branch by branch as they are joined, the head last."""
    with quiet_stderr():
        interpreter = interpreter_class()(
            model_content=path.read_bytes(), experimental_op_resolver_type=without_delegates()
        )
        interpreter.allocate_tensors()
    details = {int(tensor["index"]): tensor for tensor in interpreter.get_tensor_details()}

    def value(index: int) -> F32:
        of = details[index]["quantization_parameters"]
        held = interpreter.get_tensor(index).astype(np.float64)
        shape = [1] * held.ndim
        shape[int(of["quantized_dimension"])] = -1
        zero, scale = np.reshape(of["zero_points"], shape), np.reshape(of["scales"], shape)
        return np.asarray((held - zero) * scale, np.float32)

    operators = interpreter._get_ops_details()
    from_which = {int(output): operator for operator in operators for output in operator["outputs"]}
    found: dict[int, _Convolution] = {}
    seen: set[int] = set()

    def follow(tensor: int) -> None:
        operator = from_which.get(tensor)
        if operator is None or operator["index"] in seen:
            return
        seen.add(operator["index"])
        for index in operator["inputs"]:
            follow(int(index))
        if operator["op_name"] in _CONVOLUTIONS:
            _, kernel, bias = (int(index) for index in operator["inputs"])
            # The axis that comes first there is last in Keras: output channels, or the multiplier of a depthwise one.
            found[operator["index"]] = _Convolution(value(kernel).transpose(1, 2, 3, 0), value(bias))

    for output in interpreter.get_output_details():
        follow(int(output["index"]))
    first, second, *rest = found.values()
    if first.kernel.shape[2] % FOLD:
        first, second = _folded(first), _Convolution(_second_folded(second.kernel), second.bias)
    return [first, second, *rest]


def _folded(convolution: _Convolution) -> _Convolution:
    """The first convolution of version 4 and before, of 5 frequencies at every second one, for folded input."""
    time, taps, components, filters = convolution.kernel.shape
    kernel = np.zeros((time, 3, FOLD, components, 2, filters), np.float32)
    for position, within, which in np.ndindex(3, FOLD, 2):
        tap = FOLD * (position - 1) + within - 2 * which + taps // 2
        if 0 <= tap < taps:
            kernel[:, position, within, :, which] = convolution.kernel[:, tap]
    return _Convolution(kernel.reshape(time, 3, FOLD * components, 2 * filters), np.tile(convolution.bias, 2))


def _second_folded(kernel: F32) -> F32:
    """The second one, of 3 of the first one's outputs at every second one of them."""
    time, taps, inputs, filters = kernel.shape
    folded = np.zeros((time, 3, 2, inputs, filters), np.float32)
    for position, which in np.ndindex(3, 2):
        tap = 2 * (position - 1) + which + taps // 2
        if 0 <= tap < taps:
            folded[:, position, which] = kernel[:, tap]
    return folded.reshape(time, 3, 2 * inputs, filters)
