"""Segments of one channel in order, whatever order they come in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor.records import ChannelId, Segment
from monitor.reorder import Reorder
from monitor.timebase import NS_PER_SECOND

CHANNEL = ChannelId("XX", "ABC", "", "HHZ")
T0 = 1_700_000_000 * NS_PER_SECOND


def second(number: int, *, seconds: int = 1) -> Segment:
    """A segment of 100 Hz that begins `number` seconds after T0."""
    samples = np.arange(100 * seconds, dtype=np.int32) + 100 * number
    return Segment(CHANNEL, T0 + number * NS_PER_SECOND, 100.0, samples)


def push(reorder: Reorder, *numbers: int) -> list[int]:
    out = []
    for received, number in enumerate(numbers):
        for segment in reorder.push(second(number), received_ns=T0 + received * NS_PER_SECOND):
            out.append((segment.starttime_ns - T0) // NS_PER_SECOND)
    return out


def test_what_comes_in_order_is_passed_on_at_once() -> None:
    reorder = Reorder(5.0)
    for number in range(4):
        assert push(reorder, number) == [number]


def test_a_hole_is_waited_for_and_filled() -> None:
    reorder = Reorder(5.0)
    assert push(reorder, 0, 2, 3) == [0]
    assert reorder.held_from_ns == T0 + 2 * NS_PER_SECOND
    assert push(reorder, 1) == [1, 2, 3]
    assert reorder.counts.out_of_order == 1
    assert reorder.held_from_ns is None


def test_a_hole_that_nobody_fills_is_given_up() -> None:
    reorder = Reorder(3.0)
    assert push(reorder, 0, 2, 3, 4, 5) == [0, 2, 3, 4, 5]
    assert push(Reorder(3.0), 0, 2, 3) == [0]


def test_the_second_of_two_servers_is_a_duplicate() -> None:
    reorder = Reorder(5.0)
    assert push(reorder, 0, 0, 1, 1, 2, 2) == [0, 1, 2]
    assert reorder.counts.duplicates == 3


def test_a_clock_set_back_is_followed_after_minutes_of_nothing_new() -> None:
    reorder = Reorder(5.0)
    assert push(reorder, 10_000) == [10_000]
    got = push(reorder, *range(400))
    assert got == list(range(300, 400))
    assert reorder.counts.clock_set_back == 1


def test_what_is_held_is_bounded() -> None:
    reorder = Reorder(100.0)
    push(reorder, 0)
    numbers = [2 + number // 100 for number in range(2000)]
    for number in numbers:
        reorder.push(second(number), received_ns=T0)
    assert len(reorder._held) <= 513


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=6))
def test_any_order_within_the_wait_gives_one_order(order: list[int], again: list[int]) -> None:
    reorder = Reorder(100.0)
    # The first packet tells where the stream begins.
    out = push(reorder, -1, *order, *again) + [
        (segment.starttime_ns - T0) // NS_PER_SECOND for segment in reorder.flush()
    ]
    assert out == [-1, *range(8)]
