"""A process that does to a state directory what the service does, and says when something is on disk.

python -m tests.chaos.writer FOLDER SEED STEPS
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np

from monitor.outbox import Outbox, OutboxError
from monitor.outbox_message import Key, OutboxMessage
from monitor.settings import OutboxSettings
from monitor.state import SavedInstrument, SavedState, StateError, write_state

T0 = 1_700_000_000 * 10**9


def message(number: int) -> OutboxMessage:
    """The message of this number."""
    rng = np.random.default_rng(number)
    payload = f"{number} ".encode() + rng.bytes(int(rng.integers(300, 1500)))
    return OutboxMessage(topic="a/b", payload=payload, created_ns=T0 + number, key=Key(f"id{number}", 0))


def state(number: int) -> SavedState:
    """A state behind which the first `number` messages lie."""
    saved = SavedInstrument(
        name="A", seed_ids=["XX.A..HHZ"] * (1 + number % 40), needed_from_ns=number, settled_step=0, taken_until=0
    )
    return SavedState(step_s=0.1, saved_ns=T0, instruments=[saved])


def main(folder: Path, seed: int, steps: int) -> None:
    """Put, send and save, in any order."""
    rng = np.random.default_rng(seed)
    outbox = Outbox(folder / "outbox.sqlite", OutboxSettings(), clock=lambda: T0)
    put = 0
    for _ in range(steps):
        failing = False
        match rng.choice(["put", "send", "save"], p=[0.6, 0.25, 0.15]):
            case "put":
                several = [message(number) for number in range(put, put + int(rng.integers(1, 6)))]
                try:
                    outbox.put_many(several)
                except OutboxError:
                    failing = True
                put += len(several)
                if not failing:
                    _say(f"put {put}")
            case "send":
                waiting = outbox.next(20)
                # The broker has acknowledged them; whether they are forgotten does not matter.
                _say("sent " + " ".join(w.message.payload.split()[0].decode() for w in waiting))
                outbox.remove([w.number for w in waiting])
            case _:
                # As the service does: not ahead of what is on disk.
                if outbox.stats().problem is None:
                    with contextlib.suppress(StateError):
                        write_state(folder, state(put))
                        _say(f"saved {put}")
    # The service looks every half minute whether the disk works again.
    for _ in range(1000):
        if outbox.stats().problem is None:
            break
        with contextlib.suppress(OutboxError):
            outbox.put_many([])
    _say(f"put {put}")
    os._exit(0)  # closing would be one more thing than a power cut lets it do


def _say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
