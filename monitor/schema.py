"""The JSON Schema of the contract `monitor.detection/1`."""

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
    schema = msgspec.json.schema(Detection)
    definition = schema["$defs"]["Detection"]
    properties = definition["properties"]
    definition["required"] = list(properties)
    for name, limits in _LIMITS.items():
        properties[name].update(limits)
    for name in _NULLABLE_TIMES:
        properties[name] = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}
    # The docstring is for readers of the source, its attribute list for those of the schema: field by field.
    descriptions = _attribute_descriptions(definition["description"])
    for name, entry in properties.items():
        text = descriptions.get("class_" if name == "class" else name)
        if text and "$ref" not in entry:
            entry["description"] = text
    definition["description"] = definition["description"].partition("\n")[0]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": DETECTION_SCHEMA, **schema}


def _attribute_descriptions(docstring: str) -> dict[str, str]:
    lines = docstring.partition("Attributes:")[2].splitlines()
    entries = (line.strip().partition(": ") for line in lines)
    return {name.strip(): text for name, colon, text in entries if colon}
