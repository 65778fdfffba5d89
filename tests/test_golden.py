"""Real recordings: four stations at Unterhaching, Germany, 2010-05-27, which ObsPy carries.

The picks are read from the waveforms by eye: both earthquakes are sharp on all four stations.
"""

import subprocess
import sys
from pathlib import Path

import msgspec
import obspy
import pytest

from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, parse_time

RECORDINGS = sorted((Path(obspy.__file__).parent / "signal/tests/data").glob("BW.UH*.cut.slist.gz"))
# Earthquake -> station -> P onset.
PICKS = {
    "16:24:33": {"UH1": "16:24:33.32", "UH2": "16:24:33.24", "UH3": "16:24:33.12", "UH4": "16:24:34.12"},
    "16:27:30": {"UH1": "16:27:30.61", "UH2": "16:27:30.50", "UH3": "16:27:30.41", "UH4": "16:27:31.42"},
}
TOLERANCE_S = 0.5


@pytest.fixture(scope="module")
def detections() -> list[Detection]:
    done = subprocess.run(
        [sys.executable, "-m", "monitor.cli", "replay", *map(str, RECORDINGS), "--format", "jsonl"],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    return [msgspec.json.decode(line, type=Detection) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("quake", PICKS)
@pytest.mark.parametrize("station", ["UH1", "UH2", "UH3", "UH4"])
def test_the_earthquakes_are_found(detections: list[Detection], quake: str, station: str) -> None:
    pick = parse_time(f"2010-05-27T{PICKS[quake][station]}")
    residuals = [
        (parse_time(detection.onset) - pick) / NS_PER_SECOND
        for detection in detections
        if detection.station == f"BW.{station}"
    ]
    assert min(map(abs, residuals)) < TOLERANCE_S, residuals


def test_nothing_else_is_called_an_earthquake(detections: list[Detection]) -> None:
    """But for the two small ones at 16:25:26 and 16:27:02, which several of the stations recorded."""
    times = [parse_time(f"2010-05-27T{text}") for station in PICKS.values() for text in station.values()]
    times += [parse_time("2010-05-27T16:25:26.7"), parse_time("2010-05-27T16:27:02.2")]
    for detection in detections:
        assert min(abs(parse_time(detection.onset) - time) for time in times) < 2 * NS_PER_SECOND, detection
