"""The host's clock and what the kernel says of it."""

import ctypes
import time

import pytest

from monitor import clock
from monitor.clock import Clock, Discipline, FixedClock, HostClock


def test_host_clock_tells_the_time() -> None:
    host: Clock = HostClock()
    before = time.time_ns()
    now = host.now_ns()
    assert before <= now <= time.time_ns()
    assert host.monotonic_ns() <= time.monotonic_ns()


def test_host_clock_agrees_with_itself() -> None:
    host = HostClock()
    discipline = host.discipline()
    assert host.synchronised() is (None if discipline is None else discipline.synchronised)
    if discipline is not None:
        assert 0 <= discipline.error_ns <= 2**63
        assert 0 <= discipline.max_error_ns <= 2**63


def test_struct_has_room_for_the_kernels() -> None:
    # sizeof(struct timex) is 208 bytes where long has 8, 128 where it has 4.
    assert ctypes.sizeof(clock._Timex) >= (208 if ctypes.sizeof(ctypes.c_long) == 8 else 128)
    offsets = (clock._Timex.offset.offset, clock._Timex.esterror.offset, clock._Timex.status.offset)
    assert offsets == ((8, 32, 40) if ctypes.sizeof(ctypes.c_long) == 8 else (4, 16, 20))


@pytest.mark.parametrize(
    ("state", "status", "offset", "expected"),
    [
        (0, 0x2001, 1_500, Discipline(synchronised=True, offset_ns=1_500, error_ns=40_000, max_error_ns=9_000_000)),
        (0, 0x0001, -15, Discipline(synchronised=True, offset_ns=-15_000, error_ns=40_000, max_error_ns=9_000_000)),
        (5, 0x0040, 0, Discipline(synchronised=False, offset_ns=0, error_ns=40_000, max_error_ns=9_000_000)),
        (0, 0x0040, 0, Discipline(synchronised=False, offset_ns=0, error_ns=40_000, max_error_ns=9_000_000)),
    ],
)
def test_what_the_kernel_says(
    monkeypatch: pytest.MonkeyPatch, state: int, status: int, offset: int, expected: Discipline
) -> None:
    def adjtimex(pointer: object) -> int:
        timex = pointer._obj  # type: ignore[attr-defined]
        assert timex.modes == 0
        timex.status, timex.offset, timex.esterror, timex.maxerror = status, offset, 40, 9_000
        return state

    host = HostClock()
    monkeypatch.setattr(host, "_adjtimex", adjtimex)
    assert host.discipline() == expected
    assert host.synchronised() is expected.synchronised


@pytest.mark.parametrize("adjtimex", [None, lambda _: -1])
def test_where_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch, adjtimex: object) -> None:
    host = HostClock()
    monkeypatch.setattr(host, "_adjtimex", adjtimex)
    assert host.discipline() is None
    assert host.synchronised() is None


def test_fixed_clock() -> None:
    fixed: Clock = FixedClock(5)
    assert fixed.synchronised() is None
    moving = FixedClock(5, discipline=Discipline(synchronised=True, offset_ns=0, error_ns=1, max_error_ns=2))
    moving.advance(7)
    assert (moving.now_ns(), moving.monotonic_ns(), moving.synchronised()) == (12, 12, True)
    assert moving.discipline() is not None
