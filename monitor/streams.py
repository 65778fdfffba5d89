"""What a SeedLink server has: its stations and channels, from INFO of version 3 (XML) and 4 (JSON)."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from monitor.records import ChannelId
from monitor.settings import SeedLinkSettings
from monitor.sources.seedlink_payload import PayloadDecoder
from monitor.sources.seedlink_request import Protocol, Start, data_command, station_command
from monitor.sources.seedlink_session import ConnectionLostError, Session, open_session
from monitor.timebase import NS_PER_SECOND, parse_time

__all__ = ["ConnectionLostError", "Listing", "StreamRow", "collect_streams", "parse_streams"]

# INFO tells no sampling rates: they are read from packets, of stations that are not so far behind that a server with
# one queue for all would have to send everything since.
RECENT_NS = 600 * NS_PER_SECOND
LISTEN_MARGIN_NS = 5 * NS_PER_SECOND

_DATA = "D"
_FIELDS_4 = 4


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One channel.

    Attributes:
        channel_id: Which.
        first_ns: Time of the oldest sample that the server has, nanoseconds since the epoch; None: it does not tell.
        last_ns: Time of the newest.
        latency_s: How old that is, seconds.
        sampling_rate: Hertz; None where no packet came.
    """

    channel_id: ChannelId
    first_ns: int | None
    last_ns: int | None
    latency_s: float | None = None
    sampling_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A server and its channels.

    Attributes:
        server: Its label.
        software: What it calls itself.
        organization: Who runs it.
        protocol: Version that was spoken.
        rows: Sorted by their names.
    """

    server: str
    software: str
    organization: str
    protocol: Literal["3", "4"]
    rows: tuple[StreamRow, ...]


def parse_streams(content: dict[str, Any], protocol: Protocol) -> list[StreamRow]:
    """Read an answer to INFO STREAMS.

    Args:
        content: As `monitor.sources.seedlink_wire.parse_info` gives it.
        protocol: Version that it is of.

    Returns:
        The channels that hold data, sorted by their names; entries that make no sense are left out.
    """
    rows: dict[ChannelId, StreamRow] = {}
    for station in _objects(content.get("station")):
        for stream in _objects(station.get("stream")):
            row = _row_3(station, stream) if protocol == "3" else _row_4(station, stream)
            if row is None:
                continue
            known = rows.get(row.channel_id)
            # miniSEED 2 and 3 of one channel are two streams.
            rows[row.channel_id] = row if known is None else _joined(known, row)
    return [rows[channel_id] for channel_id in sorted(rows)]


async def collect_streams(
    settings: SeedLinkSettings, *, listen_s: float, clock: Callable[[], int] = time.time_ns
) -> Listing:
    """Ask a server what it has.

    Args:
        settings: Which server; its stations are not looked at.
        listen_s: How long at most to listen to packets for the sampling rates; 0: not.
        clock: This computer's time, nanoseconds since the epoch.

    Raises:
        ConnectionLostError: The server cannot be reached, or does not tell.
    """
    async with open_session(settings) as session:
        rows = parse_streams(await session.info("STREAMS"), session.hello.protocol)
        now_ns = clock()
        rows = [row if row.last_ns is None else _with_latency(row, now_ns) for row in rows]
        recent = _recent(rows, now_ns)
        rates: dict[ChannelId, float] = {}
        if listen_s > 0 and recent:
            try:
                async with asyncio.timeout(listen_s):
                    await _listen(session, recent, rates)
            except (TimeoutError, ConnectionLostError):
                pass  # what INFO told stands, and the rates that came
        hello = session.hello
    return Listing(
        server=settings.label,
        software=hello.software,
        organization=hello.organization,
        protocol=hello.protocol,
        rows=tuple(replace(row, sampling_rate=rates.get(row.channel_id)) for row in rows),
    )


def _recent(rows: Sequence[StreamRow], now_ns: int) -> list[StreamRow]:
    """Those not far behind the newest, which need not be of today."""
    lasts = [row.last_ns for row in rows if row.last_ns is not None]
    newest_ns = max((ns for ns in lasts if ns <= now_ns), default=max(lasts, default=0))
    return [row for row in rows if row.last_ns is not None and row.last_ns >= newest_ns - RECENT_NS]


async def _listen(session: Session, recent: Sequence[StreamRow], rates: dict[ChannelId, float]) -> None:
    """Note the sampling rate of each channel until all are known."""
    protocol = session.hello.protocol
    start_ns = min(row.last_ns for row in recent if row.last_ns is not None) - LISTEN_MARGIN_NS
    for station in sorted({row.channel_id.station_id for row in recent}):
        if (await session.command(station_command(station, protocol))).ok:
            await session.command(data_command(Start(None, start_ns), protocol))
    session.start()
    wanted = {row.channel_id for row in recent}
    decoder = PayloadDecoder(wanted.__contains__)
    while wanted - rates.keys():
        frame = await session.packet()
        if frame.fault is None:
            for segment in decoder.decode(frame.payload).segments:
                rates[segment.channel_id] = segment.sampling_rate


def _row_3(station: dict[str, Any], stream: dict[str, Any]) -> StreamRow | None:
    if stream.get("type", _DATA) != _DATA:
        return None
    codes = (station.get("network"), station.get("name"), stream.get("location", ""), stream.get("seedname"))
    return _row(codes, stream.get("begin_time"), stream.get("end_time"))


def _row_4(station: dict[str, Any], stream: dict[str, Any]) -> StreamRow | None:
    if stream.get("subformat", _DATA) != _DATA:
        return None
    network, _, code = str(station.get("id", "")).partition("_")
    parts = str(stream.get("id", "")).split("_")
    if len(parts) != _FIELDS_4:
        return None
    # Band, source and subsource of one letter each are a SEED channel.
    channel = "".join(parts[1:]) if all(len(part) == 1 for part in parts[1:]) else "_".join(parts[1:])
    return _row((network, code, parts[0], channel), stream.get("start_time"), stream.get("end_time"))


def _row(codes: tuple[Any, ...], first: Any, last: Any) -> StreamRow | None:
    network, station, location, channel = (str(code).strip() if code is not None else "" for code in codes)
    if not station or not channel:
        return None
    channel_id = ChannelId(network, station, location.strip("-"), channel)
    return StreamRow(channel_id, _time(first), _time(last))


def _time(text: Any) -> int | None:
    if not isinstance(text, str):
        return None
    try:
        return parse_time(text.strip().replace("/", "-"))
    except ValueError:
        return None


def _joined(one: StreamRow, two: StreamRow) -> StreamRow:
    firsts = [ns for ns in (one.first_ns, two.first_ns) if ns is not None]
    lasts = [ns for ns in (one.last_ns, two.last_ns) if ns is not None]
    return replace(one, first_ns=min(firsts, default=None), last_ns=max(lasts, default=None))


def _with_latency(row: StreamRow, now_ns: int) -> StreamRow:
    last_ns = row.last_ns if row.last_ns is not None else now_ns
    return replace(row, latency_s=(now_ns - last_ns) / NS_PER_SECOND)


def _objects(value: Any) -> Iterable[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
