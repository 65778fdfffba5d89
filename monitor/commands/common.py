"""What several commands share: exit codes, the options that they have in common, and how they fail."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from monitor.config import ConfigError, read_settings
from monitor.model import Device, Model, ModelError
from monitor.settings import Settings

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MODEL = 3
EXIT_TEMPORARY = 75
EXIT_INTERRUPTED = 130

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="TOML", help="Settings file; without one the defaults apply.")
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="TFLITE", help="Another model than the shipped one.")
]
DeviceOption = Annotated[
    Device | None, typer.Option("--device", help="What runs the model: the processor, or a Coral Edge TPU.")
]


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on standard error and end with an exit code."""
    print(f"monitor: {message}", file=sys.stderr)
    raise typer.Exit(code)


def settings_of(config: Path | None, model_path: Path | None, device: Device | None = None) -> Settings:
    """The settings, with the model and device that the command line names; ends the command where they are bad."""
    try:
        settings = read_settings(config)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    if model_path is not None:
        settings = msgspec.structs.replace(
            settings, model=msgspec.structs.replace(settings.model, path=str(model_path))
        )
    if device is not None:
        settings = msgspec.structs.replace(settings, model=msgspec.structs.replace(settings.model, device=device))
    return settings


def model_of(settings: Settings) -> Model:
    """The model that the settings name; ends the command where it is refused."""
    try:
        path = Path(settings.model.path) if settings.model.path is not None else None
        return Model(path, device=settings.model.device)
    except ModelError as error:
        fail(str(error), EXIT_MODEL)
