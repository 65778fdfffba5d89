"""What a SeedLink source tells of itself, for the log and the metrics."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["refused", "dns", "tls", "timeout", "auth", "stations", "protocol", "stall", "closed"]
"""Why a connection ended: could not be made; the name is not known; encryption failed; no connection or no answer in
time; the login was refused; no station was accepted; the server said what no SeedLink server says, or an error; nothing
came for too long; the server closed it."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """A connection is being made."""

    server: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The server takes part and has been asked for data.

    Attributes:
        server: Its label.
        software: What it calls itself.
        protocol: `3` or `4`.
    """

    server: str
    software: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection has ended, or could not be made.

    Attributes:
        server: Its label.
        reason: One of a few words.
        detail: What happened, for a person.
        retry_in_s: When the next attempt is made, seconds.
    """

    server: str
    reason: Reason
    detail: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class StationRefused:
    """The server does not know a station, or keeps it from us; told again only when what it says of it changes.

    Attributes:
        server: Its label.
        station: `NET.STA` as in the settings, wildcards and all.
        detail: What the server says.
    """

    server: str
    station: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuthRefused:
    """The login was refused; told once until one succeeds.

    Attributes:
        server: Its label.
        detail: Why, without the secret.
    """

    server: str
    detail: str


@dataclass(frozen=True, slots=True)
class HoleInResume:
    """The server no longer has the data that follow those received before.

    Attributes:
        server: Its label.
        station: `NET.STA`.
        from_ns: Begin of what is missing, nanoseconds since the epoch.
        to_ns: Where the data go on.
    """

    server: str
    station: str
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class BadPacket:
    """A packet, or a part of it, was not usable; the stream goes on.

    Attributes:
        server: Its label.
        station: `NET.STA`; empty where not even that can be read.
        detail: What is wrong with it.
    """

    server: str
    station: str
    detail: str


SourceEvent = Connecting | Connected | Disconnected | StationRefused | AuthRefused | HoleInResume | BadPacket
