"""What a client asks for: stations, streams, and from where on."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from monitor.playback.packets import stream_id
from monitor.playback.ring import Ring
from monitor.records import ChannelId
from monitor.timebase import parse_time

_STATION_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_*?")
_STREAM_CHARACTERS = _STATION_CHARACTERS | {"-"}
# Data and its subformat: all this server has.
_SUBFORMAT = "D"


class Selector(NamedTuple):
    """One pattern of SELECT, in the notation of SeedLink 4.

    Attributes:
        streams: Pattern of `LOC_B_S_SS`.
        formats: Pattern of the format and subformat, such as `2D`, matched at its beginning; "" for any.
        excluded: Whether it leaves out instead.
        version: Of miniSEED to convert to; None: as it is.
        converts: Whether a filter was given, `native` included.
    """

    streams: str
    formats: str
    excluded: bool
    version: int | None
    converts: bool

    def matches(self, channel_id: ChannelId, version: int) -> bool:
        """Whether the pattern, without its `!`, means this channel sent as miniSEED of this version."""
        return fnmatchcase(stream_id(channel_id), self.streams) and fnmatchcase(
            f"{version}{_SUBFORMAT}", self.formats + "*"
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted of the stations that match a pattern.

    Attributes:
        stations: Pattern of `NET_STA`.
        selectors: In the order given; none: every stream.
        sequence: Where to go on; None: with what comes next, or by time.
        everything: From the earliest packet held.
        start_ns: Start of the time asked for, nanoseconds since the epoch.
        end_ns: Its end.
    """

    stations: str
    selectors: tuple[Selector, ...] = ()
    sequence: int | None = None
    everything: bool = False
    start_ns: int | None = None
    end_ns: int | None = None

    def has_station(self, channel_id: ChannelId) -> bool:
        """Whether the channel's station matches."""
        return fnmatchcase(f"{channel_id.network}_{channel_id.station}", self.stations)

    def version_for(self, channel_id: ChannelId, native: int) -> int | None:
        """The version of miniSEED to send the channel as; None when it is not wanted."""
        matching = [selector for selector in self.selectors if selector.matches(channel_id, native)]
        if any(selector.excluded for selector in matching):
            return None
        wanted = [selector for selector in matching if not selector.excluded]
        if not wanted and any(not selector.excluded for selector in self.selectors):
            return None
        converting = next((selector for selector in wanted if selector.converts), None)
        return native if converting is None or converting.version is None else converting.version


@dataclass(frozen=True, slots=True)
class Request:
    """Everything a client asked for before its data started.

    Attributes:
        version: Of SeedLink, 3 or 4.
        dialup: Whether to end when what is held has been sent.
        selections: A station is served by the first that matches.
        user_agent: What the client said it is.
    """

    version: int
    dialup: bool
    selections: tuple[Selection, ...]
    user_agent: str = ""


class Wanted(NamedTuple):
    """A selection, and where in the ring it begins."""

    selection: Selection
    first: int
    by_time: bool


def place(selection: Selection, ring: Ring, *, version: int) -> Wanted:
    """Find where in the ring a selection begins, as ringserver 4.5 does.

    A sequence number that has left the ring gives new data only. Together with a time it counts only if the packet
    before it is held and starts at that time; otherwise the time decides.
    """
    if selection.sequence is not None:
        index = ring.index_of(selection.sequence, version=version)
        if selection.start_ns is None:
            return Wanted(selection, ring.end if index is None else index, by_time=False)
        if index is not None and ring.starts_near(index - 1, selection.start_ns):
            return Wanted(selection, index, by_time=False)
    if selection.start_ns is not None:
        return Wanted(selection, ring.index_after(selection.start_ns), by_time=True)
    return Wanted(selection, ring.first if selection.everything else ring.end, by_time=False)


def parse_selector(text: str, *, version: int) -> Selector:
    """Parse one pattern of SELECT.

    Args:
        text: SeedLink 3: `[!][LL]CCC[.T]`; SeedLink 4: `[!]LOC_B_S_SS[.format][:filter]`.
        version: Of SeedLink.

    Raises:
        ValueError: Not such a pattern.
    """
    body = text.removeprefix("!")
    excluded = body != text
    body, _, name = body.partition(":") if version == 4 else (body, "", "")
    if name and excluded:
        raise ValueError("a filter cannot be used with !")
    if name not in {"", "native", "3"}:
        raise ValueError(f"filter {name} is not supported")
    streams, _, formats = body.partition(".")
    if version == 3:
        streams, formats = _v3_streams(streams), ""  # all there is has the type D
        if body.partition(".")[2] not in {"", _SUBFORMAT, "?", "*"}:
            formats = "none"
    if not set(streams + formats) <= _STREAM_CHARACTERS:
        raise ValueError("illegal characters in the pattern")
    return Selector(streams or "*", formats, excluded, 3 if name == "3" else None, bool(name))


def _v3_streams(text: str) -> str:
    if len(text) == 5:
        return f"{text[:2].lstrip('-')}_{text[2]}_{text[3]}_{text[4]}"
    if len(text) == 3:
        return f"*_{text[0]}_{text[1]}_{text[2]}"
    if not text:
        return "*"
    raise ValueError("not an LLCCC or CCC pattern")


def parse_station(text: str) -> str:
    """Check a pattern of `NET_STA`.

    Raises:
        ValueError: It has characters that no station has.
    """
    if not text or not set(text) <= _STATION_CHARACTERS:
        raise ValueError("illegal characters in the station")
    return text


def parse_seedlink_time(text: str) -> int:
    """Parse `year,month,day,hour,minute,second` of SeedLink 3, or ISO 8601.

    Returns:
        Nanoseconds since the epoch.

    Raises:
        ValueError: Neither of the two.
    """
    if "," not in text:
        return parse_time(text)
    fields = text.split(",")
    if len(fields) > 6:
        raise ValueError(f"not a time: {text!r}; expected year,month,day,hour,minute,second")
    year, month, day, hour, minute = (int(part) for part in (fields + ["1", "1", "0", "0"][len(fields) - 1 :])[:5])
    second, _, fraction = (fields[5] if len(fields) == 6 else "0").partition(".")
    decimals = f".{fraction[:9]}" if fraction else ""
    return parse_time(f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{int(second):02d}{decimals}")
