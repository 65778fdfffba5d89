"""Who takes part in training on several machines; that they end with one model is in `tests/two_workers.py`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.train_store import write_store
from train.__main__ import EXIT_USAGE, app
from train.cluster import Cluster, cluster, mean_over


def config(rank: int, ports: list[int]) -> str:
    members = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": members}, "task": {"type": "worker", "index": rank}})


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
