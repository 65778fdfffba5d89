"""The processes that make examples."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.train_store import write_store

TRAINING = """
import multiprocessing, sys, time
from tests.train_store import TINY
from train.dataset import Store
from train.fit import batches

if __name__ == "__main__":
    source = batches(Store.open(sys.argv[1]), TINY, [])
    next(source)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def test_who_makes_examples_ends_with_a_training_that_was_killed(tmp_path: Path) -> None:
    store, script = write_store(tmp_path / "store"), tmp_path / "training.py"
    script.write_text(TRAINING)
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, script, store.path], env=os.environ | {"PYTHONPATH": root}, stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        workers = [int(pid) for pid in training.stdout.readline().split()]
        assert workers
        training.kill()
    # It looks whether anybody is left when what it made has waited for 5 s.
    until = time.monotonic() + 60
    while (left := [pid for pid in workers if _runs(pid)]) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
