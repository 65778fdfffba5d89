"""What is said to whom: detections and quality as messages for the broker."""

import msgspec

from monitor.outbox_message import Key, OutboxMessage
from monitor.records import Detection
from monitor.settings import MqttSettings
from monitor.topics import Topics
from monitor.usgs import to_usgs_pick


def detection_messages(
    detection: Detection, *, topics: Topics, settings: MqttSettings, now_ns: int
) -> list[OutboxMessage]:
    """Make the messages of one revision of a detection.

    Args:
        detection: What is told.
        topics: Where.
        settings: How long it is worth telling, and in which formats.
        now_ns: This computer's clock, nanoseconds since the epoch.
    """

    def message(topic: str, payload: bytes) -> OutboxMessage:
        return OutboxMessage(
            topic=topic,
            payload=payload,
            created_ns=now_ns,
            expiry_s=settings.message_expiry_s,
            key=Key(detection.id, detection.revision),
            lane="live" if detection.origin == "live" else "backfill",
        )

    messages = [message(topics.detection(detection.station), msgspec.json.encode(detection))]
    if settings.usgs_pick and detection.state == "final":
        messages.append(message(topics.pick(detection.station), msgspec.json.encode(to_usgs_pick(detection))))
    return messages
