"""The ring of one channel's newest samples, against a dictionary."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitor.ringbuffer import RingBuffer


class Oracle:
    """What a ring holds, the slow way."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.held, self.end = capacity, dict[int, float](), None

    held: dict[int, float]
    end: int | None

    def write(self, index: int, samples: list[float]) -> int:
        dropped = 0
        for at, sample in enumerate(samples, index):
            if self.end is not None and at < self.end:
                dropped += 1
                continue
            self.held[at] = sample
            self.end = at + 1
        return dropped

    def read(self, start: int, stop: int) -> tuple[list[float], list[bool]]:
        oldest = (self.end or 0) - self.capacity
        held = {at: value for at, value in self.held.items() if at >= oldest}
        return [held.get(at, 0.0) for at in range(start, stop)], [at in held for at in range(start, stop)]


@settings(max_examples=150)
@given(
    capacity=st.integers(1, 12),
    origin=st.sampled_from([0, -7, 170_000_000_000]),
    writes=st.lists(st.tuples(st.integers(-9, 30), st.integers(0, 30)), max_size=12),
    read=st.tuples(st.integers(-20, 60), st.integers(0, 60)),
)
@example(capacity=4, origin=0, writes=[(0, 3), (17, 30)], read=(0, 60))
def test_any_writes_and_reads(capacity: int, origin: int, writes: list[tuple[int, int]], read: tuple[int, int]) -> None:
    ring, oracle = RingBuffer(capacity), Oracle(capacity)
    value, at = 1.0, origin
    for step, length in writes:
        samples = np.arange(value, value + length)
        value += length
        assert ring.write(at + step, samples) == oracle.write(at + step, samples.tolist())
        assert ring.end == oracle.end
        at = origin if oracle.end is None else oracle.end
        start = at - 30 + read[0]
        for first, stop in ((start, start + read[1]), (at - capacity - 2, at + 2)):
            found, valid = ring.read(first, stop)
            assert (found.tolist(), valid.tolist()) == oracle.read(first, stop)


def test_nothing_written_is_nothing_held() -> None:
    ring = RingBuffer(5)
    assert ring.write(100, np.empty(0)) == 0
    assert ring.end is None
    samples, valid = ring.read(98, 103)
    assert not valid.any()
    assert not samples.any()
    assert ring.capacity == 5


def test_what_is_read_is_a_copy() -> None:
    ring = RingBuffer(5)
    given_samples = np.arange(3.0)
    ring.write(0, given_samples)
    samples, valid = ring.read(0, 3)
    samples[:], valid[:], given_samples[:] = -1, False, -2
    again, still = ring.read(0, 3)
    assert again.tolist() == [0.0, 1.0, 2.0]
    assert still.all()


@pytest.mark.parametrize("capacity", [0, -1])
def test_no_capacity_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"ring capacity is {capacity} samples"):
        RingBuffer(capacity)
