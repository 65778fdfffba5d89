"""Messages beside detections, and the JSON Schemas of all of them."""

import json
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given

from monitor.messages import SCHEMAS, OfflineReason, Status, mark_late, station_quality
from monitor.quality import QualityReport
from monitor.records import Detection, ModelRef
from tests.detections import detection, detections

CHECKER = jsonschema.FormatChecker()


@CHECKER.checks("date-time", raises=ValueError)
def is_date_time(value: object) -> bool:
    return not isinstance(value, str) or value.endswith("Z")


def check(contract: str, message: Any) -> dict[str, Any]:
    as_json: dict[str, Any] = json.loads(msgspec.json.encode(message))
    jsonschema.Draft202012Validator(SCHEMAS[contract](), format_checker=CHECKER).validate(as_json)
    assert as_json["schema"] == contract
    return as_json


def status(**changes: Any) -> Status:
    fields: dict[str, Any] = {
        "state": "online",
        "reason": None,
        "client": "monitor-pi",
        "version": "1.0",
        "model": ModelRef(name="m", version="1", sha256="ab"),
        "stations": ["BW.UH1"],
        "since": None,
        "started": "2024-01-01T00:00:00.000000Z",
    }
    return Status(**(fields | changes))


def report(channel: str, **changes: Any) -> QualityReport:
    fields: dict[str, Any] = dict.fromkeys(QualityReport.__struct_fields__)
    counts = ("gaps", "gap_s", "overlaps", "overlap_s", "flat_s", "clipped_share", "spikes", "window_s")
    fields |= dict.fromkeys((*counts, "invalid_samples", "rate_changes"), 0)
    fields |= {"schema": "monitor.quality/1", "station": "BW.UH1", "seed_id": f"BW.UH1..{channel}", "state": "ok"}
    return QualityReport(**(fields | {"time": "2024-01-01T00:00:00.000000Z", "reasons": []} | changes))


class TestStatus:
    def test_states(self) -> None:
        online = check("monitor.status/1", status().online(0))
        assert (online["state"], online["reason"], online["since"]) == ("online", None, "1970-01-01T00:00:00.000000Z")
        stopped = check("monitor.status/1", status().stopped(1_000_000_000))
        assert (stopped["state"], stopped["reason"]) == ("offline", "stopped")
        assert stopped["since"] == "1970-01-01T00:00:01.000000Z"
        lost = check("monitor.status/1", status(model=None).lost())
        assert (lost["state"], lost["reason"], lost["since"]) == ("offline", "lost", None)

    @pytest.mark.parametrize(
        "changes", [{"state": "away"}, {"reason": "tired"}, {"started": "yesterday"}, {"stations": None}]
    )
    def test_schema_refuses(self, changes: dict[str, Any]) -> None:
        with pytest.raises(jsonschema.ValidationError):
            check("monitor.status/1", msgspec.structs.replace(status(), **changes))

    def test_schema_names_every_reason(self) -> None:
        reasons = SCHEMAS["monitor.status/1"]()["$defs"]["Status"]["properties"]["reason"]["anyOf"][0]["enum"]
        assert set(reasons) == set(get_args(OfflineReason))


class TestStationQuality:
    def test_all_well(self) -> None:
        message = check(
            "monitor.station_quality/1",
            station_quality("BW.UH1", [report("EHZ", delay_s=2.0), report("EHN", delay_s=3.5)], time_ns=0),
        )
        assert (message["state"], message["problems"], message["delay_s"]) == ("ok", [], 3.5)
        assert [channel["seed_id"] for channel in message["channels"]] == ["BW.UH1..EHN", "BW.UH1..EHZ"]

    def test_a_bad_channel(self) -> None:
        bad = report("EHE", state="flat", reasons=["one value for 12 s"])
        message = check("monitor.station_quality/1", station_quality("BW.UH1", [report("EHZ"), bad], time_ns=0))
        assert (message["state"], message["delay_s"]) == ("problem", None)
        assert message["problems"] == ["BW.UH1..EHE: one value for 12 s"]

    def test_each_channel_keeps_its_own_contract(self) -> None:
        check("monitor.quality/1", report("EHZ", delay_s=1.0, last_sample="2024-01-01T00:00:00.000000Z"))


class TestSchemas:
    @pytest.mark.parametrize("contract", sorted(SCHEMAS))
    def test_is_one_and_describes_every_field(self, contract: str) -> None:
        schema = SCHEMAS[contract]()
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["title"] == contract
        for definition in schema["$defs"].values():
            assert definition["required"] == list(definition["properties"])
        root = schema["$defs"][schema["$ref"].rpartition("/")[2]]["properties"]
        for name, entry in root.items():
            assert "$ref" in entry or entry["description"][-1] in ".…", (name, entry)

    def test_descriptions_are_whole(self) -> None:
        properties = SCHEMAS["monitor.status/1"]()["$defs"]["Status"]["properties"]
        assert properties["reason"]["description"].endswith("null while it is online.")

    def test_knows_every_message(self) -> None:
        assert set(SCHEMAS) == {
            *("monitor.detection/1", "monitor.status/1", "monitor.station_quality/1", "monitor.quality/1"),
        }


class TestMarkLate:
    @given(detections)
    def test_changes_the_origin_only(self, made: Detection) -> None:
        before = msgspec.structs.replace(made, origin="live")
        after = msgspec.json.decode(mark_late(msgspec.json.encode(before)), type=Detection)
        assert after == msgspec.structs.replace(before, origin="backfill")

    @pytest.mark.parametrize(
        "payload",
        [
            *(b"", b"{}", b"\xff", b'{"Type": "Pick"}'),
            *(msgspec.json.encode(detection(origin=origin)) for origin in ("replay", "backfill")),
        ],
    )
    def test_leaves_everything_else_alone(self, payload: bytes) -> None:
        assert mark_late(payload) == payload
