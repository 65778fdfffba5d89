"""The README's figures are those of the report that ships with the model."""

import json
from pathlib import Path

from monitor.model import Model, default_model_path
from train.report import headline

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
REPORT = json.loads(default_model_path().with_suffix(".json").read_text(encoding="utf-8"))


def test_the_readme_has_the_figures_of_the_report() -> None:
    assert headline(REPORT["evaluation"], REPORT["benchmark"]) in README
    of = REPORT["benchmark"]["detectors"]["int8"]
    arrivals, hours, stations = of["p_arrivals"], of["noise_hours"], of["stations"]
    words = f"{arrivals} labelled P arrivals and {hours:.0f} hours of noise at {stations} stations"
    assert words in " ".join(README.split())


def test_the_report_and_the_card_are_of_the_model_that_ships() -> None:
    model = Model(default_model_path())
    assert REPORT["model"]["sha256"] == model.ref.sha256
    assert REPORT["benchmark"]["threshold"] == model.metadata.threshold
    assert model.ref.sha256 in model.path.with_suffix(".md").read_text(encoding="utf-8")
