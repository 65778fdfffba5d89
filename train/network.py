"""The networks, as Keras models of float spectrograms.

Both take decibel above background [shape=(batch, frames, n_freq, 3)] and give logits (earthquake, P, S).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from train.geometry import KERNEL, REFERENCE_FRAMES, later_outputs
from train.settings import FOLD, TIME_STRIDE, Settings

# Decibel are divided by this inside, so that the first convolution sees values of about one.
_SCALE_DB = 10.0
# What a block adds lies from 0 to 6, of which this is taken away again: without bounds its rare extremes would set the
# step of int8, and half of what quantisation costs came from there.
_MIDDLE = 3.0
HEAD, HEAD_LATER = "head", "head_later"
"""Names of the last layers: of what is said at once, and of what all branches together say later."""


def build(settings: Settings, frames: int | None = None, *, batch: int | None = None, for_file: bool = False) -> Any:
    """Build the network that the settings name.

    Args:
        settings: The run.
        frames: Input frames; None for any number (`stream` only).
        batch: Batch size; None for any.
        for_file: The `stream` network as a model file has it: its input is folded (see `train.settings.FOLD`) and its
            outputs end at 0 and 6 instead of being log-odds (see `train.quantize`).

    Returns:
        keras.Model; [batch, frames, n_freq, 3] -> [batch, n_outputs, n_labels], one label for `reference`.
    """
    if settings.network.name == "reference":
        return _reference(settings, batch)
    return _stream(settings, frames, batch, for_file)


def _reference(settings: Settings, batch: int | None) -> Any:
    """The plain CNN of the literature: one convolution, one pooling, two dense layers on a 64 by 64 image."""
    n_freq = settings.spectrogram.n_freq
    image = layers.Input((REFERENCE_FRAMES, n_freq, 3), batch_size=batch)
    x = layers.Rescaling(1 / _SCALE_DB)(image)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    # The sigmoid is applied outside: int8 logits keep their resolution near 0 and 1.
    x = layers.Dense(1)(x)
    return keras.Model(image, layers.Reshape((1, 1))(x))


def _stream(settings: Settings, frames: int | None, batch: int | None, for_file: bool) -> Any:
    """Branches side by side under one head, which says what the mean of each one's own would.

    Where the last one looks further ahead (`later_s`), there are two: the others' at once, and all of them together
    later, which speaks of the earthquake alone.
    """
    n_freq = settings.spectrogram.n_freq
    folded = (n_freq // FOLD, FOLD * 3)
    image = layers.Input((frames, *(folded if for_file else (n_freq, 3))), batch_size=batch)
    x = image if for_file else layers.Reshape((-1, *folded))(image)
    x = layers.Rescaling(1 / _SCALE_DB)(x)
    branches = [_branch(x, settings, f"branch{number + 1}") for number in range(settings.network.branches)]
    later = later_outputs(settings)
    activation = "relu6" if for_file else None
    if not later:
        return keras.Model(image, layers.Conv2D(3, 1, activation=activation, name=HEAD)(_together(branches)))
    quick = _together(branches[:-1])
    now, before = (layers.Cropping2D((ends, (0, 0)))(quick) for ends in ((later, 0), (0, later)))
    far = layers.Cropping2D(((later, 0), (0, 0)))(branches[-1])
    at_once = layers.Conv2D(3, 1, activation=activation, name=HEAD)(now)
    afterwards = layers.Conv2D(3, 1, activation=activation, name=HEAD_LATER)(_together([before, far]))
    return keras.Model(image, layers.Maximum()([at_once, afterwards]))


def _together(branches: Sequence[Any]) -> Any:
    return branches[0] if len(branches) == 1 else layers.Concatenate()(branches)


def _branch(x: Any, settings: Settings, name: str) -> Any:
    """Convolutions over time and frequency, then dilated ones along time; valid along time throughout.

    The dilated, causal part follows WaveNet and temporal convolutional networks (Bai, Kolter and Koltun, 2018);
    depthwise-separable as in MobileNet (Howard et al., 2017).
    """
    network = settings.network
    numbers = itertools.count()

    def named() -> str:
        # In the order in which they run: see `in_order`.
        return f"{name}_{next(numbers):02d}"

    def normalise(x: Any, beta: float = 0.0) -> Any:
        offset = keras.initializers.Constant(beta)
        return layers.BatchNormalization(momentum=0.97, beta_initializer=offset, name=named())(x)

    def convolve(x: Any, filters: int, kernel: tuple[int, int], strides: tuple[int, int]) -> Any:
        pad = kernel[1] // 2
        x = layers.ZeroPadding2D(((0, 0), (pad, pad)))(x)
        x = layers.Conv2D(filters, kernel, strides, use_bias=False, name=named())(x)
        return layers.ReLU(6.0)(normalise(x))

    first, second, third = network.filters
    x = convolve(x, first, (KERNEL, 3), (1, 1))
    x = convolve(x, second, (KERNEL, 3), (TIME_STRIDE, 1))
    x = convolve(x, third, (1, 3), (1, 2))
    x = layers.Conv2D(network.channels, (1, x.shape[2]), use_bias=False, name=named())(x)
    x = layers.ReLU(6.0)(normalise(x))
    for dilation in network.dilations:
        y = layers.DepthwiseConv2D((KERNEL, 1), dilation_rate=(dilation, 1), use_bias=False, name=named())(x)
        y = layers.ReLU(6.0)(normalise(y))
        y = layers.Conv2D(network.channels, 1, use_bias=False, name=named())(y)
        y = layers.ReLU(6.0)(normalise(y, _MIDDLE))
        kept = layers.Cropping2D((((KERNEL - 1) * dilation, 0), (0, 0)))(x)
        x = layers.ReLU(6.0)(layers.Add()([kept, y - _MIDDLE]))
    return x


def in_order(network: Any) -> list[Any]:
    """The layers of a `stream` network that have weights, branch by branch as they run, the head last."""
    return sorted((layer for layer in network.layers if layer.weights), key=lambda layer: str(layer.name))


def join(networks: Sequence[Any], settings: Settings) -> Any:
    """One network of the branches of several: its log-odds are the mean of what each branch would say alone.

    Where the last one looks further ahead: the mean of the others, less a margin for the earthquake, or if it is
    greater the mean of all of a little before.

    Args:
        networks: Of the same settings but for `branches`.
        settings: The run; `branches` says how many there are of all of them.
    """
    from train.quantize import HEAD_LOG_ODDS  # noqa: PLC0415  # which builds networks itself

    joined = build(settings)
    later = later_outputs(settings)
    every = in_order(joined)
    layers_of, head = every[: -2 if later else -1], joined.get_layer(HEAD)
    parts = [in_order(network) for network in networks]
    for layer, of in zip(layers_of, [layer for part in parts for layer in part[:-1]], strict=True):
        layer.set_weights(of.get_weights())
    heads = [part[-1].get_weights() for part in parts]
    if not later:
        head.set_weights(_mean_head(heads))
        return joined
    kernel, bias = _mean_head(heads[:-1])
    head.set_weights([kernel, bias - np.array([settings.network.quick_margin, 0, 0], np.float32)])
    kernel, bias = _mean_head(heads)
    # Of P and S it says nothing: the least that a file can.
    kernel[..., 1:], bias[1:] = 0.0, HEAD_LOG_ODDS.offset
    joined.get_layer(HEAD_LATER).set_weights([kernel, bias])
    return joined


def _mean_head(heads: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Kernel and bias of a head that says the mean of what these would; each counts as much as it has channels."""
    shares = np.array([kernel.shape[2] for kernel, _ in heads]) / sum(kernel.shape[2] for kernel, _ in heads)
    kernel = np.concatenate([kernel * share for (kernel, _), share in zip(heads, shares, strict=True)], axis=2)
    return kernel, np.sum([bias * share for (_, bias), share in zip(heads, shares, strict=True)], axis=0)
