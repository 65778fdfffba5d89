"""The `compare` step: what several runs came to, side by side; the table of `train/EXPERIMENTS.md`.

Runs are read as they lie: one of another version, or one that was not benchmarked, has gaps in its row.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.report import table
from train.steps import BENCHMARK_FILE, EVALUATION_FILE, SETTINGS_FILE, read_json

_COLUMNS = (
    "run",
    "look-ahead s",
    "kB",
    "recall at 1 /h",
    "0.1 /h",
    "threshold",
    "recall",
    "FA /h",
    "AUC",
    "onset MAD s",
    "`new` after P s, 50 %",
    "95 %",
    "parity %",
    "ECE",
)


def compare(folders: Sequence[Path]) -> str:
    """Compare runs.

    Args:
        folders: Of `python -m train`, in the order wanted.

    Returns:
        A Markdown table, a row for each.

    Raises:
        ValueError: A folder is not one of a run, or a file in it is not JSON.
    """
    return table(_COLUMNS, [_row(folder) for folder in folders])


def _row(folder: Path) -> list[object]:
    try:
        settings = read_json(folder / SETTINGS_FILE)
        benchmark = read_json(folder / BENCHMARK_FILE) or {}
        evaluation = read_json(folder / EVALUATION_FILE) or {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder}: not readable as JSON: {error}") from error
    if settings is None:
        raise ValueError(f"{folder}: no {SETTINGS_FILE}; accepted: folders that python -m train fit has written")
    model = folder / f"{settings.get('name', 'seismic')}.tflite"
    parity = _at(benchmark, "parity", "share")
    at_rate, at_threshold = ("detectors", "int8", "at_rate"), ("detectors", "int8", "at_threshold")
    return [
        folder.resolve().name,
        _text(_at(settings, "network", "look_ahead_s"), "g"),
        _text(model.stat().st_size / 1000 if model.exists() else None, ".0f"),
        *(_text(_at(benchmark, *at_rate, rate, "recall"), ".2f") for rate in ("1", "0.1")),
        _text(_at(benchmark, *at_threshold, "threshold"), ".3f"),
        _text(_at(benchmark, *at_threshold, "recall"), ".2f"),
        _text(_at(benchmark, *at_threshold, "false_alarms_per_hour"), ".2f"),
        _text(_at(evaluation, "detectors", "int8", "roc_auc"), ".3f"),
        _text(_at(benchmark, "onsets", "refined", "mad_s"), ".3f"),
        *(_text(_at(benchmark, "onsets", "delay_s", key), ".2f") for key in ("median", "p95")),
        _text(None if parity is None else 100 * parity, ".1f"),
        _text(_at(benchmark, "reliability", "expected_calibration_error"), ".4f"),
    ]


def _at(figures: Any, *keys: str) -> float | None:
    for key in keys:
        figures = figures.get(key) if isinstance(figures, Mapping) else None
    return figures if isinstance(figures, int | float) else None


def _text(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)
