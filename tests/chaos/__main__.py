"""Run the fault suite, or parts of it: `python -m tests.chaos --help`."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from monitor.model import Model
from tests.chaos.outcome import Ledger, Options, Outcome
from tests.chaos.report import write_report

PARTS = ("kill", "power", "network", "data", "fuzz", "resources", "soak", "crowd")
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
    os.environ["PYTHONFAULTHANDLER"] = "1"
    ledger, good = Ledger(wanted.ledger), True
    # Before anything is run: what is committed meanwhile was not tested.
    source = {"machine": _machine(), "commit": _commit(), "model": Model().ref.sha256[:8]}
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = wanted.keep or Path(temporary)
        for part in wanted.parts or PARTS:
            run: Callable[[Options], list[Outcome]] = import_module(f"tests.chaos.{part}").run
            began = time.monotonic()
            print(f"== {part}", flush=True)
            outcomes = run(Options(folder=folder / part, **chosen))
            about = {name: str(value) for name, value in chosen.items()} | source
            ledger.put(part, outcomes, seconds=time.monotonic() - began, about=about, keep=bool(wanted.only))
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


def _commit() -> str:
    """Which source this is; "+" where it differs from the commit."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"
    head, changed = (
        subprocess.run([git, *command], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        for command in (("rev-parse", "--short=8", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return head + "+" * bool(changed)


def _machine() -> str:
    return f"{platform.machine()}, Linux, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
