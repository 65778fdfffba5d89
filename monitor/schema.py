"""The JSON Schemas of what is published."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from monitor.records import DETECTION_SCHEMA, Detection

# What the types alone do not say.
_LIMITS: dict[str, dict[str, Any]] = {
    "revision": {"minimum": 0},
    "onset_uncertainty_s": {"minimum": 0},
    "probability": {"minimum": 0, "maximum": 1},
    "data_complete": {"minimum": 0, "maximum": 1},
    "onset": {"format": "date-time"},
    "decided_at": {"format": "date-time"},
}
_NULLABLE_TIMES = ("end", "s_onset")


def detection_schema() -> dict[str, Any]:
    """Describe one detection, as MQTT and `--format jsonl` carry it, in JSON Schema draft 2020-12.

    Returns:
        A schema that asks for every field, since every field is always written, and accepts fields it does not know,
        since a later version may add some.
    """
    return message_schema(Detection, title=DETECTION_SCHEMA, limits=_LIMITS, nullable_times=_NULLABLE_TIMES)


def message_schema(
    struct: type[msgspec.Struct],
    *,
    title: str,
    limits: Mapping[str, Mapping[str, Any]],
    nullable_times: Iterable[str] = (),
) -> dict[str, Any]:
    """Describe a message in JSON Schema draft 2020-12.

    Args:
        struct: Its type; the docstring describes it and its fields.
        title: The name and version of the contract.
        limits: Field of any struct within -> keywords that its type does not say.
        nullable_times: Fields that are a date-time or null.

    Returns:
        A schema that asks for every field of every struct within.
    """
    schema = msgspec.json.schema(struct)
    for definition in schema["$defs"].values():
        properties = definition["properties"]
        definition["required"] = list(properties)
        for name in limits.keys() & properties.keys():
            properties[name].update(limits[name])
        for name in {*nullable_times} & properties.keys():
            properties[name] = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}
        # The docstring is for readers of the source, its attribute list for those of the schema: field by field.
        descriptions = _attribute_descriptions(definition["description"])
        for name, entry in properties.items():
            text = descriptions.get("class_" if name == "class" else name)
            if text and "$ref" not in entry:
                entry["description"] = text
        definition["description"] = definition["description"].partition("\n")[0]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _attribute_descriptions(docstring: str) -> dict[str, str]:
    # A line that is indented further goes on with the entry above it.
    text = re.sub(r"\n {5,}", " ", inspect.cleandoc(docstring).partition("Attributes:")[2])
    entries = (line.strip().partition(": ") for line in text.splitlines())
    # `peak_p, peak_s: …` describes both.
    return {name.strip(): text for names, colon, text in entries if colon for name in names.split(",")}
