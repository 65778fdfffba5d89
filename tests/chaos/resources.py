"""Too little of everything: disk, rights, descriptors, memory, processor."""

import asyncio
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from monitor.packetqueue import PacketQueue
from monitor.records import ChannelId, Detection, Packet, Segment
from monitor.timebase import NS_PER_SECOND
from tests.chaos import recording
from tests.chaos.outcome import Options, Outcome
from tests.chaos.power import check
from tests.chaos.service import Listener, compare, finals, finish, playing, start, unexpected
from tests.mosquitto import Mosquitto
from tests.programs import find_program
from tests.service import Monitor

PROMISE = "nothing is lost, nothing gets a new id; what fails is told"
_FAULTED = "pwrite64,write,fsync,fdatasync,ftruncate,openat,rename"
_ROOT = Path(__file__).parents[2]


def run(options: Options) -> list[Outcome]:
    """All of it."""
    found = [full_at_each_write(options), starved(options)]
    if options.short:
        return found
    whole = recording.make(3, end_ns=time.time_ns() - 600 * NS_PER_SECOND)
    expected = recording.replayed(whole)
    found += [tried(options, name, whole, expected) for name in TRIALS]
    return found


def full_at_each_write(options: Options) -> Outcome:
    """Let the N-th system call that writes, and some after it, fail with "no space left on device"; each N."""
    outcome = Outcome(
        "resources", "disk full at the N-th write, sync, cut or rename, for one call or some",
        "what was put is on disk as soon as the disk works again; nothing is lost, nothing is damaged",
        unit="faults",
    )  # fmt: skip
    strace = find_program("strace")
    if strace is None:
        outcome.note = "left out: strace is not installed"
        return outcome
    rng = np.random.default_rng(options.seed)
    folder = options.room("full")
    most = 5 if options.short else 60
    for number in range(most):
        state = folder / f"state{number}"
        state.mkdir()
        # The first calls open the files; later ones are all alike.
        first = number + 1 if number < most // 2 else int(rng.integers(most // 2, 1500))
        last = first + int(rng.choice([0, 0, 3, 40]))
        command = [strace, "-f", "-o", "/dev/null", *_paths(state)]
        command += ["-e", f"inject={_FAULTED}:error=ENOSPC:when={first}..{last}"]
        command += [sys.executable, "-m", "tests.chaos.writer", str(state), str(number), "40"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
        outcome.runs += 1
        problem, lost, again = check(state, done.stdout.splitlines())
        outcome.losses += lost
        outcome.duplicates += again
        if problem or done.returncode:
            outcome.fail(f"calls {first} to {last}: exit code {done.returncode} {done.stderr[-300:]} {problem}")
        shutil.rmtree(state)
    return outcome


def _paths(state: Path) -> list[str]:
    names = ("outbox.sqlite", "outbox.sqlite-wal", "outbox.sqlite-journal", "positions.json", "positions.json.new")
    return [word for name in names for word in ("-P", str(state / name))]


# Begins a lack, and gives what ends it.
Trial = Callable[[Monitor, Path, Mosquitto], Callable[[], None]]


def _limited(kind: int, amount: Callable[[int], int]) -> Trial:
    """Limit the running process."""

    def begin(monitor: Monitor, _state: Path, _broker: Mosquitto) -> Callable[[], None]:
        assert monitor.process is not None
        pid = monitor.process.pid
        before = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (amount(pid), before[1]))

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, kind, before)

        return end

    return begin


def _no_descriptors(monitor: Monitor, state: Path, broker: Mosquitto) -> Callable[[], None]:
    """None is left, and then the broker closes the connection: no new one can be made."""
    # One that has just ended has none any more.
    end = _limited(resource.RLIMIT_NOFILE, lambda pid: max(0, len(os.listdir(f"/proc/{pid}/fd")) - 2))(  # noqa: PTH208
        monitor, state, broker
    )
    broker.stop()
    broker.start()
    return end


def _address_space(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize() + (2 << 20)


def _full_disk(_monitor: Monitor, state: Path, _broker: Mosquitto) -> Callable[[], None]:
    filler = state / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as stream:
        while True:
            stream.write(bytes(4096))
            stream.flush()
    return lambda: filler.unlink(missing_ok=True)


def _read_only(monitor: Monitor, state: Path, _broker: Mosquitto) -> Callable[[], None]:
    """As after an error of the file system, found at a start: what is open for writing keeps a disk from that."""

    def mount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(state)], check=True, capture_output=True)

    monitor.kill()
    mount("ro")
    monitor.start()
    return lambda: mount("rw")


