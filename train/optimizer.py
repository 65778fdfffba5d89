"""What takes the steps: Muon for the kernels of convolutions, AdamW for everything else."""

from typing import Any

import keras
from keras import ops

from train.settings import FitSettings

# Root mean square of a step in a kernel, in learning rates. Liu and others have 0.2 where the rate is AdamW's.
_STEP_RMS = 0.8
_LONGEST_GRADIENT = 1.0
_KERNEL_RANK = 4
# Depthwise kernels have one filter for each input, the last layer has three.
_FEWEST_FILTERS = 4


class ConvolutionMuon(keras.optimizers.Muon):
    """Muon for kernels of convolutions: a step changes all their directions alike.

    Jordan and others (2024), "Muon: an optimizer for hidden layers in neural networks", with the length of steps of Liu
    and others (2025), "Muon is scalable for LLM training". Keras has it for matrices alone; here a kernel [shape=(time,
    frequency, inputs, filters)] is one [shape=(time * frequency * inputs, filters)].
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) != _KERNEL_RANK or variable.shape[-1] < _FEWEST_FILTERS

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign_add(m, ops.add(gradient, m * (self.momentum - 1)))
        ahead = ops.reshape(ops.add(gradient, self.momentum * m), (-1, variable.shape[-1]))
        step = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(ahead, self.ns_steps))
        self.assign_sub(variable, ops.reshape(step, variable.shape))


def make_optimizer(settings: FitSettings, network: str) -> Any:
    """Make the optimizer of a network: `stream` has the one above, `reference` that of the literature.

    Returns:
        keras.optimizers.Optimizer.
    """
    if network == "reference":
        return keras.optimizers.SGD(settings.learning_rate, momentum=0.9)
    optimizer = ConvolutionMuon(
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_weight_decay=settings.weight_decay,
        rms_rate=_STEP_RMS,
        clipnorm=_LONGEST_GRADIENT,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
