"""From tables to settings, with everything that is wrong with them."""

import difflib
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec

from monitor.section import Section, SettingsError, accepted, can_be_unset
from monitor.settings import Settings
from monitor.toml_lines import KeyPath

# What a table lacks that it must have is told by itself; with these in their place the rest of it can be judged.
_STAND_INS = {"host": "localhost", "stations": ["XX.XX"]}

_LONGEST_SHOWN = 80

AnySection = TypeVar("AnySection", bound=Section)


class Problem(NamedTuple):
    """One thing that is not accepted.

    Attributes:
        where: The file and line, or the variable.
        text: The key, its value and what is accepted.
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class Variable(NamedTuple):
    """A value from the environment: text, which may be a number or a list as TOML writes them."""

    text: str

    def readings(self) -> list[Any]:
        """Give what the text may mean, the likelier first; the key's type decides."""
        try:
            return [tomllib.loads(f"value = {self.text}")["value"], self.text]
        except tomllib.TOMLDecodeError:
            return [self.text]


class Validation:
    """Builds sections from tables and collects everything that is wrong with them."""

    def __init__(self, source: str, places: Mapping[KeyPath, str]) -> None:
        self.problems: list[Problem] = []
        self._source, self._places = source, places

    def section(self, kind: type[AnySection], table: Any, path: KeyPath) -> AnySection | None:
        """Build one section; None where something in it is wrong."""
        before = len(self.problems)
        if not isinstance(table, dict):
            self._add(path, f"{_name(path)} is {shown(table)}; accepted: a table")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for name in table:
            if name not in fields:
                self._add((*path, name), f"{_prefix(path)}{name}: unknown key; {_hint(name, list(fields), path)}")
        values: dict[str, Any] = {}
        # Keys whose value is not what was asked for: what else is wrong with them cannot be told.
        unknown: set[str] = set()
        for name, field in fields.items():
            if name in table:
                found = self._value(field, table[name], (*path, name))
                if found is not _WRONG:
                    values[name] = found
                    continue
            elif field.required:
                self._add(path, f"{_prefix(path)}{name} is not set; accepted: {accepted(field)}")
            else:
                continue
            unknown.add(name)
            if field.required:
                values[name] = _STAND_INS[name]
        built = None
        try:
            built = kind(**values)
        except SettingsError as error:
            for refusal in error.refusals:
                if not unknown & set(refusal.keys):
                    at = next((key for key in refusal.keys if key in table), refusal.keys[0])
                    self._add((*path, at), _prefix(path) + refusal.text)
        return built if len(self.problems) == before else None

    def _value(self, field: Any, value: Any, path: KeyPath) -> Any:
        kind = section_of(field.type)
        if kind is None:
            return self._leaf(field, value, path)
        if field.type is kind:
            built = self.section(kind, value, path)
            return _WRONG if built is None else built
        if not isinstance(value, list):
            form = f"[[{path[-1]}]], with two brackets" if isinstance(value, dict) else "a list of tables"
            found = "one table" if isinstance(value, dict) else shown(value)
            self._add(path, f"{_name(path)} is {found}; accepted: {form}")
            return _WRONG
        items = [self.section(kind, item, (*path, index)) for index, item in enumerate(value)]
        return _WRONG if None in items else items

    def _leaf(self, field: Any, value: Any, path: KeyPath) -> Any:
        readings = value.readings() if isinstance(value, Variable) else [value]
        for reading in readings:
            found = _plain(reading)
            if found == "none" and can_be_unset(field):
                return None
            if found is None or (isinstance(found, str) and "\0" in found):
                continue
            try:
                return msgspec.convert(found, field.type, strict=True)
            except msgspec.ValidationError:
                continue
        self._add(path, f"{_prefix(path[:-1])}{field.name} is {shown(value)}; accepted: {accepted(field)}")
        return _WRONG

    def _add(self, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(where_set(self._places, path, self._source), text))


_WRONG = object()


def section_of(annotation: Any) -> type[Section] | None:
    """Find the section that a key holds, or holds a list of."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _hint(name: str, known: list[str], path: KeyPath) -> str:
    elsewhere = [
        section_name((section.name, 0)[: 1 if section.type is kind else 2]).removesuffix(" 1")
        for section in msgspec.structs.fields(Settings)
        if (kind := section_of(section.type)) is not None
        and section.name not in path
        and name in {field.name for field in msgspec.structs.fields(kind)}
    ]
    if elsewhere:
        return f"it belongs to {' or '.join(elsewhere)}"
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"accepted: {', '.join(known)}"


def where_set(places: Mapping[KeyPath, str], path: KeyPath, source: str) -> str:
    """Say where a key, or what holds it, was set."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]]
    return source


def section_name(path: KeyPath) -> str:
    """Name a section as the file does; those of a list are counted from 1, as a person does."""
    names = [str(part) for part in path if isinstance(part, str)]
    numbers = [part + 1 for part in path if isinstance(part, int)]
    if not names:
        return ""
    return f"[[{names[0]}]] {numbers[0]}" if numbers else f"[{'.'.join(names)}]"


def _prefix(path: KeyPath) -> str:
    return f"{section_name(path)} " if path else ""


def _name(path: KeyPath) -> str:
    return str(path[-1]) if len(path) == 1 else section_name(path)


def shown(value: Any) -> str:
    """Write a value as a message does: on one line, cut where it is long."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "a list of tables"
    text = repr(_plain(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.text if isinstance(value, Variable) else value