TRIALS: dict[str, Trial] = {
    "disk full": _full_disk,
    "state directory read-only": _read_only,
    "out of descriptors": _no_descriptors,
    "out of memory (address space)": _limited(resource.RLIMIT_AS, _address_space),
    "file size limited": _limited(resource.RLIMIT_FSIZE, lambda _: 8192),
}


def tried(options: Options, name: str, whole: list[Segment], expected: dict[recording.Key, Detection]) -> Outcome:
    """Lack something for some seconds, several times; what ends by itself is started again, as systemd does."""
    outcome = Outcome("resources", f"{name}, for some seconds, again and again", PROMISE, unit="times")
    rng = np.random.default_rng(options.seed)
    folder = options.room(name.split(" (", maxsplit=1)[0])
    state = folder / "state"
    state.mkdir()
    ended = 0
    with contextlib.ExitStack() as stack:
        if name in {"disk full", "state directory read-only"} and not stack.enter_context(_small_disk(state)):
            outcome.note = "left out: only root may mount"
            return outcome
        broker = stack.enter_context(Mosquitto(folder / "broker", persistent=True))
        listener = stack.enter_context(Listener(broker.port))
        server = stack.enter_context(playing(whole))
        monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
        try:
            for _ in range(6):
                if monitor.process is None or monitor.has_ended():
                    ended += monitor.process is not None
                    start(monitor)
                time.sleep(float(rng.uniform(0.5, 2)))
                end = TRIALS[name](monitor, state, broker)
                time.sleep(float(rng.uniform(1, 4)))
                end()
                outcome.runs += 1
            if monitor.has_ended():
                ended += 1
                monitor.start()
            problem = finish(monitor, listener, finals(expected))
        finally:
            monitor.kill()
        difference = compare(listener.detections, expected)
        log = monitor.log
    outcome.losses = len(difference.missing) + len(difference.unsaid)
    outcome.duplicates = difference.repeated
    outcome.note = f"ended by itself and was started again {ended} times"
    # Without memory or descriptors it may end with a traceback; the next process goes on.
    if problem or difference or (unexpected(log) and not name.startswith("out of")):
        outcome.fail(f"{problem}{difference}{log[log.find('Traceback') :][-1500:] if 'Traceback' in log else ''}")
    return outcome


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def starved(options: Options) -> Outcome:
    """Twenty stations catch up while one is live and the processor judges less than what comes."""
    outcome = Outcome(
        "resources", "processor too slow: twenty stations catch up, one is live",
        "live before backfill: a live packet waits for one batch at most; nothing is dropped, the servers wait",
        unit="packets",
    )  # fmt: skip
    now_ns = time.time_ns()
    batch, rounds = 8, 50 if options.short else 2000
    samples = np.zeros(100, np.int32)

    def packet(station: str, end_ns: int) -> Packet:
        channel = ChannelId("XX", station, "", "HHZ")
        return Packet(
            "one", f"XX.{station}", 1, (Segment(channel, end_ns - NS_PER_SECOND, 100.0, samples),), 512, end_ns
        )

    async def simulate() -> tuple[int, int, int]:
        queue = PacketQueue(1 << 20, lateness_s=60.0, now_ns=lambda: now_ns)
        put = taken = late = 0

        async def catch_up(station: str) -> None:
            nonlocal put
            for number in range(rounds):
                await queue.put(packet(station, now_ns - (10 * rounds - number) * 100 * NS_PER_SECOND))
                put += 1

        tasks = [asyncio.ensure_future(catch_up(f"B{number:02d}")) for number in range(20)]
        for number in range(rounds):
            feeding = asyncio.ensure_future(queue.put(packet("LIVE", now_ns + number)))
            for _ in range(5):
                await asyncio.sleep(0)
            got = await queue.take(batch)
            taken += len(got)
            late += all(p.station_id != "XX.LIVE" for p in got)
            # What does not get in at once may, when there is room again.
            while not feeding.done():
                await asyncio.sleep(0)
                taken += len(await queue.take(batch))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
        return put + rounds - taken - len(queue), late, queue.waits

    lost, late, waits = asyncio.run(simulate())
    outcome.runs, outcome.losses = rounds, lost
    outcome.note = f"{late} live packets waited for more than a batch; the servers waited {waits} times"
    if late or lost:
        outcome.fail(outcome.note)
    return outcome
