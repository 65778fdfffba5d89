"""The announcement to Home Assistant, against its discovery schema as documented.

Tried on Home Assistant 2025.4 itself: the entities appear with their values, turn unavailable with the status, and go
with the empty message.
"""

import json
import re
from typing import Any

import jsonschema
import pytest

from monitor.homeassistant import discovery
from monitor.messages import StationQuality, Status
from monitor.records import Detection
from monitor.topics import Topics
from tests.detections import HOSTILE

TOPICS = Topics("monitor/v1", "monitor-pi")

_TEXT = {"type": "string", "minLength": 1}
_TOPIC = {"type": "string", "pattern": "^[^+#]+$"}
# https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload and the pages of the three platforms.
_COMMON: dict[str, Any] = {
    "name": _TEXT,
    "unique_id": _TEXT,
    "state_topic": _TOPIC,
    "value_template": _TEXT,
    "icon": {"pattern": "^mdi:"},
    "qos": {"enum": [0, 1, 2]},
    "entity_category": {"enum": ["config", "diagnostic"]},
    "json_attributes_topic": _TOPIC,
    "json_attributes_template": _TEXT,
}
_EXPIRE = {"expire_after": {"type": "integer", "minimum": 1}}
_PLATFORMS: dict[str, dict[str, Any]] = {
    "event": {"event_types": {"type": "array", "items": _TEXT, "minItems": 1}},
    "sensor": _EXPIRE
    | {
        "device_class": {"enum": ["timestamp", "duration"]},
        "unit_of_measurement": {"enum": ["%", "s"]},
        "state_class": {"const": "measurement"},
        "suggested_display_precision": {"type": "integer"},
    },
    "binary_sensor": _EXPIRE | {"device_class": {"const": "problem"}},
}
SCHEMA = {
    "type": "object",
    "required": ["device", "origin", "components"],
    "additionalProperties": False,
    "properties": {
        "device": {
            "type": "object",
            "required": ["identifiers"],
            "additionalProperties": False,
            "properties": dict.fromkeys(("name", "manufacturer", "model", "sw_version"), _TEXT)
            | {"identifiers": {"type": "array", "items": _TEXT, "minItems": 1}},
        },
        "origin": {"type": "object", "required": ["name"], "properties": {"name": _TEXT, "sw_version": _TEXT}},
        "availability": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["topic"],
                "additionalProperties": False,
                "properties": {
                    "topic": _TOPIC,
                    "value_template": _TEXT,
                    "payload_available": _TEXT,
                    "payload_not_available": _TEXT,
                },
            },
        },
        "components": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-zA-Z0-9_-]+$"},
            "additionalProperties": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["platform", "unique_id", "state_topic"],
                        "additionalProperties": False,
                        "properties": {"platform": {"const": platform}} | _COMMON | options,
                    }
                    for platform, options in _PLATFORMS.items()
                ]
            },
        },
    },
}


def announced(station_id: str = "BW.UH1", **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"topics": TOPICS, "version": "1.2", "model": "unet", "quality_interval_s": 60.0}
    message: dict[str, Any] = json.loads(discovery(station_id, **(options | changes)))
    return message


@pytest.mark.parametrize("station_id", ["BW.UH1", HOSTILE, "."])
@pytest.mark.parametrize("model", ["unet", None])
def test_schema(station_id: str, model: str | None) -> None:
    message = announced(station_id, model=model, channels=["BW.UH1..EHZ", f"{station_id}.00.{HOSTILE}"])
    jsonschema.Draft202012Validator(SCHEMA).validate(message)


def test_entities_read_the_topics_of_the_contract() -> None:
    message = announced()
    topics = {name: component["state_topic"] for name, component in message["components"].items()}
    assert topics == {
        **dict.fromkeys(("detection", "probability", "last_detection"), "monitor/v1/BW/UH1/detection"),
        **dict.fromkeys(("delay", "problem"), "monitor/v1/BW/UH1/quality"),
    }
    assert [entry["topic"] for entry in message["availability"]] == [TOPICS.status]
    assert message["components"]["detection"]["event_types"] == ["new", "update", "final", "retracted"]


def test_templates_name_fields_that_exist() -> None:
    """A renamed field would leave an entity without a value, and nobody would be told."""
    message = announced(channels=["BW.UH1..EHZ"])
    fields = {
        "monitor/v1/BW/UH1/detection": {f.replace("class_", "class") for f in Detection.__struct_fields__},
        "monitor/v1/BW/UH1/quality": set(StationQuality.__struct_fields__),
        TOPICS.status: set(Status.__struct_fields__),
    }
    entries = [(entry["topic"], entry["value_template"]) for entry in message["availability"]]
    for component in message["components"].values():
        entries.append((component["state_topic"], component["value_template"]))
        entries.append((component["state_topic"], component.get("json_attributes_template", "")))
    named = [(t, name) for t, text in entries for name in re.findall(r"value_json(?:\.|\[')(\w+)", text)]
    assert len(named) > 15
    for topic, name in named:
        assert name in fields[topic]


def test_every_entity_has_an_id_of_its_own() -> None:
    messages = [announced(station, channels=["BW.UH1..EHZ", "BW.UH1..EHN"]) for station in ("BW.UH1", "BW.UH2")]
    ids = [component["unique_id"] for message in messages for component in message["components"].values()]
    assert len(set(ids)) == len(ids) == 14
    assert messages[0]["device"]["identifiers"] != messages[1]["device"]["identifiers"]


@pytest.mark.parametrize(("interval_s", "expected"), [(60.0, 180), (1.0, 60), (3600.0, 10800)])
def test_expires_after_some_missed_messages(interval_s: float, expected: int) -> None:
    assert announced(quality_interval_s=interval_s)["components"]["delay"]["expire_after"] == expected


def test_codes_from_outside_are_no_template() -> None:
    message = announced(channels=["BW.UH1..{{ states }}'"])
    template = message["components"]["problem_BW_2eUH1_2e_2e_7b_7b_20states_20_7d_7d_27"]["value_template"]
    assert "{{ states" not in template
    assert r"\u007b\u007b states \u007d\u007d\u0027" in template
