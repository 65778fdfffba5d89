"""One table of the settings file, which checks itself.

What a number may be stands in its type, `Annotated[float, within(0.2, 120.0)]`: there msgspec, the JSON Schema,
`monitor check --reference` and `Section` find it.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

_FILE, _CREDENTIAL = "file", "credential"

FilePath = Annotated[str, msgspec.Meta(extra={_FILE: True})]
"""Relative to the settings file."""
CredentialPath = Annotated[str, msgspec.Meta(extra={_FILE: True, _CREDENTIAL: True})]
"""Relative to the settings file, or the name of a systemd credential."""


class Refusal(NamedTuple):
    """Keys whose values are not accepted, and why: what they are and what is accepted."""

    keys: tuple[str, ...]
    text: str


class SettingsError(ValueError):
    """Values that are not accepted: all of them, not the first."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        super().__init__("; ".join(refusal.text for refusal in refusals))
        self.refusals = tuple(refusals)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the settings file."""

    def __post_init__(self) -> None:
        refusals = [*_out_of_range(self), *self.refusals()]
        if refusals:
            raise SettingsError(refusals)

    def refusals(self) -> Iterable[Refusal]:
        """Say what the types alone do not refuse."""
        return ()


def within(low: float, high: float) -> msgspec.Meta:
    """Accept numbers from `low` to `high`."""
    return msgspec.Meta(ge=low, le=high)


def example(value: Any) -> msgspec.Meta:
    """Give the reference a value to show for a key that is not set by default."""
    return msgspec.Meta(examples=[value])


def example_of(annotation: Any) -> Any:
    """Find what `example` gave; None where it gave nothing."""
    return next((meta.examples[0] for meta in _metas(annotation) if meta.examples), None)


def is_file(annotation: Any) -> bool:
    """Tell a `FilePath` or `CredentialPath`, also where it may be null."""
    return any(_FILE in (meta.extra or {}) for meta in _metas(annotation))


def is_credential(annotation: Any) -> bool:
    """Tell a `CredentialPath`, also where it may be null."""
    return any(_CREDENTIAL in (meta.extra or {}) for meta in _metas(annotation))


def accepts_none(annotation: Any) -> bool:
    """Tell whether null is among what a type accepts."""
    if get_origin(annotation) is Annotated:
        return accepts_none(get_args(annotation)[0])
    return annotation is type(None) or (_is_union(annotation) and any(map(accepts_none, get_args(annotation))))


def can_be_unset(field: Any) -> bool:
    """Tell a key that is set by default and may be null, which TOML cannot say: there it is `"none"`."""
    return accepts_none(field.type) and field.default is not None and not field.required


def accepted(field: Any) -> str:
    """Say what a key accepts, in words: `a number, 0.2 to 120`."""
    text = _accepted(field.type)
    return f'{text}, or "none"' if can_be_unset(field) else text


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _accepted(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _limits(annotation)
        text = _accepted(args[0])
        return f"{text}, {_number(limits[0])} to {_number(limits[1])}" if limits else text
    if _is_union(annotation):
        return " or ".join(_accepted(arg) for arg in args if arg is not type(None))
    if origin is Literal:
        quoted = [f'"{value}"' for value in args]
        return f"{', '.join(quoted[:-1])} or {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    if origin is list:
        return f"a list of {_accepted(args[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return "table"
    return _KINDS[annotation]


def _number(value: float) -> str:
    return f"{value:.15g}"


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in {Union, UnionType}


def _metas(annotation: Any) -> Iterable[msgspec.Meta]:
    """Find every `Meta` in a type, from the outside in."""
    args = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from (arg for arg in args[1:] if isinstance(arg, msgspec.Meta))
        args = args[:1]
    if get_origin(annotation) is Annotated or _is_union(annotation):
        for arg in args:
            yield from _metas(arg)


def _limits(annotation: Any) -> tuple[float, float] | None:
    for meta in _metas(annotation):
        if meta.ge is not None and meta.le is not None:
            return meta.ge, meta.le
    return None


@functools.cache
def _limited(section: type[Section]) -> dict[str, tuple[float, float, str]]:
    """Key -> its limits, and what it accepts in words."""
    found = {}
    for field in msgspec.structs.fields(section):
        limits = _limits(field.type)
        if limits is not None:
            found[field.name] = (*limits, accepted(field))
    return found


def _out_of_range(section: Section) -> Iterable[Refusal]:
    """Refuse what a constructor, unlike msgspec, lets pass, and what is no number."""
    for name, (low, high, text) in _limited(type(section)).items():
        value = getattr(section, name)
        if value is not None and (math.isnan(value) or not low <= value <= high):
            yield Refusal((name,), f"{name} is {value}; accepted: {text}")
