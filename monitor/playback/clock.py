"""Time, as the server sees it; tests put their own in its place."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from.

    Attributes:
        now_ns: The time of day, nanoseconds since the epoch.
        monotonic: Seconds that only increase.
        sleep: Wait so many seconds of `monotonic`.
    """

    now_ns: Callable[[], int] = time.time_ns
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
