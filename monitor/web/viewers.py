"""Browsers that follow, as Server-Sent Events (WHATWG HTML, section 9.2): bounded queues, one encoding for all.

A browser that takes too long loses the oldest of what waits for it, which is counted; it is told, and fetches anew. One
that takes nothing at all is cut off by the listener.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field

import msgspec

# Some seconds of an ordinary stream; more would come too late to be of use.
MOST_MESSAGES = 64
MOST_BYTES = 512 * 1024
# Proxies and browsers take a silent connection for a dead one; also how a vanished browser is found out.
HEARTBEAT_S = 10.0
# How long a browser waits before it comes again.
_RETRY_MS = 2000
OVERVIEW = ""
"""What a viewer watches who looks at all instruments."""


def encode(event: str, data: object) -> bytes:
    """Write one message down; JSON has no line ends of its own."""
    return b"event: " + event.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


_LOST = encode("lost", {})


@dataclass(slots=True, eq=False)
class Viewer:
    """One browser.

    Attributes:
        watches: Name of an instrument, or `OVERVIEW`.
        dropped: Messages that it was too slow for.
    """

    watches: str
    dropped: int = 0
    _waiting: deque[bytes] = field(default_factory=deque)
    _nbytes: int = 0
    _lost: bool = False
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, message: bytes) -> int:
        """Put a message into the queue; how many of those before it had to go."""
        dropped = 0
        while self._waiting and (len(self._waiting) >= MOST_MESSAGES or self._nbytes + len(message) > MOST_BYTES):
            self._nbytes -= len(self._waiting.popleft())
            dropped += 1
        self._lost = self._lost or dropped > 0
        self.dropped += dropped
        self._waiting.append(message)
        self._nbytes += len(message)
        self._arrived.set()
        return dropped

    async def messages(self, *, heartbeat_s: float = HEARTBEAT_S) -> AsyncGenerator[bytes, None]:
        """What goes to the browser, as it comes, without end."""
        yield b"retry: %d\n\n" % _RETRY_MS
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    await self._arrived.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            batch = ([_LOST] if self._lost else []) + list(self._waiting)
            self._waiting.clear()
            self._arrived.clear()
            self._nbytes, self._lost = 0, False
            yield b"".join(batch)


class Viewers:
    """All of them.

    Args:
        most: So many at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._viewers: set[Viewer] = set()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def is_full(self) -> bool:
        """Is there no room for one more?"""
        return len(self._viewers) >= self._most

    def open(self, watches: str) -> Viewer:
        """Let one more in."""
        viewer = Viewer(watches)
        self._viewers.add(viewer)
        return viewer

    def close(self, viewer: Viewer) -> None:
        """It has gone."""
        self._viewers.discard(viewer)

    @property
    def watched(self) -> frozenset[str]:
        """What is looked at."""
        return frozenset(viewer.watches for viewer in self._viewers)

    def send(self, messages: Iterable[bytes], *, to: str | None = None) -> None:
        """Offer messages to all, or to those who watch `to`."""
        for message in messages:
            for viewer in self._viewers:
                if to is None or viewer.watches == to:
                    self.dropped += viewer.offer(message)
