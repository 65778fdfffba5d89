"""The command line. Each command is a module of `monitor.commands`; only the one that is asked for is loaded."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, NamedTuple

import typer


class _Command(NamedTuple):
    module: str
    summary: str


# In the order of `--help`. A module has a function, or a Typer called `app` for commands of its own, of that name.
_COMMANDS = {
    "replay": _Command("monitor.commands.replay", "Find earthquakes in recordings."),
    "explain": _Command("monitor.commands.explain", "Say why a moment of a recording was a detection, or was not."),
    "run": _Command("monitor.commands.run", "Listen to seismometers and say when there is an earthquake: the service."),
    "check": _Command("monitor.commands.check", "Say everything that is wrong with the settings."),
    "streams": _Command("monitor.commands.streams", "List what a SeedLink server has."),
    "serve": _Command("monitor.commands.serve", "Play recordings as a SeedLink server."),
    "demo": _Command("monitor.commands.demo", "See it work: real earthquakes, played into the service."),
    "model": _Command("monitor.commands.model", "What the model is, whether it runs here, and how fast."),
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"monitor {metadata.version('seismic-monitor')}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Says whether a seismometer's signal is an earthquake."""


def _not_loaded() -> None:
    raise AssertionError("a command that was not asked for was called")


def application(arguments: Sequence[str] | None = None) -> typer.Typer:
    """Make the application.

    Args:
        arguments: Of the command line: what they do not ask for is known by name and summary only. None: everything is
            loaded.
    """
    app = typer.Typer(name="monitor", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    app.callback()(_common)
    asked = None if arguments is None else next((word for word in arguments if not word.startswith("-")), "")
    for name, command in _COMMANDS.items():
        if asked not in {None, name}:
            app.command(name, help=command.summary)(_not_loaded)
            continue
        module = importlib.import_module(command.module)
        if hasattr(module, name):
            app.command(name)(getattr(module, name))
        else:
            app.add_typer(module.app, name=name)
    return app


def main() -> None:
    """Run the command line."""
    try:
        application(sys.argv[1:])()
    except BrokenPipeError:
        # The reader of the output has gone, as `| head` does; what Python flushes at exit would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        # While a command is still being loaded; from then on it is the command's own affair.
        sys.exit(130)


if __name__ == "__main__":
    main()
