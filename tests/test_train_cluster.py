"""Training on several workers: two processes on loopback end with the same weights."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.train_store import write_store
from train.__main__ import EXIT_USAGE, app
from train.cluster import Cluster, cluster, mean_over

WORKER = """
import sys
from pathlib import Path

import msgspec
import numpy as np

from tests.train_store import TINY
from train.dataset import Store
from train.fit import fit

store, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if __name__ == "__main__":
    settings = msgspec.structs.replace(TINY, fit=msgspec.structs.replace(TINY.fit, steps=steps))
    losses = []
    path = fit(Store.open(store), settings, out, report=lambda step, told: losses.append(told["earthquake"]))
    import keras

    weights = keras.models.load_model(path, compile=False).get_weights()
    np.savez(out / "weights.npz", *weights, loss=losses[-1])
"""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on; all are held while the others are sought."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in held]


def config(rank: int, ports: list[int]) -> str:
    members = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": members}, "task": {"type": "worker", "index": rank}})


def start(folder: Path, store: Path, name: str, tf_config: str | None, steps: int = 2) -> subprocess.Popen[str]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    root = str(Path(__file__).parents[1])
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    environment |= {"PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    if tf_config is not None:
        environment["TF_CONFIG"] = tf_config
    command = [sys.executable, str(script), str(store), str(folder / name), str(steps)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_two_workers_end_with_one_model(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store").path
    ports = free_ports(2)
    started = {f"worker{rank}": start(tmp_path, store, f"worker{rank}", config(rank, ports)) for rank in (0, 1)}
    started["alone"] = start(tmp_path, store, "alone", None)
    try:
        for name, process in started.items():
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, f"{name}: {errors}"
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    made = {name: np.load(tmp_path / name / "weights.npz") for name in started}
    one, other, alone = (made[name] for name in ("worker0", "worker1", "alone"))
    for key in one.files:
        if key != "loss":
            np.testing.assert_array_equal(one[key], other[key])
    assert one["loss"] != other["loss"], "each learns from its own examples"
    assert any(not np.array_equal(one[key], alone[key]) for key in one.files), "and from those of the other"


def test_who_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster() == Cluster(0, 1)
    monkeypatch.setenv("TF_CONFIG", config(1, [1, 2, 3]))
    assert cluster() == Cluster(1, 3)
    assert not cluster().chief
    members = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": members, "task": {"type": "worker", "index": 0}}))
    assert cluster() == Cluster(1, 3)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": members, "task": {"type": "chief", "index": 0}}))
    assert cluster().chief


def test_one_worker_needs_no_tensorflow() -> None:
    assert mean_over(Cluster())([1, 2]) == [1, 2]


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {}}', config(2, [1, 2]), config(-1, [1, 2])])
def test_a_wrong_tf_config_is_named(text: str, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store").path
    result = CliRunner().invoke(app, ["fit", "--store", str(store), "--out", str(tmp_path)], env={"TF_CONFIG": text})
    assert result.exit_code == EXIT_USAGE
    assert "TF_CONFIG=" in result.stderr
    assert "accepted: " in result.stderr


def test_all_is_for_one_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["all", "--data", str(tmp_path)], env={"TF_CONFIG": config(1, [1, 2])})
    assert result.exit_code == EXIT_USAGE
    assert "run prepare and fit on each" in result.stderr
