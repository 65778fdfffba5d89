"""`monitor streams`: what a SeedLink server has, as a table or JSON."""

import asyncio
import enum
import re
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from monitor.output import printable
from monitor.settings import SeedLinkSettings
from monitor.streams import ConnectionLostError, Listing, StreamRow, collect_streams
from monitor.timebase import format_time

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TEMPORARY = 75

# What another attempt may well get past.
_TEMPORARY = frozenset({"refused", "dns", "timeout", "stall", "closed"})

_SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^:\[\]\s]+))(?::(?P<port>\d{1,5}))?")
_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0


class Version(enum.StrEnum):
    """Which SeedLink to speak."""

    AUTO = "auto"
    THREE = "3"
    FOUR = "4"


def streams(
    server: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="Port 18000, or 18500 with --tls, by default.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    version: Annotated[Version, typer.Option(help="Protocol; auto takes 4 where it is spoken.")] = Version.AUTO,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Authorities to trust instead of the system's.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Log in with this name; needs --password-file.")] = None,
    password_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Password, its first line.")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Log in with the token in it.")] = None,
    timeout: Annotated[float, typer.Option(metavar="S", help="Longest wait for the server, seconds.")] = 10.0,
    listen: Annotated[
        float, typer.Option(metavar="S", min=0.0, help="Longest wait for packets that tell sampling rates, seconds.")
    ] = 5.0,
) -> None:
    """List what a SeedLink server has.

    Station, channel, first and last time of the data, how old the last is, and the sampling rate where a packet tells.
    Exit codes: 0 done, 1 the server has nothing or refuses, 2 wrong usage, 75 the server cannot be reached just now.
    """
    settings = _settings(
        server,
        version=version,
        tls=tls or ca_file is not None,
        ca_file=ca_file,
        user=user,
        password_file=password_file,
        token_file=token_file,
        timeout_s=timeout,
    )
    try:
        listing = asyncio.run(collect_streams(settings, listen_s=listen))
    except ConnectionLostError as error:
        _fail(f"{settings.label}: {printable(error.detail)}", EXIT_TEMPORARY if error.reason in _TEMPORARY else 1)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(_json(listing))).decode())
    else:
        _print_table(listing)
    if not listing.rows:
        _fail(f"{settings.label} has no data", EXIT_FAILED)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"monitor: {message}", err=True)
    raise typer.Exit(code)


def _settings(
    server: str,
    *,
    version: Version,
    tls: bool,
    ca_file: Path | None,
    user: str | None,
    password_file: Path | None,
    token_file: Path | None,
    timeout_s: float,
) -> SeedLinkSettings:
    match = _SERVER.fullmatch(server)
    if match is None:
        _fail(f"HOST[:PORT] is {printable(server)}; accepted: such as localhost:18000 or [::1]:18000", EXIT_USAGE)
    try:
        return SeedLinkSettings(
            host=match["six"] or match["host"],
            port=int(match["port"]) if match["port"] is not None else None,
            stations=["*.*"],
            version=version.value,
            tls=tls,
            ca_file=str(ca_file) if ca_file is not None else None,
            user=user,
            password_file=str(password_file) if password_file is not None else None,
            token_file=str(token_file) if token_file is not None else None,
            connect_timeout_s=timeout_s,
            stall_timeout_s=max(timeout_s, 0.5),
        )
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)


def _print_table(listing: Listing) -> None:
    software = f"{listing.software}, {listing.organization}, SeedLink {listing.protocol}"
    typer.echo(f"{listing.server}: {printable(software)}", err=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Station", "Loc", "Channel"):
        table.add_column(name, no_wrap=True)
    for name in ("First", "Last", "Latency", "Rate"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in listing.rows:
        channel = row.channel_id
        table.add_row(
            *(printable(text) for text in (channel.station_id, channel.location or "--", channel.channel)),
            _time(row.first_ns),
            _time(row.last_ns),
            _duration(row.latency_s),
            f"{row.sampling_rate:g} Hz" if row.sampling_rate is not None else "–",
        )
    # In a pipe there is no width to fit into.
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=140)
    console.print(table)


def _time(time_ns: int | None) -> str:
    return format_time(time_ns, digits=1) if time_ns is not None else "–"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for limit, unit, name in ((_MINUTE_S, 1.0, "s"), (_HOUR_S, _MINUTE_S, "min"), (_DAY_S, _HOUR_S, "h")):
        if abs(seconds) < 2 * limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / _DAY_S:.1f} d"


def _json(listing: Listing) -> dict[str, object]:
    return {
        "server": listing.server,
        "software": listing.software,
        "organization": listing.organization,
        "protocol": listing.protocol,
        "streams": [_json_row(row) for row in listing.rows],
    }


def _json_row(row: StreamRow) -> dict[str, object]:
    return {
        "seed_id": row.channel_id.seed_id,
        "station": row.channel_id.station_id,
        "location": row.channel_id.location,
        "channel": row.channel_id.channel,
        "first": format_time(row.first_ns) if row.first_ns is not None else None,
        "last": format_time(row.last_ns) if row.last_ns is not None else None,
        "latency_s": row.latency_s,
        "sampling_rate": row.sampling_rate,
    }
