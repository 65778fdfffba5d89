"""What happens, told twice: to the metrics and to the log."""

import logging

from monitor import publisher
from monitor.logs import ALWAYS
from monitor.metrics import Metrics
from monitor.records import Detection
from monitor.sources.seedlink import (
    AuthRefused,
    BadPacket,
    Connected,
    Connecting,
    Disconnected,
    HoleInResume,
    SourceEvent,
    StationRefused,
)
from monitor.timebase import NS_PER_SECOND, format_time


def tell_detection(log: logging.Logger, detection: Detection) -> None:
    """Log a revision: what an operator wants to see of it in one line."""
    level = logging.INFO if detection.state in {"new", "final"} else logging.DEBUG
    log.log(
        level,
        "%s earthquake at %s: onset %s, probability %.2f, %s, %.1f s after the onset [%s]",
        detection.state,
        detection.station,
        detection.onset,
        detection.probability,
        detection.origin,
        detection.latency_s,
        detection.id,
        extra={ALWAYS: True},
    )


def tell_source(log: logging.Logger, metrics: Metrics, event: SourceEvent) -> dict[str, str | None]:
    """Log and count what a SeedLink source tells.

    Returns:
        The server's label -> why it is not connected, None while it is; empty where that did not change.
    """
    match event:
        case Connecting():
            return {}
        case Connected(server, software, protocol):
            log.info("%s: connected, SeedLink %s, %s", server, protocol, software)
            metrics.connected(server)
            return {server: None}
        case Disconnected(server, reason, detail, retry_in_s):
            log.warning("%s: %s: %s; next attempt in %.1f s", server, reason, detail, retry_in_s)
            metrics.disconnected(server, reason)
            return {server: f"{reason}: {detail}"}
        case StationRefused(server, station, detail):
            log.error("%s: station %s is refused: %s", server, station, detail)
        case AuthRefused(server, detail):
            log.error("%s: login refused: %s", server, detail)
        case HoleInResume(server, station, from_ns, to_ns):
            length_s = (to_ns - from_ns) / NS_PER_SECOND
            log.warning(
                "%s: %s: the server has no data for %.1f s from %s", server, station, length_s, format_time(from_ns)
            )
            metrics.hole(server, to_ns - from_ns)
        case BadPacket(server, station, detail):
            log.warning("%s: %s: bad packet: %s", server, station or "unknown station", detail)
            metrics.irregular_packet(server, "undecodable")
    return {}


def tell_broker(log: logging.Logger, metrics: Metrics, event: publisher.PublisherEvent) -> None:
    """Log and count what the publisher tells."""
    match event:
        case publisher.Connected(version, session_present):
            log.info("broker: connected, MQTT %s%s", version, ", session kept" if session_present else "")
            metrics.broker_connected()
        case publisher.Disconnected(reason, detail, retry_in_s, _, repeated):
            level = logging.DEBUG if repeated else logging.WARNING
            log.log(level, "broker: %s: %s; next attempt in %.1f s", reason, detail, retry_in_s)
            metrics.broker_disconnected(reason)
        case publisher.Published():
            metrics.published("acknowledged")
        case publisher.Rejected(topic, reason, set_aside):
            what = "set aside" if set_aside else "tried again later"
            log.error("broker: does not take a message on %s: %s; %s", topic, reason, what)
            metrics.published("refused")
