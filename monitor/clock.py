"""The host's clock: what time it says, and whether the kernel believes it.

`adjtimex(2)` read only, as `ntp_adjtime` of RFC 5905's reference implementation: chrony (with `rtcsync`, Debian's
default), systemd-timesyncd and ntpd all tell the kernel when they have the time.
"""

import ctypes
import time
from dataclasses import dataclass
from typing import Protocol

# From linux/timex.h.
_TIME_ERROR = 5
_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_NS_PER_US = 1000


class _Timex(ctypes.Structure):
    """`struct timex` of the C library; what is not read here keeps its place."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        # constant, precision, tolerance, time (two), tick, ppsfreq, jitter, shift, stabil, jitcnt, calcnt, errcnt,
        # stbcnt, tai and eleven unused integers: fewer than this on every architecture.
        ("rest", ctypes.c_long * 32),
    )


@dataclass(frozen=True, slots=True)
class Discipline:
    """How well the kernel thinks its clock is kept.

    Attributes:
        synchronised: Something keeps the clock on time.
        offset_ns: What is still to be corrected, nanoseconds; positive where the clock is behind.
        error_ns: Estimated error, nanoseconds; a bound is `max_error_ns`.
        max_error_ns: Largest possible error, nanoseconds; grows while nothing corrects the clock.
    """

    synchronised: bool
    offset_ns: int
    error_ns: int
    max_error_ns: int


class Clock(Protocol):
    """What tells the time; tests bring their own."""

    def now_ns(self) -> int:
        """UTC, nanoseconds since the epoch."""

    def monotonic_ns(self) -> int:
        """Time since some moment, nanoseconds; never goes back."""

    def discipline(self) -> Discipline | None:
        """How well the clock is kept; None where the host does not say."""

    def synchronised(self) -> bool | None:
        """Is the clock on time? None where the host does not say."""


class HostClock:
    """This computer's clock."""

    def __init__(self) -> None:
        self._adjtimex = _load_adjtimex()

    def now_ns(self) -> int:
        """UTC, nanoseconds since the epoch."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Time since the computer was started, nanoseconds."""
        return time.monotonic_ns()

    def discipline(self) -> Discipline | None:
        """How well the kernel thinks the clock is kept; None where it does not say, as in some containers."""
        if self._adjtimex is None:
            return None
        timex = _Timex()  # modes 0: nothing is set
        state = self._adjtimex(ctypes.byref(timex))
        return None if state < 0 else _read(state, timex)

    def synchronised(self) -> bool | None:
        """Is the clock on time? None where the host does not say."""
        discipline = self.discipline()
        return None if discipline is None else discipline.synchronised


class FixedClock:
    """A clock that stands until it is set; for tests and rehearsals.

    Args:
        now_ns: UTC, nanoseconds since the epoch.
        discipline: What it says of itself.
    """

    def __init__(self, now_ns: int, *, discipline: Discipline | None = None) -> None:
        self._now_ns, self._discipline = now_ns, discipline

    def advance(self, by_ns: int) -> None:
        """Let time pass, nanoseconds."""
        self._now_ns += by_ns

    def now_ns(self) -> int:
        """UTC, nanoseconds since the epoch."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """The same as `now_ns`."""
        return self._now_ns

    def discipline(self) -> Discipline | None:
        """What it was made with."""
        return self._discipline

    def synchronised(self) -> bool | None:
        """What it was made with."""
        return None if self._discipline is None else self._discipline.synchronised


def _load_adjtimex() -> "ctypes._NamedFuncPointer | None":
    try:
        function = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):  # not Linux
        return None
    function.argtypes, function.restype = [ctypes.POINTER(_Timex)], ctypes.c_int
    return function


def _read(state: int, timex: _Timex) -> Discipline:
    scale = 1 if timex.status & _STA_NANO else _NS_PER_US
    return Discipline(
        synchronised=state != _TIME_ERROR and not timex.status & _STA_UNSYNC,
        offset_ns=timex.offset * scale,
        error_ns=timex.esterror * _NS_PER_US,
        max_error_ns=timex.maxerror * _NS_PER_US,
    )
