"""`monitor demo`: everything at once, on one computer, with real earthquakes."""

import asyncio
import os
import signal
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, TextIO

import typer

from monitor.commands.common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail
from monitor.demo import ports
from monitor.demo.broker import BrokerUnavailableError, require_amqtt
from monitor.demo.recording import RecordingError, shipped_files
from monitor.demo.screen import wants_color
from monitor.demo.show import Demo, DemoError, Plan
from monitor.output import OutputClosedError, OutputError, open_output
from monitor.playback.recording import NoDataError
from monitor.settings import PageSettings
from monitor.sources.problems import Problem

_PORTS = "Where things listen (a free port each, unless named)"
_ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})


def _port(text: str) -> typer.models.OptionInfo:
    option = typer.Option(metavar="PORT", min=1, max=65535, help=text, rich_help_panel=_PORTS)
    assert isinstance(option, typer.models.OptionInfo)
    return option


def demo(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Recordings; those of four stations that ObsPy ships without any."),
    ] = None,
    speed: Annotated[float, typer.Option(metavar="X", min=1.0, max=1000.0, help="Multiple of real time.")] = 6.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="After the summary go on in real time, again and again, until Ctrl-C.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Show the station page in a browser.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Leave the daemon's archive (pictures, waveforms), log and settings there."),
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Let the daemon draw each event.")] = True,
    listen: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Of the station page; 0.0.0.0 for the network.", rich_help_panel=_PORTS),
    ] = "127.0.0.1",
    page_port: Annotated[int | None, _port("Of the station page.")] = None,
    metrics_port: Annotated[int | None, _port("Of metrics and health.")] = None,
    mqtt_port: Annotated[int | None, _port("Of the MQTT broker.")] = None,
    seedlink_port: Annotated[int | None, _port("Of the SeedLink server.")] = None,
) -> None:
    """See it work: real earthquakes, played into the daemon, as they come out of a broker.

    Starts `monitor serve`, an MQTT broker, `monitor run` and a subscriber; prints each message as it arrives and, at
    the end, what was found and what it cost. Exit codes: 0 done, 1 something failed or no earthquake was found, 2 wrong
    usage, 130 interrupted.
    """
    try:
        require_amqtt()
        chosen = files or shipped_files()
        free = ports.choose(
            page=page_port,
            metrics=metrics_port,
            mqtt=mqtt_port,
            seedlink=seedlink_port,
            page_host=listen,
            usual_page=PageSettings().port or 0,
        )
    except (BrokerUnavailableError, RecordingError, ports.PortTakenError) as error:
        fail(str(error), EXIT_USAGE)
    plan = Plan(
        files=chosen,
        speed=speed,
        keep=keep,
        ports=free,
        listen=listen,
        page_host=_reached_by(listen),
        open_page=_open_browser if open_page else None,
        output=output,
        pictures=pictures,
    )
    code = EXIT_INTERRUPTED
    try:
        with open_output(None) as stream:
            code = asyncio.run(_run(plan, stream))
    except OutputClosedError:
        raise typer.Exit(0) from None
    except OutputError as error:
        fail(str(error), EXIT_FAILED)
    except (NoDataError, RecordingError, DemoError) as error:
        fail(str(error), EXIT_FAILED)
    if code == EXIT_INTERRUPTED:
        print("monitor: interrupted; everything that was started has ended", file=sys.stderr)
    raise typer.Exit(code)


async def _run(plan: Plan, stream: TextIO) -> int:
    """Run the demo; a signal ends it in order, a second one in a hurry."""

    def on_problem(problem: Problem) -> None:
        print(f"monitor: {problem}", file=sys.stderr, flush=True)

    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await Demo(plan, stream, color=wants_color(stream), on_problem=on_problem).run()
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED


def _reached_by(listen: str) -> str:
    """The address that a browser is told: of this computer in its network, where the page is on all of them."""
    if listen not in _ANY_ADDRESS:
        return listen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737; nothing is sent, the system only chooses a way
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


def _open_browser(url: str) -> str | None:
    """Open a browser; say so where there is none that would not take the terminal."""
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    try:
        opened = bool(has_screen) and webbrowser.open(url)
    except webbrowser.Error:
        opened = False
    return None if opened else f"no browser to open here; the page is at {url}"
