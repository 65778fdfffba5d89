"""Steps of the optimizer: which variables Muon takes and what it does to them."""

from typing import Any

import keras
import numpy as np
import pytest

from tests.train_store import TINY
from train.network import HEAD, build
from train.optimizer import make_optimizer
from train.settings import FitSettings, read_settings

FIT = FitSettings(learning_rate=1e-2, weight_decay=0.0)


def changes(optimizer: Any, variables: list[Any]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    before = [variable.numpy() for variable in variables]
    # Some directions are thirty times as strong as others, as in any network's gradients.
    gradients = [rng.standard_normal(b.shape) * 10 ** rng.uniform(-1.5, 0, b.shape[-1:]) for b in before]
    optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients], variables)
    return [variable.numpy() - b for variable, b in zip(variables, before, strict=True)]


def test_a_step_changes_all_directions_of_a_kernel_alike() -> None:
    kernel = keras.Variable(np.zeros((3, 5, 3, 16), np.float32), name="kernel")
    (step,) = changes(make_optimizer(FIT, "stream"), [kernel])
    strengths = np.linalg.svd(step.reshape(45, 16), compute_uv=False)
    # Five iterations bring all to about one: between 0.7 and 1.2 (Jordan and others, 2024).
    assert strengths.min() > 0.5 * strengths.max()


def test_the_step_s_length_does_not_depend_on_the_kernel_s_shape() -> None:
    shapes = ((3, 5, 3, 16), (1, 1, 64, 64), (1, 4, 48, 64))
    kernels = [keras.Variable(np.zeros(shape, np.float32), name="kernel") for shape in shapes]
    lengths = [float(np.sqrt((step**2).mean())) for step in changes(make_optimizer(FIT, "stream"), kernels)]
    assert lengths == pytest.approx([lengths[0]] * 3, rel=0.5)
    # It is the learning rate's.
    assert lengths[1] == pytest.approx(0.8 * FIT.learning_rate, rel=0.3)


def test_depthwise_kernels_the_last_layer_and_normalisations_are_adam_s() -> None:
    model = build(TINY)
    others = [v for v in model.trainable_variables if len(v.shape) < 4 or v.shape[-1] == 1 or HEAD in v.path]
    assert len(others) > len(model.trainable_variables) / 2
    start = [v.numpy() for v in others]
    stepped = changes(make_optimizer(FIT, "stream"), others)
    for variable, value in zip(others, start, strict=True):
        variable.assign(value)
    adam = changes(keras.optimizers.AdamW(FIT.learning_rate, weight_decay=0.0, clipnorm=1.0), others)
    for ours, theirs in zip(stepped, adam, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_weights_decay_and_normalisations_do_not() -> None:
    decaying = FitSettings(learning_rate=1e-2, weight_decay=0.5)
    for name, shape, share in (("kernel", (1, 1, 8, 8), 0.995), ("gamma", (8,), 1.0)):
        variable = keras.Variable(np.ones(shape, np.float32), name=name)
        make_optimizer(decaying, "stream").apply([keras.ops.zeros(shape)], [variable])
        np.testing.assert_allclose(variable.numpy(), share, rtol=1e-6)


def test_the_reference_network_has_the_literature_s() -> None:
    settings = read_settings(None)
    assert isinstance(make_optimizer(settings.fit, "reference"), keras.optimizers.SGD)
