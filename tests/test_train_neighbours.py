"""In a network's active time, what nobody picked at one of its stations is not known."""

from dataclasses import replace

import pytest

from monitor.timebase import parse_time
from tests.train_store import write_store
from train.neighbours import with_neighbours
from train.traceinfo import Pick, TraceInfo

START = parse_time("2024-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> TraceInfo:
    """Ten minutes of nothing."""
    store = write_store(tmp_path_factory.mktemp("neighbours") / "store")
    like = next(info for info in store.traces if info.kind == "continuous" and info.split == "train")
    return replace(like, station="XX.A", starttime_ns=START, npts=60_000, picks=(), events=(), unknown=())


def picked(info: TraceInfo, *samples: float) -> TraceInfo:
    return replace(info, picks=tuple(Pick("P", at) for at in samples))


def test_what_a_neighbour_picked_is_unknown_but_for_labelled_arrivals(recording: TraceInfo) -> None:
    quiet = replace(recording, unknown=((100, 200),))
    late = replace(picked(recording, 20_000.0, 59_900.0), station="XX.B", starttime_ns=START + 10_000_000_000)
    changed = with_neighbours([quiet, late])
    assert changed[0] == replace(quiet, unknown=((100, 200), (19_500, 24_500), (59_400, 60_000)))
    assert changed[1] == late, "its neighbour picked nothing"


def test_labelled_earthquakes_stay_known(recording: TraceInfo) -> None:
    own = replace(picked(recording, 20_900.0), events=((20_900.0, 21_000.0),))
    late = replace(picked(recording, 21_000.0), station="XX.B")
    until = 21_000 + 5 * 100
    assert with_neighbours([own, late])[0].unknown == ((19_500, 20_750), (until + 1, 24_500))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"station": "XX.A"}, "the same station"),
        ({"station": "YY.B"}, "another network"),
        ({"station": "XX.B", "starttime_ns": START + 3_600_000_000_000}, "another hour"),
        ({"station": "XX.B", "starttime_ns": None}, "no time"),
        ({"station": "XX.B", "picks": (Pick("S", 20_000.0),)}, "an S alone"),
    ],
)
def test_who_is_no_neighbour_changes_nothing(recording: TraceInfo, changes: dict[str, object], why: str) -> None:
    other = replace(picked(recording, 20_000.0), **changes)  # type: ignore[arg-type]
    assert with_neighbours([recording, other]) == [recording, other], why


@pytest.mark.parametrize("changes", [{"kind": "noise"}, {"starttime_ns": None}])
def test_only_long_recordings_are_changed(recording: TraceInfo, changes: dict[str, object]) -> None:
    short = replace(recording, **changes)  # type: ignore[arg-type]
    other = replace(picked(recording, 20_000.0), station="XX.B")
    assert with_neighbours([short, other])[0] == short
