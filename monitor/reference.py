"""All settings as a commented file, and as a JSON Schema: made from the settings' own types and docstrings."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from monitor.attributes import attribute_texts, attributes, summary
from monitor.section import Section, accepted, can_be_unset, example_of
from monitor.settings import Settings
from monitor.validation import section_of

_WIDTH = 100
_KEY_WIDTH = 36
_HEAD = """\
Every setting of the monitor, with its default.

A line that begins with # and a key is how the key is written: take the # away to set it. Keys without a default show
an example. Any key can also be set by the environment, which wins over this file: MONITOR_DETECTOR__HOLD_S=4,
MONITOR_MQTT__PASSWORD_FILE=mqtt-password, MONITOR_SEEDLINK__0__HOST=localhost.

`monitor check FILE` says whether all is well; `monitor check --reference` prints this.
"""


def reference() -> str:
    """Write a settings file that sets nothing and explains everything."""
    lines = [*_paragraphs(_HEAD)]
    for field in msgspec.structs.fields(Settings):
        kind = section_of(field.type)
        if kind is None:
            raise TypeError(f"{field.name} is no section")
        many = field.type is not kind
        lines += ["", "", *_comment(summary(kind)), f"#[[{field.name}]]" if many else f"[{field.name}]"]
        lines += _keys(kind)
    return "\n".join(lines) + "\n"


def settings_schema() -> dict[str, Any]:
    """Describe the settings in JSON Schema draft 2020-12; what hangs on two keys at once it does not say."""
    schema = msgspec.json.schema(Settings)
    kinds = {kind.__name__: kind for f in msgspec.structs.fields(Settings) if (kind := section_of(f.type)) is not None}
    kinds[Settings.__name__] = Settings
    for name, definition in schema["$defs"].items():
        definition["description"] = summary(kinds[name])
        texts = attribute_texts(kinds[name])
        fields = {field.name: field for field in msgspec.structs.fields(kinds[name])}
        for key, entry in definition["properties"].items():
            if "$ref" not in entry:
                entry["description"] = texts[key]
            if can_be_unset(fields[key]):
                entry["anyOf"].append({"const": "none"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "monitor settings", **schema}


def _keys(kind: type[Section]) -> Iterator[str]:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for attribute in attributes(kind):
        yield ""
        yield from _comment(attribute.text)
        for name in attribute.names:
            field = fields[name]
            shown = example_of(field.type) if field.required or field.default is None else field.default
            key = f"#{name} = {_toml(shown)}"
            note = _note(field)
            yield f"{key:{_KEY_WIDTH}s}  # {note}" if note else key


def _note(field: Any) -> str:
    """What is accepted, where the value shown does not tell, and what that value is where it is no default."""
    text = accepted(field)
    told = [] if text in {"text", "true or false"} else [text]
    if field.required:
        told.append("must be set")
    elif field.default is None:
        told.append("not set by default")
    return "; ".join(told)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\n", text.strip())):
        if number:
            yield "#"
        yield from _comment(paragraph)


def _toml(value: Any) -> str:
    """Write a value as TOML; JSON's form of what occurs here is TOML's too."""
    if isinstance(value, str | int | float | list) and value is not None:
        return json.dumps(value)
    raise TypeError(f"{value!r} has no form in TOML")
