"""`python -m train`, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.test_train_peers import picker_models, pretend
from tests.train_store import write_store
from train.__main__ import EXIT_USAGE, app
from train.settings import Settings

RUNNER = CliRunner()

TINY_TOML = """
name = "tiny"
seed = 5
[augment]
seconds = 30
[network]
filters = [4, 4, 6]
channels = 8
dilations = [1, 2]
branches = 1
[fit]
steps = 2
mining_rounds = 1
mining_steps = 2
batch = 4
"""


def run(*arguments: object, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    result = RUNNER.invoke(app, [str(a) for a in arguments], env={"MONITOR_DATA": None, **(environment or {})})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_is_quick_and_names_the_commands() -> None:
    code = """
import runpy, sys
sys.argv = ["train", "--help"]
try:
    runpy.run_module("train", run_name="__main__")
except SystemExit:
    pass
print(sorted({"tensorflow", "keras", "scipy", "matplotlib", "h5py"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("prepare", "fit", "quantize", "evaluate", "benchmark", "report", "compare", "all"):
        assert command in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["prepare", "all"])
def test_data_must_be_named(command: str, tmp_path: Path) -> None:
    code, _, stderr = run(command, "--out", tmp_path)
    assert code == EXIT_USAGE
    assert stderr == "train: no data: give --data DIR (repeatable), or set MONITOR_DATA\n"


def test_data_may_come_from_the_environment(tmp_path: Path) -> None:
    code, _, stderr = run("prepare", "--out", tmp_path, environment={"MONITOR_DATA": str(tmp_path / "nowhere")})
    assert code == EXIT_USAGE
    assert "nowhere: no training data" in stderr


@pytest.mark.parametrize(
    ("command", "missing"),
    [("fit", "run prepare first"), ("quantize", "run prepare first"), ("benchmark", "run prepare first")],
)
def test_without_a_store(command: str, missing: str, tmp_path: Path) -> None:
    code, _, stderr = run(command, "--out", tmp_path)
    assert code == EXIT_USAGE
    assert missing in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", "unknown field `steps`"),
        ("[fit]\nsteps = 'many'", "Expected `int`"),
        ("[fit", "not TOML"),
        ("[spectrogram]\nlast_bin = 30", "spectrogram has 30 bins, first_bin to last_bin; accepted: a multiple of 4"),
        ("[spectrogram]\nhop = 0", "hop is 0"),
        ("[network]\nlater_s = 0.5", "network.later_s is 0.5 with 2 branches; accepted: 0, or a multiple of 0.2"),
        ("[network]\nlater_s = 0.4\nbranches = 1", "with two branches or more"),
        ("start_from = 'ab'", "start_from is written by --start-from"),
    ],
)
def test_wrong_settings_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    store = write_store(tmp_path / "store").path
    code, _, stderr = run("fit", "--store", store, "--out", tmp_path, "--settings", path)
    assert code == EXIT_USAGE
    assert "wrong.toml" in stderr
    assert message in stderr


def test_leaving_everything_out_is_said_before_training(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store").path
    code, _, stderr = run("fit", "--store", store, "--out", tmp_path, "--exclude", "*")
    assert code == EXIT_USAGE
    assert "no event traces in split 'train'" in stderr


def test_steps_in_the_wrong_order(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store").path
    for command, message in (("quantize", "run fit first"), ("evaluate", "run fit first"), ("report", "run fit first")):
        code, _, stderr = run(command, "--store", store, "--out", tmp_path)
        assert code == EXIT_USAGE
        assert message in stderr


def test_from_a_store_to_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, out = write_store(tmp_path / "store").path, tmp_path / "out"
    settings = tmp_path / "tiny.toml"
    settings.write_text(TINY_TOML)
    common = ("--store", store, "--out", out)
    assert run("fit", *common, "--settings", settings, "--exclude", "absent*")[0] == 0
    assert run("quantize", *common)[0] == 0
    pretend(monkeypatch, picker_models())
    others = ("--resample-hz", "31.25, 50", "--seisbench", "FakePicker:original")
    code, stdout, _ = run("benchmark", *common, *others)
    assert code == 0
    # Recall against false alarms, onsets and windows: a row in each.
    assert stdout.count("| FakePicker original | ") >= 3
    assert "| FakePicker original, at its default | " in stdout.split("P over noise")[1]
    for of_table in stdout.split("| disturbance | ")[1:]:
        assert "| FakePicker original, at 0.1 /h | " in of_table.splitlines()[0]
    assert stdout.count("| disturbance | ") == 2
    assert "| int8 |" in stdout
    assert "STA/LTA rsudp" in stdout
    for way in ("31.25 Hz", "vertical alone", "vertical alone, 50 Hz"):
        assert f"| {way} |" in stdout
    assert (out / "benchmark.md").read_text().startswith(stdout.strip())
    for text in ("accuracy", "f1", "roc_auc", "![recall](recall.png)"):
        assert text in (out / "benchmark.md").read_text()
    assert run("evaluate", *common, "--seisbench", "FakePicker:original")[0] == 0
    assert run("report", *common)[0] == 0
    names = {path.name for path in out.iterdir()}
    assert {
        "mined.json",
        "tiny.tflite",
        "tiny.float.tflite",
        "tiny.json",
        "tiny.md",
        "benchmark.md",
        "recall.png",
    } <= names
    report = json.loads((out / "tiny.json").read_text())
    assert report["data"]["excluded"] == ["absent*"]
    assert report["model"]["calibration"]["station_hours"] > 0
    assert report["model"]["metadata"]["threshold"] == report["benchmark"]["threshold"]
    assert report["evaluation"]["detectors"]["int8"]["threshold"] == report["benchmark"]["threshold"]
    assert str(tmp_path) not in (out / "tiny.json").read_text()
    card = (out / "tiny.md").read_text()
    for text in (
        f"# Model card: tiny {Settings().version}",
        "Licence",
        "python -m train all --data DATA --seed 5 --exclude 'absent*' --settings SETTINGS",
        'SETTINGS is a TOML file with `name = "tiny"`, `augment.seconds = 30`, `network.filters = [4, 4, 6]`',
        "## Limits",
        "|  | monitor | STA/LTA 0.5/10 s | STA/LTA rsudp | FakePicker original |",
        "pip install seisbench",
        "--seisbench FakePicker:original",
    ):
        assert text in card
    on = ("--store", store, "--out", tmp_path / "on")
    assert run("fit", *on, "--settings", settings, "--start-from", out / "tiny.tflite")[0] == 0
    assert run("quantize", *on)[0] == 0
    assert run("report", *on)[0] == 0
    card = (tmp_path / "on" / "tiny.md").read_text()
    assert "--start-from MODEL" in card
    assert report["model"]["sha256"] in card
    code, _, stderr = run("fit", *on, "--start-from", out / "tiny.tflite")
    assert code == EXIT_USAGE
    assert "tiny.tflite: its network is" in stderr
    code, stdout, _ = run("compare", out)
    assert code == 0
    assert stdout.count("\n") == 3
    assert "– |" not in stdout.splitlines()[2].split("|", 4)[3]
    code, _, stderr = run("benchmark", *common, "--resample-hz", "50,0")
    assert code == EXIT_USAGE
    assert "sampling rate 0.0 Hz; accepted: positive" in stderr
    code, _, stderr = run("benchmark", *common, "--only", "nothing")
    assert code == EXIT_USAGE
    assert "no trace in split 'dev' with data set nothing" in stderr
