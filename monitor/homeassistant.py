"""Announce a station to Home Assistant, which then has its entities without a line of configuration.

Device discovery: one retained message per station, Home Assistant 2024.12 or later,
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. The entities read the topics that everybody
reads; nothing is published for them alone.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from monitor.topics import Topics, word

# So many quality messages may be missed before an entity turns "unavailable".
_MISSED: Final = 3
ORIGIN: Final = "seismic-monitor"

# What is an attribute of the event: the whole message would fill Home Assistant's database.
_ATTRIBUTES: Final = (
    *("id", "revision", "station", "onset", "end", "phase", "s_onset", "probability", "class", "snr_db"),
    *("peak_counts", "dominant_hz", "origin", "decided_at", "latency_s"),
)
_EVENT: Final = (
    "{{ {'event_type': value_json.state, "
    + ", ".join(f"'{name}': value_json['{name}']" for name in _ATTRIBUTES)
    + "} | to_json }}"
)


def discovery(
    station_id: str,
    *,
    topics: Topics,
    version: str,
    model: str | None,
    quality_interval_s: float,
    channels: Sequence[str] = (),
) -> bytes:
    """Build the message that announces a station.

    Args:
        station_id: `NET.STA`.
        topics: Where this monitor publishes.
        version: Of this program.
        model: Name of the model, for the device's page; None where not known.
        quality_interval_s: How often quality is published.
        channels: `NET.STA.LOC.CHA` of the channels that get an entity of their own, beside the station's.

    Returns:
        To be published, retained, on `topics.discovery(station_id)`. Empty bytes there take it back.
    """
    device_id = topics.device_id(station_id)
    expire_after = max(60, round(_MISSED * quality_interval_s))
    detection, quality = topics.detection(station_id), topics.quality(station_id)
    components: dict[str, dict[str, Any]] = {
        "detection": {
            "platform": "event",
            "name": "Detection",
            "icon": "mdi:pulse",
            "event_types": ["new", "update", "final", "retracted"],
            "state_topic": detection,
            "value_template": _EVENT,
            "qos": 1,
        },
        "probability": {
            "platform": "sensor",
            "name": "Last probability",
            "icon": "mdi:percent",
            "state_topic": detection,
            "value_template": "{{ (value_json.probability * 100) | round(1) }}",
            "unit_of_measurement": "%",
            "suggested_display_precision": 0,
        },
        "last_detection": {
            "platform": "sensor",
            "name": "Last detection",
            "device_class": "timestamp",
            "state_topic": detection,
            "value_template": "{{ value_json.onset }}",
        },
        "delay": {
            "platform": "sensor",
            "name": "Data delay",
            "device_class": "duration",
            "unit_of_measurement": "s",
            "state_class": "measurement",
            "suggested_display_precision": 1,
            "entity_category": "diagnostic",
            "state_topic": quality,
            "value_template": "{{ value_json.delay_s }}",
            "expire_after": expire_after,
        },
        "problem": {
            "platform": "binary_sensor",
            "name": "Channels",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": quality,
            "value_template": "{{ 'OFF' if value_json.state == 'ok' else 'ON' }}",
            "json_attributes_topic": quality,
            "json_attributes_template": "{{ {'problems': value_json.problems} | to_json }}",
            "expire_after": expire_after,
        },
    }
    for seed_id in channels:
        name = ".".join(seed_id.split(".")[2:]).lstrip(".") or seed_id
        components[f"problem_{word(seed_id)}"] = {
            "platform": "binary_sensor",
            "name": f"Channel {name}",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": quality,
            "value_template": (
                f"{{% set found = value_json.channels | selectattr('seed_id', 'eq', {_quoted(seed_id)}) | list %}}"
                "{{ 'OFF' if found and found[0].state == 'ok' else 'ON' }}"
            ),
            "expire_after": expire_after,
        }
    for name, component in components.items():
        component["unique_id"] = f"{device_id}__{name}"
    device: dict[str, Any] = {
        "identifiers": [device_id],
        "name": f"Seismometer {station_id}",
        "manufacturer": ORIGIN,
        "model": "Earthquake monitor" if model is None else f"Earthquake monitor, model {model}",
        "sw_version": version,
    }
    message = {
        "device": device,
        "origin": {"name": ORIGIN, "sw_version": version},
        "components": components,
        "availability": [
            {
                "topic": topics.status,
                "value_template": "{{ value_json.state }}",
                "payload_available": "online",
                "payload_not_available": "offline",
            }
        ],
    }
    return msgspec.json.encode(message)


def _quoted(text: str) -> str:
    """Write a text as a literal of Jinja that holds no braces: codes come from outside."""
    return "'" + "".join(c if c.isascii() and (c.isalnum() or c in ".-_* ") else f"\\u{ord(c):04x}" for c in text) + "'"
