"""Run the fault suite, or parts of it: `python -m tests.chaos --help`."""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from tests.chaos.outcome import Ledger, Options, Outcome
from tests.chaos.report import write_report

PARTS = ("kill", "power", "network", "data", "fuzz", "resources", "soak")
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run what was asked for; 0 where every promise held."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(PARTS)}; all unless given")
    parser.add_argument("--ledger", type=Path, default=ROOT / "build/chaos/results.json", help="where results are kept")
    parser.add_argument("--report", type=Path, help="write the report there, such as docs/reliability.md")
    parser.add_argument(
        "--keep", type=Path, help="a new folder for logs and states, which stay; temporary unless given"
    )
    for option in fields(Options):
        if option.name not in {"folder", "short"}:
            kind = type(option.default)
            parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=option.default)
    wanted = parser.parse_args()
    unknown = set(wanted.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    chosen = {f.name: getattr(wanted, f.name) for f in fields(Options) if hasattr(wanted, f.name)}
    ledger, good = Ledger(wanted.ledger), True
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = wanted.keep or Path(temporary)
        for part in wanted.parts or PARTS:
            run: Callable[[Options], list[Outcome]] = import_module(f"tests.chaos.{part}").run
            began = time.monotonic()
            print(f"== {part}", flush=True)
            outcomes = run(Options(folder=folder / part, **chosen))
            about = {name: str(value) for name, value in chosen.items()} | {"machine": _machine()}
            ledger.put(part, outcomes, seconds=time.monotonic() - began, about=about)
            for outcome in outcomes:
                good &= outcome.held
                print(
                    f"{'holds ' if outcome.held else 'BROKEN'} {outcome.fault}: {outcome.runs} {outcome.unit},"
                    f" {outcome.losses} lost, {outcome.duplicates} twice. {outcome.note}",
                    flush=True,
                )
                for detail in outcome.details:
                    print(f"       {detail}", flush=True)
    if wanted.report is not None:
        write_report(wanted.report, ledger)
    return 0 if good else 1


def _machine() -> str:
    return f"{platform.machine()}, Linux, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
