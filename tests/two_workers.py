"""Two training processes on loopback end with the same weights: `make test-cluster`, a minute of two cores."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_train_cluster import config
from tests.train_store import TINY, write_store
from train.fit import fit
from train.quantize import quantize

WORKER = """
import sys
from pathlib import Path

import numpy as np

import msgspec

from tests.train_store import TINY
from train.dataset import Store
from train.settings import with_branches
from train.steps import train

store, out, branches = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
start_from = Path(sys.argv[4]) if sys.argv[4:] else None
if __name__ == "__main__":
    losses = []
    tiny = msgspec.structs.replace(TINY, fit=msgspec.structs.replace(TINY.fit, mining_steps=2))
    path = train(
        Store.open(store),
        with_branches(tiny, branches),
        out,
        start_from=start_from,
        watch=lambda _: lambda *_: None,
        report=lambda part, step, steps, told: losses.append(told["earthquake"]),
    )
    import keras

    weights = keras.models.load_model(path, compile=False).get_weights()
    np.savez(out / "weights.npz", *weights, loss=losses[-1])
"""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on; all are held while the others are sought."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in held]


def start(folder: Path, store: Path, name: str, tf_config: str, *arguments: str) -> subprocess.Popen[str]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TF_CONFIG": tf_config, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(script), str(store), str(folder / name), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("branches", "goes_on"), [(1, False), (2, False), (1, True), (2, True)])
def test_two_workers_end_with_one_model(branches: int, goes_on: bool, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    arguments = [str(branches)]
    if goes_on:
        alone = tmp_path / "alone"
        arguments.append(str(quantize(store, TINY, fit(store, TINY, alone), alone)))
    ports = free_ports(2)
    started = {
        name: start(tmp_path, store.path, name, config(rank, ports), *arguments)
        for rank, name in enumerate(("worker0", "worker1"))
    }
    try:
        for name, process in started.items():
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, f"{name}: {errors}"
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    one, other = (np.load(tmp_path / name / "weights.npz") for name in started)
    for key in one.files:
        if key != "loss":
            np.testing.assert_array_equal(one[key], other[key])
    assert one["loss"] != other["loss"], "each learns from its own examples"
