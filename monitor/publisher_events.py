"""What happens between this monitor and the broker, for metrics and log."""

from dataclasses import dataclass
from typing import Final, Literal

from monitor.mqtt import LinkReason, Version

RejectReason = Literal["not_authorized", "too_large", "invalid", "quota", "unspecified", "closes_connection"]
REJECT_REASONS: Final[tuple[RejectReason, ...]] = (
    *("not_authorized", "too_large", "invalid", "quota", "unspecified", "closes_connection"),
)


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a connection; `session_present`: the broker still knew this client."""

    version: Version
    session_present: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """There is no connection, or no longer.

    Attributes:
        reason: One of `monitor.mqtt.LINK_REASONS`.
        detail: For a person.
        retry_in_s: When the next attempt is made.
        was_connected: Was there a connection before?
        repeated: Is it the same as last time? Worth counting, not worth a line in the log.
    """

    reason: LinkReason
    detail: str
    retry_in_s: float
    was_connected: bool
    repeated: bool


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has acknowledged a message of the outbox, `latency_s` after it was made."""

    topic: str
    latency_s: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """The broker does not take a message; `set_aside`: it is no longer offered, else it is tried again."""

    topic: str
    reason: RejectReason
    set_aside: bool


PublisherEvent = Connected | Disconnected | Published | Rejected
