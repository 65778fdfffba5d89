"""Where messages wait while the disk fails."""

from collections.abc import Iterator
from typing import Final

from monitor.outbox_message import Key, OutboxMessage

# A detection is about 1 kB.
MEMORY_MESSAGES: Final = 2000
MEMORY_BYTES: Final = 4 * 1024 * 1024


class MemoryQueue:
    """Messages in the order of their arrival, under numbers below zero; the oldest backfill gives way, then the oldest.

    Attributes:
        nbytes: Of all messages.
        dropped: Messages that had to give way.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self.dropped = 0
        self._messages: dict[int, OutboxMessage] = {}
        self._next = -1

    def __len__(self) -> int:
        return len(self._messages)

    def items(self) -> Iterator[tuple[int, OutboxMessage]]:
        """Give numbers and messages, the oldest first."""
        yield from self._messages.items()

    def holds(self, key: Key, topic: str | None = None) -> bool:
        """Say whether a message with this key waits, on this topic or any."""
        return any(m.key == key and topic in (None, m.topic) for m in self._messages.values())

    def add(self, message: OutboxMessage) -> None:
        """Take a message."""
        self._messages[self._next] = message
        self._next -= 1
        self.nbytes += message.size
        while len(self._messages) > MEMORY_MESSAGES or self.nbytes > MEMORY_BYTES:
            backfill = (number for number, m in self._messages.items() if m.lane == "backfill")
            self.remove(next(backfill, next(iter(self._messages))))
            self.dropped += 1

    def remove(self, number: int) -> None:
        """Forget a message; an unknown number is ignored."""
        message = self._messages.pop(number, None)
        if message is not None:
            self.nbytes -= message.size

    def clear(self) -> None:
        """Forget all: they are on disk now."""
        self._messages.clear()
        self.nbytes = 0
