"""What waits in the outbox."""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

# Of a row and its index entries beside topic and payload.
OVERHEAD_BYTES: Final = 128

Lane = Literal["live", "backfill"]


class Key(NamedTuple):
    """Which revision of which detection a message tells."""

    detection_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """What is to be published.

    Attributes:
        topic: Where.
        payload: What.
        created_ns: When it was made, by this computer's clock, nanoseconds since the epoch.
        qos: MQTT quality of service, 0 to 2.
        retain: Is the broker to keep it for later subscribers?
        expiry_s: How long the broker offers it to subscribers; None: for ever.
        key: A message with the same key and topic is taken once only; None: always.
        lane: `live` goes first.
    """

    topic: str
    payload: bytes
    created_ns: int
    qos: int = 1
    retain: bool = False
    expiry_s: int | None = None
    key: Key | None = None
    lane: Lane = "live"

    @property
    def size(self) -> int:
        """What it counts against the bounds, bytes."""
        return len(self.topic.encode()) + len(self.payload) + OVERHEAD_BYTES

    @property
    def detection_id(self) -> str | None:
        """Which detection it tells; None where it tells none."""
        return None if self.key is None else self.key.detection_id


class Queued(NamedTuple):
    """A message in the outbox, and the number that `Outbox.remove` wants."""

    number: int
    message: OutboxMessage
