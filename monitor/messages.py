"""What is published beside detections: the state of the monitor and the quality of a station's channels."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from monitor.quality import QUALITY_SCHEMA, QualityReport
from monitor.records import DETECTION_SCHEMA, Detection, ModelRef
from monitor.schema import detection_schema, message_schema
from monitor.timebase import format_time

STATUS_SCHEMA = "monitor.status/1"
STATION_QUALITY_SCHEMA = "monitor.station_quality/1"

OfflineReason = Literal["stopped", "lost"]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a monitor runs; the JSON contract `monitor.status/1`, retained on `<root>/<client>/status`.

    Attributes:
        schema: Always `monitor.status/1`.
        state: `online` or `offline`.
        reason: Why it is offline: `stopped` by someone, or `lost` (crash, power, network; the broker says so); null
            while it is online.
        client: Name of the monitor.
        version: Of the program.
        model: Which model decides.
        stations: What it listens to, `NET.STA`.
        since: When it connected or was stopped, by its computer's clock, ISO 8601 UTC with microseconds and Z; null
            where it was lost, since nobody was there to look at a clock.
        started: When the program was started, likewise.
    """

    schema: Literal["monitor.status/1"] = "monitor.status/1"
    state: Literal["online", "offline"]
    reason: OfflineReason | None
    client: str
    version: str
    model: ModelRef | None
    stations: list[str]
    since: str | None
    started: str

    def online(self, since_ns: int) -> "Status":
        """Say that it has been connected since then."""
        return msgspec.structs.replace(self, state="online", reason=None, since=format_time(since_ns))

    def stopped(self, since_ns: int) -> "Status":
        """Say that someone stopped it."""
        return msgspec.structs.replace(self, state="offline", reason="stopped", since=format_time(since_ns))

    def lost(self) -> "Status":
        """Say what the broker is to say when the monitor has gone without a word."""
        return msgspec.structs.replace(self, state="offline", reason="lost", since=None)


class StationQuality(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of a station's channels; the JSON contract `monitor.station_quality/1`, retained.

    One message of all channels, since a retained topic keeps the last one only.

    Attributes:
        schema: Always `monitor.station_quality/1`.
        station: `NET.STA`.
        time: When this was so, by the clock of the monitor's computer, ISO 8601 UTC with microseconds and Z.
        state: `ok`, or `problem` where any channel cannot trigger.
        problems: What is wrong, in words, each with its channel; empty where nothing is.
        delay_s: Age of the newest sample of the channel that is furthest behind, seconds; null before any data.
        channels: Each channel, in the order of their names.
    """

    schema: Literal["monitor.station_quality/1"] = "monitor.station_quality/1"
    station: str
    time: str
    state: Literal["ok", "problem"]
    problems: list[str]
    delay_s: float | None
    channels: list[QualityReport]


def station_quality(station: str, reports: Iterable[QualityReport], *, time_ns: int) -> StationQuality:
    """Put the reports on a station's channels into one message.

    Args:
        station: `NET.STA`.
        reports: Of its channels.
        time_ns: Now.
    """
    channels = sorted(reports, key=lambda report: report.seed_id)
    delays = [report.delay_s for report in channels if report.delay_s is not None]
    return StationQuality(
        station=station,
        time=format_time(time_ns),
        state="ok" if all(report.usable for report in channels) else "problem",
        problems=[f"{report.seed_id}: {reason}" for report in channels for reason in report.reasons],
        delay_s=max(delays, default=None),
        channels=channels,
    )


def mark_late(payload: bytes) -> bytes:
    """Mark a live detection that is sent late as `backfill`: an alarm of yesterday must not ring as one of now.

    Args:
        payload: What waited for the broker.

    Returns:
        The same with another origin; unchanged where it is no live detection of ours.
    """
    try:
        detection = msgspec.json.decode(payload, type=Detection)
    except msgspec.DecodeError:
        return payload
    if detection.origin != "live":
        return payload
    return msgspec.json.encode(msgspec.structs.replace(detection, origin="backfill"))


def status_schema() -> dict[str, Any]:
    """Describe the status message in JSON Schema."""
    return message_schema(
        Status, title=STATUS_SCHEMA, limits={"started": {"format": "date-time"}}, nullable_times=("since",)
    )


_QUALITY_LIMITS: dict[str, dict[str, Any]] = {
    "time": {"format": "date-time"},
    "clipped_share": {"minimum": 0, "maximum": 1},
    **{name: {"minimum": 0} for name in ("gaps", "gap_s", "overlaps", "overlap_s", "flat_s", "spikes")},
    **{name: {"minimum": 0} for name in ("window_s", "invalid_samples", "rate_changes")},
}


def quality_schema() -> dict[str, Any]:
    """Describe the quality of one channel, as it stands within that of its station, in JSON Schema."""
    return message_schema(QualityReport, title=QUALITY_SCHEMA, limits=_QUALITY_LIMITS, nullable_times=("last_sample",))


def station_quality_schema() -> dict[str, Any]:
    """Describe the quality of a station in JSON Schema."""
    return message_schema(
        StationQuality, title=STATION_QUALITY_SCHEMA, limits=_QUALITY_LIMITS, nullable_times=("last_sample",)
    )


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    DETECTION_SCHEMA: detection_schema,
    STATUS_SCHEMA: status_schema,
    STATION_QUALITY_SCHEMA: station_quality_schema,
    QUALITY_SCHEMA: quality_schema,
}
"""Contract -> its JSON Schema; all that is published but USGS Picks, whose schema is the USGS'."""
