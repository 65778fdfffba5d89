"""`monitor check`: are the settings good, what can be set, and does everything answer."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from monitor.check import described, findings
from monitor.config import ConfigError, Reading, read

EXIT_FAILED = 1
EXIT_USAGE = 2

_SETTINGS = "settings"
# Short names of the contracts; the full one, "monitor.quality/1", is accepted too.
_CONTRACT_PREFIX = "monitor."


def check(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG", help="Settings file; only the environment without one. With --schema: which schema."
        ),
    ] = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Try the servers, the broker, the model and this computer, too.")
    ] = False,
    running: Annotated[
        bool, typer.Option("--running", help="With --connect: the monitor runs already, its ports are in use.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Print a settings file that explains every key, and exit.")
    ] = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON Schema of all messages, of one, or of the settings, and exit."),
    ] = False,
) -> None:
    """Say everything that is wrong with the settings, by file, line and key.

    Exit codes: 0 fine, 1 fine but --connect found something that does not work, 2 wrong usage or settings.
    """
    if reference + schema + connect > 1:
        _fail("--connect, --reference and --schema exclude each other", EXIT_USAGE)
    if running and not connect:
        _fail("--running goes with --connect", EXIT_USAGE)
    if reference:
        _print_reference()
    elif schema:
        _print_schema(config)
    else:
        reading = _read(Path(config) if config is not None else None)
        if connect:
            _connect(reading, running=running)


def _read(path: Path | None) -> Reading:
    """Read and judge the settings, and print what was found."""
    try:
        reading = read(path)
    except ConfigError as error:
        for problem in error.problems:
            _say(str(problem))
        _end(str(path or "settings"), len(error.problems))
    found = findings(reading)
    for finding in found:
        _say(str(finding))
    n_problems = sum(finding.severity == "problem" for finding in found)
    if n_problems:
        _end(reading.source, n_problems)
    _say(f"{reading.source}: fine")
    for name, lines in described(reading.settings).items():
        for line in lines:
            _say(f"  {name:9s} {line}")
    return reading


def _end(source: str, n_problems: int) -> NoReturn:
    _say(f"{source}: {n_problems} problem{'s' if n_problems > 1 else ''}")
    raise typer.Exit(EXIT_USAGE)


def _connect(reading: Reading, *, running: bool) -> None:
    # Sockets, TLS and the interpreter are loaded only by those who want them.
    from monitor.check_connect import Outcome, try_everything  # noqa: PLC0415

    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        _say(str(outcome))

    asyncio.run(try_everything(reading.settings, tell=tell, running=running))
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(EXIT_FAILED)


def _print_reference() -> None:
    from monitor.reference import reference  # noqa: PLC0415

    typer.echo(reference(), nl=False)


def _print_schema(wanted: str | None) -> None:
    """Print one schema; without a wish, all messages' by the name of their contract."""
    from monitor.messages import SCHEMAS  # noqa: PLC0415
    from monitor.reference import settings_schema  # noqa: PLC0415

    found: object
    if wanted is None:
        found = {name: make() for name, make in SCHEMAS.items()}
    elif wanted == _SETTINGS:
        found = settings_schema()
    else:
        short = {name.removeprefix(_CONTRACT_PREFIX).partition("/")[0]: make for name, make in SCHEMAS.items()}
        make = SCHEMAS.get(wanted) or short.get(wanted)
        if make is None:
            _fail(f"--schema {wanted}: no such schema; accepted: {', '.join([*short, _SETTINGS])}", EXIT_USAGE)
        found = make()
    typer.echo(json.dumps(found, indent=2))


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"monitor: {message}", err=True)
    raise typer.Exit(code)


def _say(text: str) -> None:
    """Print a line; what could steer a terminal, from a file or a server, is shown as a question mark."""
    typer.echo("".join(ch if ch.isprintable() else "?" for ch in text))
