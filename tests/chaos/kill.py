"""Ended at any moment, started again: the subscriber hears what an undisturbed run says."""

import signal
import time
from collections import Counter

import numpy as np

from monitor.records import Detection, Segment
from tests.chaos import recording
from tests.chaos.outcome import Options, Outcome
from tests.chaos.service import PATIENCE_S, Listener, compare, finals, finish, playing, start, unexpected
from tests.mosquitto import Mosquitto
from tests.service import Monitor, wait_for

PROMISE = "the detections heard, every revision of them, are those of an undisturbed run; none under a new id"
# How a process ends, and how often of a hundred; after a halt it goes on and is killed later.
_WAYS = {"SIGKILL": 78, "SIGTERM": 12, "SIGSTOP": 10}
_LONGEST_LIFE_S = 3.0  # and twice what a start takes on this machine
_LONGEST_HALT_S = 1.5
# The paced server brings the whole recording in about this time.
_PACED_S = 30.0
_POLL_S = 0.005


def run(options: Options) -> list[Outcome]:
    """Kill until it has been killed often enough, each time over a recording from its beginning to its end."""
    copies = 1 if options.short else 6
    whole = recording.make(copies, end_ns=time.time_ns() - 600 * 10**9)
    expected = recording.replayed(whole)
    undisturbed = Outcome("kill", "none", "live says what a replay says", unit="runs")
    killed = Outcome("kill", "kill -9, SIGTERM, SIGSTOP and on, at random moments", PROMISE, unit="ends")
    rng = np.random.default_rng(options.seed)
    ended: Counter[str] = Counter()
    if not options.short:
        _one(options, undisturbed, 0, whole, expected, rng=rng, ended=Counter(), most=0, paced=False)
    rounds = 0
    while ended["SIGKILL"] + ended["SIGTERM"] < options.kills:
        rounds += 1
        left = options.kills - ended["SIGKILL"] - ended["SIGTERM"]
        _one(options, killed, rounds, whole, expected, rng=rng, ended=ended, most=left, paced=rounds % 3 == 0)
    killed.runs = ended["SIGKILL"] + ended["SIGTERM"]
    per_run = finals(expected)
    killed.note = (
        f"{', '.join(f'{count} {way}' for way, count in sorted(ended.items()))}; {rounds} recordings of"
        f" {copies * 226 / 3600:.1f} h, four stations, {per_run} detections each"
    )
    return [killed] if options.short else [undisturbed, killed]


def _one(
    options: Options,
    outcome: Outcome,
    number: int,
    whole: list[Segment],
    expected: dict[recording.Key, Detection],
    *,
    rng: np.random.Generator,
    ended: Counter[str],
    most: int,
    paced: bool,
) -> None:
    """One recording, from its beginning to its end."""
    folder = options.room(f"kill{number}")
    speed = max(s.npts / s.sampling_rate for s in whole) / _PACED_S if paced else None
    with (
        Mosquitto(folder / "broker") as broker,
        Listener(broker.port) as listener,
        playing(whole, speed=speed) as server,
    ):
        monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
        start_s = 0.0
        try:
            for _ in range(most):
                began = time.monotonic()
                monitor.start()
                if not start_s:
                    wait_for(lambda: "listening" in monitor.log, why="it does not start", or_if=monitor.has_ended)
                    start_s = time.monotonic() - began
                _end(monitor, listener, rng, ended, enough=finals(expected), start_s=start_s)
                if listener.final_count >= finals(expected):
                    break
            start(monitor)
            problem = finish(monitor, listener, finals(expected))
        finally:
            monitor.kill()
        # What the broker still has for the subscriber.
        difference = compare(listener.detections, expected)
    outcome.runs += 1
    outcome.losses += len(difference.missing) + len(difference.unsaid)
    outcome.duplicates += difference.repeated
    if problem or difference or unexpected(monitor.log):
        outcome.fail(f"recording {number}: {problem}{difference}")
    print(f"   recording {number}: {dict(ended)}, {difference}", flush=True)


def _end(
    monitor: Monitor, listener: Listener, rng: np.random.Generator, ended: Counter[str], *, enough: int, start_s: float
) -> None:
    """Let it live for a while, and end it."""
    way = str(rng.choice(list(_WAYS), p=np.array(list(_WAYS.values())) / 100))
    # At a moment of its life, or when so much more has been heard.
    life_s = float(rng.uniform(0, _LONGEST_LIFE_S + 2 * start_s))
    more = int(rng.integers(1, 20)) if rng.random() < 0.4 else None
    heard, until = len(listener.messages), time.monotonic() + (life_s if more is None else PATIENCE_S)
    while time.monotonic() < until and listener.final_count < enough and not monitor.has_ended():
        if more is not None and len(listener.messages) >= heard + more:
            break
        time.sleep(_POLL_S)
    if way == "SIGSTOP":
        monitor.signal(signal.SIGSTOP)
        time.sleep(float(rng.uniform(0, _LONGEST_HALT_S)))
        monitor.signal(signal.SIGCONT)
        ended[way] += 1
        time.sleep(float(rng.uniform(0, 1.0)))
        way = "SIGKILL"
    ended[way] += 1
    if way == "SIGTERM":
        monitor.signal(signal.SIGTERM)
        assert monitor.process is not None
        # One that was not yet listening for it ends by it.
        code = monitor.process.wait(PATIENCE_S)
        assert code in {0, -signal.SIGTERM}, f"ended with {code}: {monitor.log[-2000:]}"
    else:
        monitor.kill()
