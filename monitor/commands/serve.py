"""`monitor serve`: a SeedLink server that plays recordings, for demos, for training operators and for tests."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from monitor.commands.common import EXIT_FAILED, EXIT_USAGE, fail
from monitor.playback.faults import NEVER, Faults, When, parse_when
from monitor.playback.protocol import Access
from monitor.playback.recording import NoDataError, Recording
from monitor.playback.server import PlaybackServer, PlaybackSettings, tls_context
from monitor.sources.problems import Problem
from monitor.stations import station_filter
from monitor.timebase import format_time

_FAULTS = "Faults on request (WHEN: 50,80 or every:20 or 1%)"


def _fault(text: str) -> typer.models.OptionInfo:
    option = typer.Option(metavar="WHEN", help=text, rich_help_panel=_FAULTS)
    assert isinstance(option, typer.models.OptionInfo)
    return option


def serve(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Recordings (whatever `monitor replay` reads) or directories.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 for any that is free.")] = 18000,
    speed: Annotated[float, typer.Option(metavar="X", help="Multiple of real time; inf is --fast.")] = 1.0,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as the clients take it.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Move the recording in time: it happens now.")] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end, later in time.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when all has been played and sent.")] = False,
    preload: Annotated[
        float, typer.Option(metavar="SECONDS", help="So much of it can be asked for from the start; inf: all of it.")
    ] = 0.0,
    wait: Annotated[int, typer.Option(metavar="N", min=0, help="Wait until so many clients want data.")] = 0,
    stations: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these, such as UH1 or 'BW.UH*'; may be repeated.")
    ] = None,
    packet: Annotated[float, typer.Option(metavar="SECONDS", help="Length of a packet.")] = 1.0,
    ring_mb: Annotated[
        float, typer.Option("--ring", metavar="MB", min=0.01, max=1e6, help="What clients can still ask for.")
    ] = 64.0,
    first_sequence: Annotated[int, typer.Option(metavar="N", min=0, help="Number of the first packet.")] = 1,
    protocol: Annotated[
        list[int] | None, typer.Option(min=3, max=4, help="Version of SeedLink, 3 or 4; both without it.")
    ] = None,
    miniseed: Annotated[int, typer.Option(min=2, max=3, help="Version of miniSEED, for SeedLink 4 clients.")] = 2,
    tls_cert: Annotated[Path | None, typer.Option(metavar="PEM", help="Certificate: speak TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key, if in another file.")] = None,
    user: Annotated[
        list[str] | None, typer.Option(metavar="NAME:PASSWORD", help="Ask for it (SeedLink 4); may be repeated.")
    ] = None,
    token: Annotated[list[str] | None, typer.Option(metavar="JWT", help="Ask for it; may be repeated.")] = None,
    drop: Annotated[str | None, _fault("The packet is lost.")] = None,
    duplicate: Annotated[str | None, _fault("The packet comes twice.")] = None,
    reorder: Annotated[str | None, _fault("The packet comes after the next one.")] = None,
    back: Annotated[str | None, _fault("The packet comes again, an hour back in time.")] = None,
    future: Annotated[str | None, _fault("The packet comes again, an hour in the future.")] = None,
    corrupt: Annotated[str | None, _fault("The samples of the packet are damaged.")] = None,
    reset: Annotated[str | None, _fault("Sequence numbers start again at 1; connections are closed.")] = None,
    stall: Annotated[str | None, _fault("Silence after so many packets sent.")] = None,
    cut: Annotated[str | None, _fault("Closed in the middle of the packet after them.")] = None,
    hang: Annotated[str | None, _fault("Silence in the middle of the packet after them.")] = None,
    garble: Annotated[str | None, _fault("Something that is no packet after them.")] = None,
    stall_s: Annotated[
        float | None,
        typer.Option("--stall-for", metavar="SECONDS", help="Length of --stall.", rich_help_panel=_FAULTS),
    ] = None,
    refuse: Annotated[
        list[str] | None, typer.Option(metavar="NET_STA", help="Refuse the station.", rich_help_panel=_FAULTS)
    ] = None,
    refuse_connections: Annotated[
        int, typer.Option(metavar="N", min=0, help="Close so many connections at once.", rich_help_panel=_FAULTS)
    ] = 0,
    unanswered: Annotated[
        list[str] | None, typer.Option(metavar="COMMAND", help="Never answer it.", rich_help_panel=_FAULTS)
    ] = None,
    omit_end: Annotated[bool, typer.Option("--omit-end", help="Never send END.", rich_help_panel=_FAULTS)] = False,
    trickle: Annotated[
        float | None, typer.Option(metavar="BYTES_S", help="Send this slowly.", rich_help_panel=_FAULTS)
    ] = None,
    seed: Annotated[int, typer.Option(help="For shares.", rich_help_panel=_FAULTS)] = 0,
) -> None:
    """Play recordings as a SeedLink server.

    In real time, on port 18000 of this computer only, unless told otherwise. Ends on Ctrl-C or SIGTERM. Exit codes:
    0 done, 1 nothing to play or cannot listen, 2 wrong usage.
    """
    if once and loop:
        fail("--once and --loop exclude each other", EXIT_USAGE)
    if tls_key is not None and tls_cert is None:
        fail("--tls-key needs --tls-cert", EXIT_USAGE)
    try:
        faults = Faults(
            drop=_when("drop", drop),
            duplicate=_when("duplicate", duplicate),
            reorder=_when("reorder", reorder),
            back=_when("back", back),
            future=_when("future", future),
            corrupt=_when("corrupt", corrupt),
            reset=_when("reset", reset),
            stall=_when("stall", stall),
            cut=_when("cut", cut),
            hang=_when("hang", hang),
            garble=_when("garble", garble),
            stall_s=stall_s,
            refuse_stations=tuple(refuse or ()),
            refuse_connections=refuse_connections,
            unanswered=frozenset(unanswered or ()),
            omit_end=omit_end,
            trickle_bytes_s=trickle,
            seed=seed,
        )
        settings = PlaybackSettings(
            speed=None if fast or speed == float("inf") else speed,
            shift_to_now=now,
            loop=loop,
            packet_s=packet,
            preload_s=preload,
            wait_for_clients=wait,
            ring_bytes=round(ring_mb * 1024 * 1024),
            first_sequence=first_sequence,
            miniseed=miniseed,
            versions=tuple(protocol or (3, 4)),
            access=Access(users=tuple(_user(text) for text in user or ()), tokens=tuple(token or ())),
            tls=tls_context(tls_cert, tls_key) if tls_cert is not None else None,
            faults=faults,
        )
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    except OSError as error:
        fail(f"--tls-cert, --tls-key: {error.strerror or error}", EXIT_USAGE)
    recording = _recording(files, [part for option in stations or [] for part in option.split(",") if part])
    try:
        asyncio.run(_serve(recording, settings, host=host, port=port, once=once))
    except (OSError, ValueError) as error:  # a file that has gone, or what cannot be sent as miniSEED
        fail(str(error), EXIT_FAILED)


def _when(name: str, text: str | None) -> When:
    try:
        return NEVER if text is None else parse_when(text)
    except ValueError as error:
        fail(f"--{name}: {error}", EXIT_USAGE)


def _user(text: str) -> tuple[str, str]:
    name, colon, password = text.partition(":")
    if not (name and colon and password) or " " in text:
        raise ValueError("--user is not NAME:PASSWORD without spaces")
    return name, password


def _recording(files: list[str], patterns: list[str]) -> Recording:
    def on_problem(problem: Problem) -> None:
        print(f"monitor: {problem}", file=sys.stderr, flush=True)

    try:
        recording = Recording.from_files(files, select=station_filter(patterns), on_problem=on_problem)
        next(recording.packets(1.0))
    except NoDataError as error:
        fail(f"{error}{': nothing matches --stations' if patterns else ''}", EXIT_FAILED)
    except ValueError as error:
        fail(str(error), EXIT_FAILED)
    return recording


async def _serve(recording: Recording, settings: PlaybackSettings, *, host: str, port: int, once: bool) -> None:
    stopped = False
    server = PlaybackServer(recording, settings, host=host, port=port)

    def stop() -> None:
        nonlocal stopped
        stopped = True
        server.note_progress()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as error:
            fail(f"cannot listen on {host} port {port}: {error.strerror or error}", EXIT_FAILED)
        print("\n".join(_about(recording, settings, host=host, port=server.port)), flush=True)
        if once:
            await server.wait_until(lambda: stopped or server.finished)
            await server.wait_until(lambda: stopped or server.all_sent)
        else:
            await server.wait_until(lambda: stopped)
    print(f"{server.packets_sent} packets sent on {server.connections_made} connections", flush=True)


def _about(recording: Recording, settings: PlaybackSettings, *, host: str, port: int) -> list[str]:
    versions = " and ".join(str(version) for version in sorted(settings.versions))
    security = (", TLS" if settings.tls is not None else "") + (", AUTH" if settings.access.required else "")
    stations = sorted({channel.station_id for channel in recording.channels})
    names = ", ".join(stations[:10]) + (", …" if len(stations) > 10 else "")
    speed = "as fast as clients take it" if settings.speed is None else f"at {settings.speed:g} times real time"
    more = [word for word, on in (("moved to now", settings.shift_to_now), ("again and again", settings.loop)) if on]
    lines = [
        f"SeedLink {versions}{security} on {host} port {port}",
        f"{len(recording.channels)} channels of {names}",
        f"{format_time(recording.first_ns, digits=0)} to {format_time(recording.end_ns, digits=0)}, "
        + ", ".join([speed, *more]),
    ]
    faults = settings.faults.describe()
    return [*lines, *([f"with faults: {', '.join(faults)}"] if faults else [])]
