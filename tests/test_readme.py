"""The README's figures, and what `make train` makes, are those of the report that ships with the model."""

import json
import re
import shlex
from pathlib import Path

from monitor.model import Model, default_model_path
from train.report import headline
from train.restore import check_restorable, shipped_start
from train.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPORT = json.loads(default_model_path().with_suffix(".json").read_text(encoding="utf-8"))


def test_the_readme_has_the_figures_of_the_report() -> None:
    assert headline(REPORT["evaluation"], REPORT["benchmark"]) in README
    of = REPORT["benchmark"]["detectors"]["int8"]
    arrivals, hours, stations = of["p_arrivals"], of["noise_hours"], of["stations"]
    text = " ".join(README.split())
    assert f"{arrivals} labelled P arrivals and {hours:.0f} hours of noise at {stations} stations" in text
    recorded = REPORT["benchmark"]["recorded"]
    for way, words in (
        ("vertical alone", "1 and 0.1 false alarms an hour is"),
        ("50 Hz", "50 Hz"),
        ("31.25 Hz", "31.25 Hz"),
    ):
        often, seldom = (recorded[way]["at_rate"][rate]["recall"] for rate in ("1", "0.1"))
        assert f"{words} {often:.2f} and {seldom:.2f}" in text
    faint = REPORT["benchmark"]["faint"]
    picker, ours = (
        faint["recall"][name]["1 /h"][faint["ratios_db"].index(0)] for name in ("PhaseNet original", "int8")
    )
    assert f"it finds {picker:.2f} of them at 1 false alarm an hour, the monitor {ours:.2f}." in text


def test_the_report_and_the_card_are_of_the_model_that_ships() -> None:
    model = Model(default_model_path())
    assert REPORT["model"]["sha256"] == model.ref.sha256
    assert REPORT["benchmark"]["threshold"] == model.metadata.threshold
    assert model.ref.sha256 in model.path.with_suffix(".md").read_text(encoding="utf-8")


def test_make_train_makes_the_model_that_ships() -> None:
    told = re.search(r"^TRAIN_ARGS \?= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert told is not None
    assert shlex.split(REPORT["command"]) == ["python", "-m", "train", "all", "--data", "DATA", *told[1].split()]


def test_what_it_starts_from_is_here() -> None:
    sha256 = Model(default_model_path()).metadata.settings["start_from"]
    start = shipped_start(sha256)
    assert start is not None
    assert start in REPORT["command"]
    assert check_restorable(ROOT / start, Settings()) == sha256
    assert sha256 in (ROOT / start).with_name("README.md").read_text(encoding="utf-8")
    assert shipped_start("0" * 64) is None
