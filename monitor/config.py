"""The settings file: TOML, overridden by the environment, turned into frozen values. The only reader of either."""

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from monitor.section import Section, is_credential, is_file
from monitor.settings import Settings
from monitor.toml_lines import KeyPath, key_lines
from monitor.validation import AnySection, Problem, Validation, Variable, section_name, section_of, shown, where_set

ENVIRONMENT_PREFIX = "MONITOR_"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_STATE_VARIABLE = "STATE_DIRECTORY"


class ConfigError(Exception):
    """The settings are not usable; one line for each problem: file or variable, key, value and what is accepted."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Reading:
    """Settings, and where each was set.

    Attributes:
        settings: The settings, with files where they are.
        source: The file; "settings" where there is none.
        places: Key to the file's line, or to the variable.
    """

    settings: Settings
    source: str
    places: Mapping[KeyPath, str]

    def where(self, *path: str | int) -> str:
        """Say where a key, or what holds it, was set."""
        return where_set(self.places, path, self.source)


def read_settings(path: Path | None, *, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: A TOML file; only the environment and the defaults where None.
        environment: Variables such as `MONITOR_DETECTOR__THRESHOLD=0.8` and `MONITOR_SEEDLINK__0__HOST=localhost`; the
            process's own where None.

    Returns:
        The settings; paths of files relative to the settings file have become whole.

    Raises:
        ConfigError: The file cannot be read or is not TOML, or keys or values are not accepted.
    """
    return read(path, environment=environment).settings


def read(path: Path | None, *, environment: Mapping[str, str] | None = None) -> Reading:
    """Read the settings as `read_settings` does, and keep where they come from."""
    variables = os.environ if environment is None else environment
    source = str(path) if path is not None else "settings"
    table: dict[str, Any] = {}
    places: dict[KeyPath, str] = {}
    if path is not None:
        text = _text(path)
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError([Problem(source, f"not TOML: {error}")]) from error
        places = {key: f"{source}:{line}" for key, line in key_lines(text).items()}
    problems = _override(table, places, variables)
    validation = Validation(source, places)
    settings = validation.section(Settings, table, ())
    problems += validation.problems
    if problems or settings is None:
        raise ConfigError(sorted(problems, key=_file_order))
    folder = path.parent if path is not None else Path()
    settings = _with_whole_paths(settings, folder, variables.get(CREDENTIALS_VARIABLE))
    return Reading(settings, source, places)


def state_directory(settings: Settings, *, environment: Mapping[str, str] | None = None) -> Path:
    """Say where state is kept: as set, else where systemd says, else in the user's home."""
    if settings.state.directory is not None:
        return Path(settings.state.directory)
    variables = os.environ if environment is None else environment
    # systemd separates several by colons; the first is the unit's own.
    given = variables.get(_STATE_VARIABLE, "").partition(":")[0]
    return Path(given) if given else Path.home() / ".local" / "state" / "monitor"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        text = f"not UTF-8 text: {error.reason} at byte {error.start}"
        raise ConfigError([Problem(str(path), text)]) from error


def _override(table: dict[str, Any], places: dict[KeyPath, str], variables: Mapping[str, str]) -> list[Problem]:
    """Put variables into the table; returns those that have no place in it."""
    problems = []
    for path, name in _overrides(variables):
        holder: Any = table
        for depth, part in enumerate(path):
            last = depth == len(path) - 1
            new: Any = Variable(variables[name]) if last else ([] if isinstance(path[depth + 1], int) else {})
            refusal = _entered(holder, part, new, replace=last)
            if refusal:
                problems.append(Problem(name, f"{section_name(path[:depth]) or 'settings'} {refusal}"))
                break
            holder = holder[part]
            places[path[: depth + 1]] = name if last else places.get(path[: depth + 1], name)
    return problems


def _overrides(variables: Mapping[str, str]) -> list[tuple[KeyPath, str]]:
    """Find the variables that set a key; element 2 before 10, so that they are appended in their order."""
    found: list[tuple[KeyPath, str]] = []
    for name in variables:
        # A section and a key, so that other variables with this prefix may exist.
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            parts = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            found.append((tuple(int(part) if part.isdecimal() else part for part in parts), name))
    return sorted(found, key=lambda item: [("", part) if isinstance(part, int) else (part, 0) for part in item[0]])


def _entered(holder: Any, part: str | int, new: Any, *, replace: bool) -> str | None:
    """Put `new` into a table or list unless something is there that may stay; returns why it cannot."""
    if isinstance(part, int) and isinstance(holder, list):
        if part > len(holder):
            return f"has {len(holder)} elements; accepted: 0 to {len(holder)}"
        if part == len(holder):
            holder.append(new)
        elif replace:
            holder[part] = new
    elif isinstance(part, str) and isinstance(holder, dict):
        if replace or part not in holder:
            holder[part] = new
    else:
        return f"is {shown(holder)}; accepted: {'a list' if isinstance(part, int) else 'a table'}"
    return None


def _file_order(problem: Problem) -> tuple[bool, int]:
    """Those of the file first, from top to bottom."""
    _, _, line = problem.where.rpartition(":")
    return (not line.isdecimal(), int(line) if line.isdecimal() else 0)


def _with_whole_paths(section: AnySection, folder: Path, credentials: str | None) -> AnySection:
    changes: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            changes[field.name] = _with_whole_paths(value, folder, credentials)
        elif isinstance(value, list) and section_of(field.type) is not None:
            changes[field.name] = [_with_whole_paths(item, folder, credentials) for item in value]
        elif value is not None and is_file(field.type):
            whole = folder / value
            if is_credential(field.type) and credentials and Path(value).name == value:
                credential = Path(credentials) / value
                whole = credential if credential.exists() else whole
            changes[field.name] = str(whole)
    return msgspec.structs.replace(section, **changes)
