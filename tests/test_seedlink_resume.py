import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.records import ChannelId, Segment
from monitor.sources.seedlink_request import Start
from monitor.sources.seedlink_resume import CHANNEL_SPREAD_NS, TIME_MARGIN_NS, Hole, Position, StationTrail, first_start
from monitor.timebase import NS_PER_SECOND
from tests.seedlink_source import T0

S = NS_PER_SECOND


def piece(second: float, *, component: str = "Z", seconds: float = 1.0) -> Segment:
    samples = np.zeros(round(100 * seconds), np.int32)
    return Segment(ChannelId("XX", "ABC", "", "HH" + component), T0 + round(second * S), 100.0, samples)


def follow(trail: StationTrail, first: int, count: int, component: str = "Z") -> None:
    for number in range(first, first + count):
        segments, hole = trail.screen([piece(number, component=component)])
        assert hole is None
        trail.advance(number, segments, "4")


def test_goes_on_after_the_last_packet() -> None:
    trail = StationTrail()
    assert trail.resume("4") is None
    assert trail.by_time() is None
    follow(trail, 0, 5)
    assert trail.resume("4") == Start(5, T0 + 4 * S)
    # A number of one version means nothing in the other.
    assert trail.resume("3") == Start(None, T0 + 5 * S - TIME_MARGIN_NS)


@pytest.mark.parametrize(
    ("protocol", "last", "following"), [("3", 0xFFFFFF, 0), ("4", 0xFFFFFF, 0x1000000), ("4", 2**64 - 1, 0)]
)
def test_numbers_begin_again(protocol: str, last: int, following: int) -> None:
    trail = StationTrail()
    version = "3" if protocol == "3" else "4"
    trail.advance(last, [piece(0)], version)  # type: ignore[arg-type]
    start = trail.resume(version)  # type: ignore[arg-type]
    assert start is not None
    assert start.sequence == following


def test_by_time_the_channel_that_is_behind_counts_unless_it_has_ended() -> None:
    trail = StationTrail()
    follow(trail, 0, 5, "N")
    follow(trail, 0, 9, "Z")
    assert trail.by_time() == Start(None, T0 + 5 * S - TIME_MARGIN_NS)
    trail.advance(99, [piece(5 + CHANNEL_SPREAD_NS / S + 1)], "4")
    assert trail.by_time() == Start(None, T0 + 7 * S + CHANNEL_SPREAD_NS - TIME_MARGIN_NS)


def test_a_packet_from_the_future_moves_no_position() -> None:
    trail = StationTrail()
    # As long as nothing else is known, and where it is this computer's clock that is wrong, it is all there is.
    trail.advance(6, [piece(3600)], "4", believed=False)
    assert trail.resume("4") == Start(7, T0 + 3600 * S)
    follow(trail, 7, 70)
    expected = Start(77, T0 + 76 * S)
    trail.advance(77, [piece(3700)], "4", believed=False)
    assert trail.resume("4") == expected
    assert trail.by_time() == Start(None, T0 + 77 * S - TIME_MARGIN_NS)
    # What follows is new, however often it was resumed.
    kept, hole = trail.screen([piece(77)])
    assert (len(kept), hole) == (1, None)


def test_what_comes_again_is_left_out_only_after_a_new_connection() -> None:
    trail = StationTrail()
    follow(trail, 0, 5)
    # A server's own duplicate is not ours to judge.
    assert trail.screen([piece(4)])[0]
    trail.resume("4")
    assert trail.screen([piece(3), piece(4)]) == ((), None)
    kept, hole = trail.screen([piece(5)])
    assert (len(kept), hole) == (1, None)
    trail.advance(5, kept, "4")
    assert trail.screen([piece(5)])[0]


def test_late_data_are_not_taken_for_a_repetition() -> None:
    trail = StationTrail()
    for second in (0, 1, 3):
        trail.advance(second, [piece(second)], "4")
    trail.resume("4")
    kept, hole = trail.screen([piece(2)])
    assert (len(kept), hole) == (1, None)


def test_a_hole_is_told_once_for_each_connection() -> None:
    trail = StationTrail()
    for component in "ZN":
        follow(trail, 0, 5, component)
    for _ in range(2):
        trail.resume("4")
        assert trail.screen([piece(9)])[1] == Hole(T0 + 5 * S, T0 + 9 * S)
        assert trail.screen([piece(9, component="N")])[1] is None


def test_without_a_new_connection_a_gap_is_not_ours_to_tell() -> None:
    trail = StationTrail()
    follow(trail, 0, 5)
    assert trail.screen([piece(60)])[1] is None


def test_after_a_restart_what_is_not_needed_is_left_out() -> None:
    trail = StationTrail(T0 + 5 * S)
    assert trail.screen([piece(3)]) == ((), None)
    assert trail.screen([piece(4)]) == ((), None)
    kept, hole = trail.screen([piece(4.5)])
    assert (len(kept), hole) == (1, None)
    trail.advance(1, kept, "4")
    kept, hole = trail.screen([piece(5, component="N")])
    assert (len(kept), hole) == (1, None)


def test_after_a_restart_a_hole_is_told() -> None:
    trail = StationTrail(T0)
    assert trail.screen([piece(7)])[1] == Hole(T0, T0 + 7 * S)


def test_a_channel_that_is_new_long_after_a_restart_is_no_hole() -> None:
    trail = StationTrail(T0)
    trail.advance(1, [piece(0)], "4")
    trail.advance(2, [piece(CHANNEL_SPREAD_NS / S + 5)], "4")
    assert trail.screen([piece(CHANNEL_SPREAD_NS / S + 6, component="N")])[1] is None


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 8))
def test_nothing_is_lost_or_doubled_wherever_the_server_begins_again(received: int, back: int, more: int) -> None:
    trail = StationTrail()
    follow(trail, 0, received)
    trail.resume("4")
    times = []
    for second in range(max(0, received - back), received + more):
        kept, hole = trail.screen([piece(second)])
        assert hole is None
        if kept:
            trail.advance(second, kept, "4")
        times += [segment.starttime_ns for segment in kept]
    assert times == [T0 + second * S for second in range(received, received + more)]


@pytest.mark.parametrize(
    ("positions", "shares", "start", "floor_ns"),
    [
        ([], False, Start(None, T0 - 60 * S), None),
        ([Position("XX.ABC", "here", 41, T0)], False, Start(41, T0 - TIME_MARGIN_NS), T0),
        ([Position("XX.ABC", "here", 0x1000005, T0)], False, Start(5, T0 - TIME_MARGIN_NS), T0),
        ([Position("XX.ABC", "here", 41, T0)], True, Start(None, T0 - TIME_MARGIN_NS), T0),
        ([Position("XX.ABC", "here", 41, None)], True, Start(41, None), None),
        ([Position("XX.ABC", "here", None, T0)], False, Start(None, T0 - TIME_MARGIN_NS), T0),
        ([Position("XX.ABC", "there", 41, T0)], False, Start(None, T0 - TIME_MARGIN_NS), T0),
        ([Position("XX.ABC", "there", 41, None)], False, Start(None, T0 - 60 * S), None),
        (
            [Position("XX.ABC", "there", 9, T0 - S), Position("XX.ABC", "here", 41, T0)],
            False,
            Start(41, T0 - TIME_MARGIN_NS),
            T0,
        ),
    ],
)
def test_where_a_run_begins(positions: list[Position], shares: bool, start: Start, floor_ns: int | None) -> None:
    assert first_start(
        positions, server="here", protocol="3", shares_sequence=shares, backlog_start_ns=T0 - 60 * S
    ) == (start, floor_ns)
