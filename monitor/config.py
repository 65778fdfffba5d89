"""The settings file: TOML, overridden by the environment, turned into frozen values. The only reader of either."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from monitor.settings import ModelSettings, Settings

ENVIRONMENT_PREFIX = "MONITOR_"


class ConfigError(Exception):
    """The settings are not usable; the message names the file or variable, the key, the value and what is accepted."""


def read_settings(path: Path | None, *, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: A TOML file; only the environment and the defaults where None.
        environment: Variables such as `MONITOR_DETECTOR__THRESHOLD=0.8`; the process's own where None.

    Raises:
        ConfigError: The file cannot be read or is not TOML, or a key or a value is not accepted.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not TOML: {error}") from error
    source = str(path) if path is not None else "settings"
    for name, text in sorted((os.environ if environment is None else environment).items()):
        # A section and a key, so that other variables with this prefix may exist.
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            section, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__", 1)
            part = table.setdefault(section, {})
            if not isinstance(part, dict):
                raise ConfigError(f"{source}: {section} is {part!r}; accepted: a table")
            part[key] = _value(text)
            source = f"{source} with {name}" if name not in source else source
    try:
        settings = msgspec.convert(table, Settings, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explained(str(error), table)}") from error
    if path is not None and settings.model.path is not None:
        model = ModelSettings(path=str(path.parent / settings.model.path))
        settings = msgspec.structs.replace(settings, model=model)
    return settings


def _value(text: str) -> Any:
    """A variable's text as TOML would read it; plain text where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explained(message: str, table: dict[str, Any]) -> str:
    """Say in the file's terms what msgspec found: `[detector] threshold: …`."""
    where, _, at = message.partition(" - at `$")
    path = [part for part in at.rstrip("`").split(".") if part]
    unknown = re.search(r"unknown field `(.+)`", where)
    section: Any = Settings
    for part in path:
        section = next((f.type for f in msgspec.structs.fields(section) if f.name == part), None)
        if not (isinstance(section, type) and issubclass(section, msgspec.Struct)):
            section = None
            break
    if unknown and section is not None:
        known = [field.encode_name for field in msgspec.structs.fields(section)]
        near = difflib.get_close_matches(unknown[1], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(known)}"
        return f"{_place([*path, unknown[1]])}: unknown key; {hint}"
    value: Any = table
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    shown = "" if isinstance(value, dict) or not path else f" (is {value!r})"
    return f"{_place(path)}: {where}{shown}" if path else where


def _place(path: list[str]) -> str:
    return path[0] if len(path) == 1 else f"[{'.'.join(path[:-1])}] {path[-1]}"
