"""What to ask a SeedLink server for: stations, channels, and where to begin. Pure; no sockets."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from monitor.records import ChannelId
from monitor.stations import measures_ground_motion
from monitor.timebase import NS_PER_SECOND, format_time

Protocol = Literal["3", "4"]

SEQUENCES: dict[Protocol, int] = {"3": 1 << 24, "4": 1 << 64}
"""How many sequence numbers there are before they begin again."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHANNEL_CODE_LENGTH = 3


@dataclass(frozen=True, slots=True)
class Start:
    """Where the data of a station shall begin.

    Attributes:
        sequence: At this packet; None: not told by number.
        time_ns: With the data of this time, nanoseconds since the epoch; None: not told by time.
    """

    sequence: int | None = None
    time_ns: int | None = None


def data_command(start: Start, protocol: Protocol) -> str:
    """Say where to begin, in the protocol's words: what is next, where neither number nor time is given."""
    if protocol == "4":
        number = "ALL" if start.sequence is None else str(start.sequence)
        if start.time_ns is not None:
            return f"DATA {number} {format_time(start.time_ns // 1000 * 1000)}"
        return "DATA" if start.sequence is None else f"DATA {number}"
    if start.time_ns is None:
        return "DATA" if start.sequence is None else f"DATA {start.sequence:06X}"
    # Version 3 knows whole seconds.
    moment = _EPOCH + timedelta(seconds=start.time_ns // NS_PER_SECOND)
    time = f"{moment.year},{moment.month},{moment.day},{moment.hour},{moment.minute},{moment.second}"
    return f"TIME {time}" if start.sequence is None else f"DATA {start.sequence:06X} {time}"


def station_command(station: str, protocol: Protocol) -> str:
    """Select a station, `NET.STA` or a pattern."""
    network, _, code = station.partition(".")
    return f"STATION {network}_{code}" if protocol == "4" else f"STATION {code} {network}"


def is_pattern(text: str) -> bool:
    """Tell whether a text has wildcards."""
    return "*" in text or "?" in text


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(char) or re.escape(char) for char in pattern), re.DOTALL)


def matches(text: str, pattern: str) -> bool:
    """Tell whether a text fits a pattern of `*` (anything) and `?` (one character)."""
    return _compiled(pattern).fullmatch(text) is not None


class Selection:
    """Which stations and channels are wanted.

    Args:
        patterns: `NET.STA` or `NET.STA.LOC.CHA`, with `*` and `?`; an empty location may be written `--`.
        also: What else a channel must be.
    """

    def __init__(self, patterns: Sequence[str], *, also: Callable[[ChannelId], bool] = measures_ground_motion) -> None:
        self._also = also
        # Station pattern -> patterns of location and channel; none: all.
        self._streams: dict[str, list[tuple[str, str]]] = {}
        for pattern in patterns:
            network, station, *stream = pattern.split(".")
            streams = self._streams.setdefault(f"{network}.{station}", [])
            location, channel = stream or ("*", "*")
            pair = ("" if location == "--" else location, channel)
            if pair not in streams:
                streams.append(pair)

    @property
    def stations(self) -> tuple[str, ...]:
        """The station patterns; those without wildcards first, as servers expect."""
        return tuple(sorted(self._streams, key=lambda station: ("*" in station, "?" in station)))

    @property
    def named_stations(self) -> tuple[str, ...]:
        """Those of the stations that are named without wildcards."""
        return tuple(station for station in self.stations if not is_pattern(station))

    @property
    def named_channels(self) -> tuple[ChannelId, ...]:
        """The channels that are named without wildcards."""
        named = (
            ChannelId(network, code, location, channel)
            for station in self.named_stations
            for network, _, code in [station.partition(".")]
            for location, channel in self._streams[station]
            if not is_pattern(location + channel)
        )
        return tuple(channel for channel in named if self._also(channel))

    def wants(self, channel: ChannelId) -> bool:
        """Tell whether a channel is wanted."""
        return self._also(channel) and any(
            matches(channel.station_id, station)
            and any(matches(channel.location, loc) and matches(channel.channel, cha) for loc, cha in streams)
            for station, streams in self._streams.items()
        )

    def selectors(self, station: str, protocol: Protocol) -> tuple[str, ...]:
        """What to SELECT for one of `stations`; empty: everything.

        A server may do without: what arrives is looked at again.
        """
        selectors: list[str] = []
        for location, channel in self._streams[station]:
            codes = _three(channel)
            if codes is None or (location == "*" and codes == "???"):
                return ()
            if protocol == "4":
                selectors.append(f"{location}_{'_'.join(codes)}")
            elif location == "*":
                selectors.append(codes)
            else:
                selectors.append(f"{_two(location)}{codes}")
        return tuple(selectors)


def _three(channel: str) -> str | None:
    """A pattern for codes of three letters, each letter or `?`; None where there is none."""
    if "*" not in channel:
        return channel if len(channel) == _CHANNEL_CODE_LENGTH else None
    head, tail = channel.split("*", 1)[0], channel.rsplit("*", 1)[1]
    if channel.count("*") > 1 or len(head) + len(tail) > _CHANNEL_CODE_LENGTH:
        return None if channel.strip("*") else "???"
    return head + "?" * (_CHANNEL_CODE_LENGTH - len(head) - len(tail)) + tail


def _two(location: str) -> str:
    return "--" if not location else location.replace("*", "??")[:2].ljust(2, "?")
