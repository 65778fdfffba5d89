"""The report: `docs/reliability.md`."""

from pathlib import Path

from tests.chaos.outcome import Ledger


def write_report(path: Path, ledger: Ledger) -> None:
    """Write what is known of all parts."""
    lines = ["# Reliability", ""]
    for part in ledger.parts:
        for outcome in ledger.outcomes(part):
            lines.append(f"| {outcome.fault} | {outcome.promise} | {outcome.runs} {outcome.unit} | {outcome.losses} | {outcome.duplicates} |")
    path.write_text("\n".join(lines) + "\n")
