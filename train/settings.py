"""Everything that decides what model comes out, read from one TOML and stored in the model and its report."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from monitor.spectrogram import SpectrogramParams

TIME_STRIDE = 2
"""Frames from output to output of the `stream` network."""

FOLD = 4
"""Neighbouring frequencies that the `stream` network takes as one, which has as many times the components: three
input channels cost a convolution as much as eight would, and that was two thirds of the network's time."""


class DataSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which traces training draws from.

    Attributes:
        exclude: Shell patterns of data sets to leave out, as for leave-one-source-out runs.
        balance: A data set of n traces is drawn with weight n ** balance: 1 each trace alike, 0 each data set alike.
    """

    exclude: list[str] = []
    balance: float = 0.6


class AugmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How examples are made; each `*_share` is the probability that it is done to an example.

    Attributes:
        seconds: Length of an example.
        event_share: Examples with an earthquake; the others are noise.
        mix_share: Of the earthquakes, those laid over another recording's noise.
        noise_mix_share: Of the noise, that with another recording's noise laid over it.
        mix_snr_db: Range of the ratio of the P wave's power to that noise, decibel.
        synthetic_share: Of the earthquakes, those made by `train.synthetic` and laid over a recording's noise.
        synthetic_snr_db: Range of the ratio of their P's power to that noise, decibel.
        second_share: Of the earthquakes, those followed by another one in the same example.
        tempo_share: Played faster or slower by up to a quarter: other corner frequencies and S-P times.
        filter_share: Another instrument's response: a high-pass and a low-pass corner.
        low_rate_share: As recorded at 20 to 90 Hz.
        floor_share: White noise of a coarse or noisy sensor.
        mems_share: As by a MEMS accelerometer instead: acceleration, a high floor, 31.25 to 100 Hz.
        hide_buried: Earthquakes that the noise has buried are not asked for.
        vertical_only_share, drop_share: Both horizontals absent; any one or two components absent.
        disturb_share: Noise examples that get synthetic disturbances; a third of it for earthquakes.
        gap_share: Stretches without data.
    """

    seconds: int = 50
    event_share: float = 0.6
    mix_share: float = 0.55
    noise_mix_share: float = 0.0
    mix_snr_db: tuple[float, float] = (-4.0, 25.0)
    synthetic_share: float = 0.15
    synthetic_snr_db: tuple[float, float] = (0.0, 40.0)
    second_share: float = 0.1
    tempo_share: float = 0.25
    filter_share: float = 0.35
    low_rate_share: float = 0.3
    floor_share: float = 0.2
    mems_share: float = 0.08
    hide_buried: bool = True
    vertical_only_share: float = 0.25
    drop_share: float = 0.1
    disturb_share: float = 0.55
    gap_share: float = 0.1


class NetworkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shape of the network.

    Attributes:
        name: `stream` (the product's) or `reference` (the plain CNN of the literature on 64 by 64 images, of which
            nothing else here is asked).
        filters: Filters of the three convolutions over time and frequency.
        channels: Channels of the convolutions along time.
        dilations: Their dilations, in output steps.
        look_ahead_s: How much later than the moment it speaks of an output may look.
        branches: So many networks of this shape side by side in one, each trained by itself from a seed of its own;
            together they say the mean of their log-odds, since their false alarms differ.
        later_s: Of several branches the last one looks so much further ahead. What all of them say together of an
            earthquake then comes as much later; before, the others speak alone: the greater of both counts. 0 for none.
        quick_margin: By how much, in log-odds, the others must be surer alone.
    """

    name: Literal["stream", "reference"] = "stream"
    filters: tuple[int, int, int] = (32, 32, 48)
    channels: int = 64
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    look_ahead_s: float = 0.6
    branches: Annotated[int, msgspec.Meta(ge=1)] = 2
    later_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    quick_margin: float = 0.5


class FitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The training loop.

    Attributes:
        steps: Optimiser steps of a training from nothing.
        mining_rounds: How often after that training goes on with what the model itself then found in training noise:
            see `train.mining`.
        tuning_rounds: How many such rounds there are where training goes on from a model.
        mining_steps: Steps of each such round; 0 for none.
        mean_of_last: The model is the mean of the last so many of these: after the first training, after each round.
        tuned_share: Where training goes on from a model: how much of that mean is in the result, the rest being the
            model that it began with.
        mining_rate_share: Learning rate of these rounds, as a share of the first one.
        batch: Examples in a step.
        learning_rate: Highest; warmed up over the first 3 % of the steps, then a cosine down to 1 % of it.
        weight_decay: Of kernels, for each unit of learning rate: see `train.optimizer`.
        loss_weights: Of earthquake, P and S.
        workers: Processes that make examples.
    """

    steps: int = 12_000
    mining_rounds: int = 0
    tuning_rounds: int = 2
    mining_steps: int = 2200
    mean_of_last: Annotated[int, msgspec.Meta(ge=1)] = 3
    tuned_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    mining_rate_share: float = 0.1
    batch: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    loss_weights: tuple[float, float, float] = (1.0, 0.5, 0.3)
    workers: int = 1


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run.

    Attributes:
        name, version: Of the model.
        seed: Where chance comes from.
        start_from: SHA-256 of the model file that training goes on from, with `fit.tuning_rounds`; "" for training from
            nothing.
        data, spectrogram, augment, network, fit: See there.
    """

    name: str = "seismic"
    version: str = "6"
    seed: int = 20261122
    start_from: str = ""
    data: DataSettings = DataSettings()
    spectrogram: SpectrogramParams = SpectrogramParams()
    augment: AugmentSettings = AugmentSettings()
    network: NetworkSettings = NetworkSettings()
    fit: FitSettings = FitSettings()

    def __post_init__(self) -> None:
        """Refuse a spectrogram that the network does not take, and a later_s that it cannot have."""
        if self.network.name == "stream" and self.spectrogram.n_freq % FOLD:
            raise ValueError(
                f"spectrogram has {self.spectrogram.n_freq} bins, first_bin to last_bin; accepted: a multiple of {FOLD}"
            )
        later_s, step_s = self.network.later_s, TIME_STRIDE * self.spectrogram.frame_interval_s
        if later_s and (self.network.branches < 2 or abs(later_s / step_s - round(later_s / step_s)) > 1e-6):
            raise ValueError(
                f"network.later_s is {later_s:g} with {self.network.branches} branches; accepted: 0, or a multiple of "
                f"{step_s:g}, from output to output, with two branches or more"
            )


def with_options(settings: Settings, *, seed: int | None, steps: int | None, exclude: Sequence[str]) -> Settings:
    """The settings with what the command line says; the steps of mining follow `steps` in proportion."""
    replace = msgspec.structs.replace
    if seed is not None:
        settings = replace(settings, seed=seed)
    if steps is not None:
        mining = round(settings.fit.mining_steps * steps / settings.fit.steps)
        settings = replace(settings, fit=replace(settings.fit, steps=steps, mining_steps=mining))
    if exclude:
        settings = replace(settings, data=replace(settings.data, exclude=[*settings.data.exclude, *exclude]))
    return settings


def with_branches(settings: Settings, branches: int) -> Settings:
    """The settings of a network of the first so many branches."""
    network = settings.network
    later_s = network.later_s if branches >= network.branches else 0.0
    network = msgspec.structs.replace(network, branches=branches, later_s=later_s)
    return msgspec.structs.replace(settings, network=network)


def of_branch(settings: Settings, number: int) -> Settings:
    """The settings of one branch as a network of its own; the first is 0."""
    ahead_s = settings.network.look_ahead_s + settings.network.later_s * (number + 1 == settings.network.branches)
    network = msgspec.structs.replace(settings.network, branches=1, later_s=0.0, look_ahead_s=ahead_s)
    return msgspec.structs.replace(settings, network=network)


def differing(settings: Settings, usual: Settings) -> dict[str, Any]:
    """What a run has otherwise than `usual`, `part.key` -> value; but for its version and what it started from."""
    theirs: dict[str, Any] = msgspec.to_builtins(usual)
    found: dict[str, Any] = {}
    for key, value in msgspec.to_builtins(settings).items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": one for name, one in value.items() if one != theirs[key][name]}
        elif value != theirs[key] and key not in ("version", "start_from"):
            found[key] = value
    return found


def read_settings(path: Path | None) -> Settings:
    """Read the settings; the defaults without a path.

    Raises:
        ValueError: The file cannot be read, is not TOML, or a key or value is not accepted; the message names it.
    """
    if path is None:
        return Settings()
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Settings)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}") from error
