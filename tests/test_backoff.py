import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.backoff import Backoff


class Highest(random.Random):
    """Always draws the largest."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_limit_doubles_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 10.0, rng=Highest())
    assert [backoff.next_s() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_reset_begins_again() -> None:
    backoff = Backoff(0.5, 60.0, rng=Highest())
    for _ in range(10):
        backoff.next_s()
    backoff.reset()
    assert [backoff.next_s(), backoff.next_s()] == [0.5, 1.0]


@given(st.floats(0.01, 600), st.floats(0.01, 3600), st.integers(0, 2**32))
def test_no_wait_is_longer_than_its_limit(first_s: float, longest_s: float, seed: int) -> None:
    backoff = Backoff(first_s, longest_s, rng=random.Random(seed))
    for _ in range(100):
        limit_s = backoff.limit_s
        assert 0.0 <= backoff.next_s() <= limit_s <= longest_s


def test_the_jitter_is_full() -> None:
    backoff = Backoff(8.0, 8.0, rng=random.Random(1))
    waits = [backoff.next_s() for _ in range(2000)]
    assert min(waits) < 0.1
    assert max(waits) > 7.9
    assert 3.7 < sum(waits) / len(waits) < 4.3


def test_the_same_seed_gives_the_same_waits() -> None:
    one, two = (Backoff(1.0, 60.0, rng=random.Random(7)) for _ in range(2))
    assert [one.next_s() for _ in range(20)] == [two.next_s() for _ in range(20)]


@pytest.mark.parametrize(("first_s", "longest_s"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (float("inf"), 1.0)])
def test_limits_are_checked(first_s: float, longest_s: float) -> None:
    with pytest.raises(ValueError, match="accepted: positive and finite"):
        Backoff(first_s, longest_s)
