"""Power cuts: of the outbox and the state file at every system call, and of the running service; and damaged files."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from monitor.outbox import Outbox
from monitor.outbox_message import Key
from monitor.settings import OutboxSettings
from monitor.state import STATE_FILE, StateError, read_state
from tests.chaos import recording
from tests.chaos.disk import CALLS, Disk, read_calls
from tests.chaos.outcome import Options, Outcome
from tests.chaos.service import Listener, compare, finals, finish, playing, start, unexpected
from tests.chaos.writer import T0, message
from tests.mosquitto import Mosquitto
from tests.programs import find_program
from tests.service import Monitor

OUTBOX = "outbox.sqlite"
Disturb = Callable[[Path, Monitor, np.random.Generator], None]
_MESSAGES = 20_000  # more than the writer makes


def run(options: Options) -> list[Outcome]:
    """All of them."""
    outcomes = [cuts(options), damage(options)]
    if not options.short:
        outcomes += [copies(options), damaged_service(options)]
    return outcomes


def cuts(options: Options) -> Outcome:
    """Cut the power at any system call, with any of the sectors written since the last fsync lost or torn."""
    outcome = Outcome(
        "power",
        "power cut at any system call, unsynced sectors lost or torn",
        "what was said to be on disk is there, whole; no state is ahead of its messages; nothing is damaged",
        unit="cuts",
    )
    strace = find_program("strace")
    if strace is None:
        outcome.note = "left out: strace is not installed"
        return outcome
    rng = np.random.default_rng(options.seed)
    state_folder = options.room("cuts") / "state"
    state_folder.mkdir()
    log = state_folder.parent / "calls"
    command = [strace, "-f", "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-o", str(log)]
    command += [sys.executable, "-m", "tests.chaos.writer", str(state_folder), str(options.seed)]
    steps = 60 if options.short else 500
    done = subprocess.run([*command, str(steps)], capture_output=True, text=True, check=False, cwd=_root())
    if done.returncode:
        outcome.note = f"left out: strace may not trace here: {done.stderr.strip()[-200:]}"
        return outcome
    with log.open() as lines:
        calls = list(read_calls(lines))
    # From the first call that concerns the folder on.
    first = next(n for n, call in enumerate(calls) if any(str(state_folder).encode() in text for text in call.texts))
    moments = np.sort(rng.integers(first, len(calls) + 1, options.crash_points))
    disk, applied = Disk(state_folder), 0
    for number, moment in enumerate(moments):
        for call in calls[applied:moment]:
            disk.apply(call)
        applied = int(moment)
        folder = state_folder.parent / f"cut{number}"
        folder.mkdir()
        for name, content in disk.cut(rng).items():
            (folder / name).write_bytes(content)
        problem, lost, again = check(folder, disk.said)
        outcome.runs += 1
        outcome.losses += lost
        outcome.duplicates += again
        if problem:
            outcome.fail(f"after {moment} calls: {problem}")
        shutil.rmtree(folder)
    outcome.note = f"over {len(calls) - first} system calls of {steps} steps"
    return outcome


def _root() -> Path:
    return Path(__file__).parents[2]


def check(folder: Path, said: list[str]) -> tuple[str, int, int]:
    """Look at what a restart finds: what is wrong with it, how many messages are lost, how many are sent again."""
    put = max((int(line.split()[1]) for line in said if line.startswith("put ")), default=0)
    sent = {int(number) for line in said if line.startswith("sent") for number in line.split()[1:]}
    problems = []
    outbox = Outbox(folder / OUTBOX, OutboxSettings(), clock=lambda: T0)
    problems += outbox.notices
    waiting = [queued.message for queued in outbox.next(_MESSAGES)]
    found = {int(m.payload.split()[0]) for m in waiting}
    problems += [f"message {m.key} is another" for m in waiting if m != message(int(m.payload.split()[0]))]
    lost = set(range(put)) - found - sent
    # What was sent while the disk failed is known to the broker only, and may be sent again.
    told = {number for number in range(put) if outbox.already_told(Key(f"id{number}", 0))} | sent
    if len(told) < put:
        problems.append(f"{put - len(told)} are not known to have been told")
    try:
        state = read_state(folder)
    except StateError as error:
        problems.append(str(error))
    else:
        ahead = 0 if state is None else state.instruments[0].needed_from_ns
        if not told >= set(range(ahead)):
            problems.append(f"the state is at {ahead}, and not all before it is in the outbox")
        saved = max((int(line.split()[1]) for line in said if line.startswith("saved ")), default=None)
        if saved is not None and (state is None or ahead < saved):
            problems.append(f"state {saved} was on disk, {ahead if state else 'none'} was found")
    outbox.close()
    return "; ".join(problems + ([f"lost {sorted(lost)[:9]}"] if lost else [])), len(lost), len(found & sent)


def damage(options: Options) -> Outcome:
    """Damage the files as a dying memory card does: cut short, bits flipped, sectors of zeros or of other data."""
    outcome = Outcome(
        "power",
        "outbox and state file cut short, bits flipped, sectors zeroed or replaced",
        "opened all the same; damage that shows is told, what is sound taken over; nothing is sent that was not put in",
        unit="damaged files",
    )
    rng = np.random.default_rng(options.seed + 1)
    folder = options.room("damage")
    original = folder / "original"
    original.mkdir()
    subprocess.run(
        [sys.executable, "-m", "tests.chaos.writer", str(original), "7", "150"],
        check=True,
        cwd=_root(),
        capture_output=True,
    )
    reference = Outbox(_copy(original, folder / "reference") / OUTBOX, OutboxSettings(), clock=lambda: T0)
    waiting = {queued.message for queued in reference.next(_MESSAGES)}
    reference.close()
    reported = altered = silent = 0
    for number in range(10 if options.short else 400):
        state = _copy(original, folder / f"state{number}")
        name = str(rng.choice(sorted(path.name for path in state.iterdir())))
        how = _spoil(state / name, rng)
        outcome.runs += 1
        try:
            outbox = Outbox(state / OUTBOX, OutboxSettings(), clock=lambda: T0)
            outbox.put(message(_MESSAGES))
            found = {queued.message for queued in outbox.next(_MESSAGES)}
            reported += bool(outbox.notices)
            # One that was sent already may come back with an older state of the file.
            strange = [m for m in found if m.key is None or m != message(int(m.key.detection_id[2:]))]
            altered += len(strange)
            if strange:
                outcome.fail(f"{how} {name}: {len(strange)} messages are not what was put in")
            # SQLite takes a damaged log for one that ends there: what came after it is gone, and nothing shows it.
            silent += 0 if outbox.notices else len(waiting - found)
            outcome.losses += len(waiting - found)
            if message(_MESSAGES) not in found:
                outcome.fail(f"{how} {name}: a new message is not offered")
            outbox.close()
            try:
                read_state(state)
            except StateError:
                reported += 1
            if read_state(state) is None and name != STATE_FILE:
                outcome.fail(f"{how} {name}: the state is gone")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what is looked for
            outcome.fail(f"{how} {name}: {type(error).__name__}: {error}")
        shutil.rmtree(state)
    outcome.note = (
        f"{reported} showed and were reported; {silent} of"
        f" {outcome.runs * len(waiting)} messages were gone without a trace, {altered} were not what was put in"
    )
    return outcome


def _copy(original: Path, to: Path) -> Path:
    shutil.copytree(original, to)
    return to


def _spoil(path: Path, rng: np.random.Generator) -> str:
    """Damage a file; say how."""
    content = bytearray(path.read_bytes())
    how = str(rng.choice(["cut short", "bits flipped in", "zeroed sectors of", "other data in", "emptied"]))
    size = len(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, size)))
        sector = at // 512 * 512
        match how:
            case "cut short":
                del content[at:]
            case "bits flipped in" if at < len(content):
                content[at] ^= 1 << int(rng.integers(0, 8))
            case "zeroed sectors of":
                content[sector : sector + 512] = bytes(len(content[sector : sector + 512]))
            case "other data in":
                content[sector : sector + 512] = rng.bytes(len(content[sector : sector + 512]))
            case "emptied":
                content.clear()
    path.write_bytes(content)
    return how


def copies(options: Options) -> Outcome:
    """Copy the state of the running service, go on for a while, and start again from the copy."""
    outcome = Outcome(
        "power",
        "the service's state as it was at a random moment, up to seconds before it was killed",
        "nothing is lost and no detection gets a new id; what was said since is said again",
        unit="copies",
    )

    def back(state: Path, monitor: Monitor, rng: np.random.Generator) -> None:
        # What is written, all of it, at one moment: nothing runs while it is copied.
        monitor.signal(signal.SIGSTOP)
        copy = state.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(state, copy)
        monitor.signal(signal.SIGCONT)
        time.sleep(float(rng.uniform(0, 2)))
        monitor.kill()
        shutil.rmtree(state)
        copy.rename(state)

    _disturbed(options, outcome, "copies", back)
    return outcome


def damaged_service(options: Options) -> Outcome:
    """Kill the service, damage one of its files, and start again."""
    outcome = Outcome(
        "power",
        "the service killed and one of its files damaged",
        "it starts and goes on; nothing is lost while the server still has the data; no detection gets a new id",
        unit="damaged files",
    )

    def spoil(state: Path, monitor: Monitor, rng: np.random.Generator) -> None:
        monitor.kill()
        files = sorted(
            path
            for path in state.iterdir()
            if path.is_file() and "corrupt" not in path.name and "damaged" not in path.name
        )
        if files:
            _spoil(files[int(rng.integers(len(files)))], rng)

    _disturbed(options, outcome, "spoilt", spoil)
    return outcome


def _disturbed(options: Options, outcome: Outcome, name: str, disturb: Disturb) -> None:
    whole = recording.make(6, end_ns=time.time_ns() - 600 * 10**9)
    expected = recording.replayed(whole)
    rng = np.random.default_rng(options.seed + 2)
    rounds = 0
    while outcome.runs < options.copies:
        rounds += 1
        folder = options.room(f"{name}{rounds}")
        with Mosquitto(folder / "broker") as broker, Listener(broker.port) as listener, playing(whole) as server:
            monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
            try:
                while outcome.runs < options.copies and listener.final_count < finals(expected):
                    start(monitor)
                    time.sleep(float(rng.uniform(0, 4)))
                    disturb(folder / "state", monitor, rng)
                    outcome.runs += 1
                start(monitor)
                problem = finish(monitor, listener, finals(expected))
            finally:
                monitor.kill()
            difference = compare(listener.detections, expected)
        outcome.losses += len(difference.missing)
        outcome.duplicates += difference.repeated
        if problem or difference or unexpected(monitor.log):
            outcome.fail(f"recording {rounds}: {problem}{difference}")
    outcome.note = f"{rounds} recordings, {finals(expected)} detections each"
