"""Runs side by side."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from train.__main__ import EXIT_USAGE, app

RUNNER = CliRunner()


def write_run(folder: Path, **files: Any) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def benchmark(recall: float) -> dict[str, Any]:
    at = {"threshold": 0.75, "recall": recall - 0.1, "false_alarms_per_hour": 0.0625}
    return {
        "detectors": {"int8": {"at_rate": {"1": {"recall": recall}, "0.1": {"recall": 0.5}}, "at_threshold": at}},
        "onsets": {"refined": {"mad_s": 0.0312}, "delay_s": {"median": 1.25, "p95": 4.5}},
        "parity": {"share": 0.0123},
        "reliability": {"expected_calibration_error": 0.0021},
    }


def test_a_row_for_each_run_with_gaps_where_it_has_nothing(tmp_path: Path) -> None:
    settings = {"name": "seismic", "network": {"look_ahead_s": 0.6}, "of_another_version": True}
    evaluation = {"detectors": {"int8": {"roc_auc": 0.9871}}}
    whole = write_run(tmp_path / "far", settings=settings, benchmark=benchmark(0.8), evaluation=evaluation)
    (whole / "seismic.tflite").write_bytes(b"x" * 90_400)
    bare = write_run(tmp_path / "near", settings=settings | {"network": {"look_ahead_s": 0.0}})
    result = RUNNER.invoke(app, ["compare", str(whole), str(bare)])
    assert result.exit_code == 0
    head, rule, first, second = result.stdout.splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    assert first == (
        "| far | 0.6 | 90 | 0.80 | 0.50 | 0.750 | 0.70 | 0.06 | 0.987 | 0.031 | 1.25 | 4.50 | 1.2 | 0.0021 |"
    )
    assert second == f"| near | 0 |{' – |' * 12}"


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["compare", str(tmp_path)])
    assert result.exit_code == EXIT_USAGE
    assert "no settings.json; accepted: folders that python -m train fit has written" in result.stderr
    (tmp_path / "settings.json").write_text("{")
    result = RUNNER.invoke(app, ["compare", str(tmp_path)])
    assert result.exit_code == EXIT_USAGE
    assert "not readable as JSON" in result.stderr
