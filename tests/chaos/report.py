"""The report: `docs/reliability.md`."""

from pathlib import Path

from tests.chaos.outcome import Ledger, Outcome

_TITLES = {
    "kill": "Ended at any moment",
    "power": "Power cuts and damaged files",
    "network": "Network, servers and brokers",
    "data": "Data and clocks",
    "fuzz": "Bytes that nobody should send",
    "resources": "Too little of everything",
    "soak": "Long runs",
    "crowd": "Many channels",
}
_HEAD = """# Reliability

What is promised, how it was broken on purpose, and what came of it. `make chaos` makes this page
(`CHAOS_ARGS="--report docs/reliability.md"`); the numbers are those of the runs named below each heading. Each part can
be run by itself (`CHAOS_ARGS="kill --kills 500 --seed 2"`), longer, or with other chance; the page holds the last run
of each. A part of each is in `make test`.

*Losses* are detections, revisions or messages that a subscriber should have had and never got; *twice* is what came
again: messages are delivered at least once, and a receiver tells a repetition by `id` and `revision`. The recordings
are those of two larger and some small earthquakes at four stations, joined again and again.
"""
_NOT_COVERED = """
## What is not covered

- A disk that says that data are safe before they are. If the outbox's write-ahead log is lost or cut after it was
  confirmed, SQLite takes it for one that ends there: messages that no broker had yet are gone, and nothing shows it
  (the count is in the table of damaged files). Damage within the outbox's pages and messages does show: it is told, the
  file is set aside, and what is sound is sent.
- Messages that wait in memory because the disk fails are lost if the process is killed before the disk works again.
  Positions are not saved meanwhile, so the server is asked for the data again, as far back as it has them.
- What the SeedLink server no longer has when the service comes back is lost, and told as a hole. Where the server that
  plays is reset in combination with other faults, it keeps what it had.
- An outage of data of more than `[live] end_of_data_s` within an earthquake ends that detection; what comes afterwards
  does not make it whole again.
- Where this computer's clock is not kept (its kernel says so), data from the future are believed: a recorder that sends
  such data again and again can make a channel deaf until its right data have come for five minutes. That fault of
  `monitor serve` is therefore tried with a clock of the suite's own, not in combination.
- `drop` and `corrupt` of `monitor serve` take data away, so that nothing can be alike: tests of their own look at them.
- A component whose records hold more than two minutes (20 samples per second in records of 4096 bytes) is not waited
  for to the end.
- Combinations hold every pair of faults, not every three or more.
- A torn SeedLink 3 packet is skipped and counted; it is asked for again only where the data stop after it.
- No dropped frames, corrupted bytes on the wire or reordering below TCP; no broken memory; no other broker than
  mosquitto and a scripted one; no second SeedLink server but `monitor serve`; no file system but those that the suite
  ran on: power cuts are computed from the system calls, not made.
- Long runs are long in their data, not in days: what grows with time alone does not show. They are noise made by
  computer with recorded earthquakes, the same hour again and again, in records of 4096 bytes; no picture is drawn of
  what is archived, and nobody looks at the page.
- Fuzzing does not reach what the model's interpreter, SQLite, TLS or the libraries' C code do with bytes beyond what
  passes through this program's readers; a damaged model is loaded in a process of its own, some dozen times only.
- No run was longer than the scale that its row states.
"""


def write_report(path: Path, ledger: Ledger) -> None:
    """Write what is known of all parts."""
    commits = {known["about"].get("commit", "unknown") for known in ledger.parts.values()}
    same = "All parts were run on one state of the source." if len(commits) == 1 else "Not all parts are of one state."
    lines = [_HEAD, f"\n{same}\n"]
    for part, title in _TITLES.items():
        if part not in ledger.parts:
            lines.append(f"\n## {title}\n\nNot run.\n")
            continue
        known = ledger.parts[part]
        minutes = known["seconds"] / 60
        lines.append(
            f"\n## {title}\n\n`{part}`, seed {known['about']['seed']}, {known['date']}, {minutes:.0f} min, commit"
            f" {known['about'].get('commit', 'unknown')}, model {known['about'].get('model', 'unknown')},"
            f" {known['about']['machine']}.\n\n| fault | promise | tried | losses | twice | held |\n"
            "|---|---|---|---|---|---|\n"
        )
        lines += [_row(outcome) for outcome in ledger.outcomes(part)]
    path.write_text("".join(lines) + _NOT_COVERED)


def _row(outcome: Outcome) -> str:
    held = "yes" if outcome.held else f"no: {outcome.broken} of {outcome.runs}" if outcome.runs else "not run"
    fault = outcome.fault + (f" ({outcome.note})" if outcome.note else "")
    cells = (fault, outcome.promise, f"{outcome.runs:,} {outcome.unit}", outcome.losses, outcome.duplicates, held)
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |\n"
