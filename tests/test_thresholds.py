"""The threshold in force, and the one for a rate of false alarms."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from monitor.cli import application
from monitor.detector import DetectorSettings
from monitor.model import Calibration, ModelMetadata, default_model_path, read_metadata
from monitor.pipeline import StationPipeline
from monitor.thresholds import ThresholdError, attainable, threshold_for

SHIPPED = read_metadata(default_model_path().read_bytes(), source="model")
TABLE = Calibration([0.1, 0.5, 0.8, 0.9, 0.99], [100.0, 10.0, 1.0, 1.0, 0.0], 24.0)


def metadata(calibration: Calibration | None) -> ModelMetadata:
    return msgspec.structs.replace(SHIPPED, calibration=calibration, threshold=0.7)


def at_rate(rate: float, calibration: Calibration | None = TABLE) -> float:
    return threshold_for(DetectorSettings(false_alarms_per_day=rate), metadata(calibration))


def test_the_settings_win_over_the_model() -> None:
    assert threshold_for(DetectorSettings(), metadata(TABLE)) == 0.7
    assert threshold_for(DetectorSettings(), metadata(None)) == 0.7
    assert threshold_for(DetectorSettings(threshold=0.3), metadata(TABLE)) == 0.3


@pytest.mark.parametrize(("rate", "threshold"), [(100.0, 0.1), (10.0, 0.5), (1.0, 0.8)])
def test_a_rate_of_the_table_has_the_table_s_lowest_threshold(rate: float, threshold: float) -> None:
    assert at_rate(rate) == pytest.approx(threshold, abs=1e-9)


def test_between_two_rows_both_scales_are_logarithmic() -> None:
    """Half way between 10 and 1 a day is the square root of 10, half way between 0.5 and 0.8 the root of odds 1 : 4."""
    assert at_rate(math.sqrt(10)) == pytest.approx(2 / 3, abs=2e-6)
    assert at_rate(math.sqrt(10)) >= 2 / 3


@pytest.mark.parametrize(
    ("rate", "calibration", "message"),
    [
        (0.5, TABLE, "false_alarms_per_day is 0.5; accepted: 1 to 100, .* 24 station-hours"),
        (101.0, TABLE, "false_alarms_per_day is 101; accepted: 1 to 100"),
        (1.0, None, "has no calibration; accepted: threshold instead"),
        (1.0, Calibration([0.1, 0.2], [0.0, 0.0], 3.0), "saw no false alarm in 3 station-hours"),
        (1.0, Calibration([], [], 3.0), "no table of rising thresholds"),
        (1.0, Calibration([0.2, 0.1], [2.0, 1.0], 3.0), "no table of rising thresholds"),
        (1.0, Calibration([0.1, 0.2], [2.0], 3.0), "no table of rising thresholds"),
        (1.0, Calibration([0.1, 1.0], [2.0, 1.0], 3.0), "no table of rising thresholds"),
        (1.0, Calibration([0.1, 0.2], [2.0, math.nan], 3.0), "no table of rising thresholds"),
    ],
)
def test_what_cannot_be_had_is_said(rate: float, calibration: Calibration | None, message: str) -> None:
    with pytest.raises(ThresholdError, match=message):
        at_rate(rate, calibration)


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold and false_alarms_per_day are both set"):
        DetectorSettings(threshold=0.5, false_alarms_per_day=1.0)


def test_a_table_that_wavers_is_read_by_its_worst() -> None:
    """At 0.5 the table says 1 a day, but at 0.8 there are 4: nobody is promised 2 below that."""
    wavering = Calibration([0.1, 0.5, 0.8, 0.9], [10.0, 1.0, 4.0, 1.0], 24.0)
    assert at_rate(2.0, wavering) > 0.8
    assert at_rate(4.0, wavering) == pytest.approx(0.5)


@st.composite
def tables(draw: st.DrawFn) -> Calibration:
    n = draw(st.integers(1, 12))
    log_odds = np.cumsum(draw(st.lists(st.floats(0.01, 2.0), min_size=n, max_size=n))) - 3.0
    counts = sorted(draw(st.lists(st.integers(0, 1000), min_size=n, max_size=n)), reverse=True)
    hours = draw(st.floats(1.0, 1000.0))
    # Not rounded: near 1 two of them would become one, which is no table.
    return Calibration([float(1 / (1 + np.exp(-x))) for x in log_odds], [24 * c / hours for c in counts], hours)


@given(tables(), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_no_rate_gets_a_threshold_that_has_more(table: Calibration, one: float, other: float) -> None:
    try:
        lowest, highest = attainable(table)
    except ThresholdError:
        assert not any(table.false_alarms_per_day)
        return
    small, large = (min(highest, max(lowest, lowest * (highest / lowest) ** x)) for x in sorted((one, other)))
    high, low = at_rate(small, table), at_rate(large, table)
    assert table.thresholds[0] <= low <= high <= table.thresholds[-1]
    # Never below a row that has more than was asked for, never above the first that has not.
    for wanted, threshold in ((small, high), (large, low)):
        rates = np.array(table.false_alarms_per_day)
        thresholds = np.array(table.thresholds)
        assert all(threshold >= t for t in thresholds[rates > wanted])
        assert threshold <= thresholds[rates <= wanted][0]


def test_the_shipped_model_can_be_set_by_rate() -> None:
    assert SHIPPED.calibration is not None
    lowest, highest = attainable(SHIPPED.calibration)
    thresholds = [
        threshold_for(DetectorSettings(false_alarms_per_day=rate), SHIPPED)
        for rate in np.geomspace(lowest, highest, 20)[1:-1]
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    assert 0 < thresholds[-1] < thresholds[0] < 1


def test_the_pipeline_takes_it() -> None:
    from monitor.model import Model
    from monitor.records import ChannelId
    from monitor.stations import StationGroup, group_channels

    (group,) = group_channels([ChannelId("XX", "A", "", "HHZ")])
    assert isinstance(group, StationGroup)
    model = Model()
    assert model.metadata.calibration is not None
    rate = attainable(model.metadata.calibration)[0] * 2
    settings = DetectorSettings(false_alarms_per_day=rate)
    pipeline = StationPipeline(group, model, settings, origin="replay")
    assert pipeline._threshold == threshold_for(settings, model.metadata) != model.metadata.threshold
    with pytest.raises(ThresholdError, match="accepted"):
        StationPipeline(group, model, DetectorSettings(false_alarms_per_day=1e6), origin="replay")


def replay(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(application(), ["replay", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--false-alarms-per-day", "2", "--threshold", "0.5"], "are both given; accepted: one of them"),
        (["--false-alarms-per-day", "-1"], "false_alarms_per_day is -1.0; accepted: a number"),
        (["--false-alarms-per-day", "999999"], "false_alarms_per_day is 999999; accepted: "),
        (["--threshold", "1"], "--threshold is 1.0; accepted: between 0 and 1"),
    ],
)
def test_replay_says_what_cannot_be_had(options: list[str], message: str) -> None:
    code, output = replay("none.mseed", *options)
    assert code == 2
    assert message in output


def test_the_command_line_wins_however_the_file_says_it(tmp_path: Path) -> None:
    config = tmp_path / "monitor.toml"
    for text, options in (
        ("threshold = 0.5", ["--false-alarms-per-day", "999999"]),
        ("false_alarms_per_day = 999999", ["--threshold", "0.5"]),
    ):
        config.write_text(f"[detector]\n{text}\n")
        code, output = replay("none.mseed", "--config", config, *options)
        wanted = "999999" in options
        assert code == (2 if wanted else 1), output
        assert ("false_alarms_per_day is 999999; accepted: " in output) == wanted
        assert ("no such file" in output) != wanted
