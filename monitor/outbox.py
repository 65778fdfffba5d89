"""The durable queue ahead of the broker: on disk before it is offered, gone when the broker has acknowledged it.

Order: live before backfill, each in the order of arrival, and the revisions of one detection in theirs, whatever their
lanes. Bounds are `OutboxSettings`'; what is dropped is counted by reason. Where the disk fails, messages are kept in
memory, within the bounds of `monitor.outbox_memory`, and moved to disk as soon as it works again.

Synchronous, for one thread: a write waits for the disk, on a memory card for tens of milliseconds.
`monitor.outbox_thread` serves an event loop.
"""

import functools
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

from monitor import outbox_rows as rows
from monitor.outbox_file import DamagedError, is_busy, is_damage, open_file, replace_damaged, transaction
from monitor.outbox_memory import MemoryQueue
from monitor.outbox_message import Key, OutboxMessage, Queued
from monitor.settings import OutboxSettings
from monitor.timebase import seconds_to_ns

# Calls of `put` between two looks at how many keys are remembered.
_PRUNE_EVERY: Final = 256
TRY_AGAIN_S: Final = 30.0

DropReason = Literal["size", "age", "memory"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """How full an outbox is.

    Attributes:
        depth: Messages that wait to be sent.
        held: Messages that the broker does not take.
        nbytes: Of all these.
        oldest_ns: When the oldest that waits was made; None where none waits.
        dropped: Reason -> messages given up since the start: too many bytes, too old, or too much for the memory while
            the disk failed.
        problem: Why messages are in memory only; None while the disk works.
    """

    depth: int = 0
    held: int = 0
    nbytes: int = 0
    oldest_ns: int | None = None
    dropped: dict[DropReason, int] = field(default_factory=lambda: {"size": 0, "age": 0, "memory": 0})
    problem: str | None = None


class OutboxError(Exception):
    """Messages are not on disk, but in memory, and are sent if the process lives long enough; the message says why."""


class OutboxBusyError(Exception):
    """Another process uses this outbox."""


class Outbox:
    """Messages on their way to the broker.

    A damaged file is renamed, what can be read of it is taken over, and a note made; where none can be opened, messages
    wait in memory, and each `put` tries again.

    Args:
        path: The SQLite file, made where missing; its folder must exist.
        settings: Bounds.
        clock: This computer's time, nanoseconds since the epoch.

    Attributes:
        notices: What went wrong with the file, in words; whoever logs them clears the list.

    Raises:
        OutboxBusyError: Another process uses it.
    """

    def __init__(self, path: Path, settings: OutboxSettings, *, clock: Callable[[], int]) -> None:
        self.notices: list[str] = []
        self._path = path
        self._settings = settings
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._problem: str | None = None
        self._memory = MemoryQueue()
        # Number in memory -> number on disk, of messages that were moved while under way.
        self._moved: dict[int, int] = {}
        # On disk and acknowledged, but the disk would not forget them.
        self._removed: set[int] = set()
        self._dropped: dict[DropReason, int] = {"size": 0, "age": 0}
        self._puts = 0
        # The highest number given away, and how often the file was replaced.
        self._highest = self._replaced = 0
        self._tried_ns = 0
        self._open()

    def put(self, message: OutboxMessage) -> bool:
        """Take a message; it is on disk when this returns.

        Returns:
            False where its key was told before on its topic.

        Raises:
            OutboxError: It is in memory only.
        """
        return self.put_many([message]) == 1

    def put_many(self, messages: Iterable[OutboxMessage]) -> int:
        """Take several messages with one wait for the disk.

        Returns:
            How many of them are new.

        Raises:
            OutboxError: They are in memory only.
        """
        messages = list(messages)
        if self._db is None:
            self._open()
        # Once more where the file turned out to be damaged and could be replaced.
        for _ in range(2):
            if self._db is None:
                break
            try:
                return self._store(self._db, messages)
            except sqlite3.Error as error:
                if not self._mend(error):
                    break
        for message in messages:
            if message.key is None or not self._told(message.key, message.topic):
                self._memory.add(message)
        raise OutboxError(
            f"{self._path} {self._problem}; {len(self._memory)} messages wait in memory, and are lost if the program"
            " ends before they are sent"
        )

    def already_told(self, key: Key) -> bool:
        """Say whether a message with this key was taken, whether or not it has been sent since."""
        return self._told(key, None)

    def next(self, limit: int, *, but: Collection[int] = (), but_of: Collection[str] = ()) -> list[Queued]:
        """Say what to send.

        Of each detection one message is given at a time: a later revision must not overtake an earlier one that the
        broker may still turn down.

        Args:
            limit: Most messages.
            but: Numbers of messages that are under way.
            but_of: Detections of which a message is under way.

        Returns:
            In the order in which to send them.
        """
        self._try_again()
        replaced = self._replaced
        found = self._next(limit, but, but_of)
        if self._replaced > replaced:
            # The file was found to be damaged; what could be read of it is in a new one, under new numbers.
            found = self._next(limit, but, but_of)
        self._highest = max([self._highest, *(queued.number for queued in found)])
        return found

    def _next(self, limit: int, but: Collection[int], but_of: Collection[str]) -> list[Queued]:
        self._moved = {number: row for number, row in self._moved.items() if number in but}
        skipped = {self._moved.get(number, number) for number in but} | self._removed
        busy = set(but_of)

        def take(number: int, detection_id: str | None) -> bool:
            if number in skipped or detection_id in busy:
                return False
            if detection_id is not None:
                busy.add(detection_id)
            return True

        found: list[Queued] = []
        for lane, in_memory in enumerate(self._memory_lanes()):
            on_disk = functools.partial(rows.first, lane=lane, limit=limit - len(found), take=take)
            found += self._attempt(on_disk, [])
            for number, message in in_memory:
                if len(found) < limit and take(number, message.detection_id):
                    found.append(Queued(number, message))
        return found

    def remove(self, numbers: Iterable[int]) -> None:
        """Forget messages that the broker has acknowledged; unknown numbers are ignored.

        Where the disk fails they are not offered again by this process, but by the next one.
        """
        for number in map(self._row, numbers):
            if number < 0:
                self._memory.remove(number)
            else:
                self._removed.add(number)

        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                rows.delete(db, list(self._removed))
            self._removed.clear()

        if self._removed:
            self._attempt(work, None)

    def hold(self, number: int, reason: str) -> None:
        """Set a message aside that the broker does not take: kept within the bounds, but not offered.

        One that is in memory only is forgotten.

        Args:
            number: Of the message.
            reason: What `restore` may ask for.
        """
        row = self._row(number)
        if row < 0:
            self._memory.remove(row)
        self._write(rows.HOLD, reason, row)

    def restore(self, reasons: Collection[str] | None = None) -> int:
        """Offer again what was set aside.

        Args:
            reasons: For which reasons; None: for any.

        Returns:
            How many messages.
        """
        if reasons is None:
            return self._write(rows.RESTORE_ALL)
        return sum(self._write(rows.RESTORE, reason) for reason in reasons)

    def demote(self, before_ns: int) -> int:
        """Make backfill of what was live when it was made, but was made before then: what is live now goes first.

        Where a newer message of the same detection waits live, all of that detection stays live.

        Returns:
            How many messages.
        """
        return self._write(rows.DEMOTE, before_ns)

    def stats(self) -> OutboxStats:
        """Say how full it is; quick, however full it is."""
        nothing: tuple[int, int, int, int | None] = (0, 0, 0, None)
        depth, held, nbytes, oldest_ns = self._attempt(rows.totals, nothing)
        created = [message.created_ns for _, message in self._memory.items()]
        return OutboxStats(
            depth=depth - len(self._removed) + len(self._memory),
            held=held,
            nbytes=nbytes + self._memory.nbytes,
            oldest_ns=min(created if oldest_ns is None else [*created, oldest_ns], default=None),
            dropped={**self._dropped, "memory": self._memory.dropped},
            problem=self._problem,
        )

    def close(self) -> None:
        """Let go of the file. What is in memory only is lost."""
        if self._db is not None:
            self._db.close()
            self._db = None

    # The disk, and what is done when it fails.

    def _open(self) -> None:
        try:
            try:
                self._db = open_file(self._path)
            except DamagedError as error:
                self._replace(str(error))
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and is_busy(error):
                raise OutboxBusyError(f"{self._path}: another process uses this outbox") from error
            self._fail(error)
        else:
            self._problem = None

    def _replace(self, damage: str) -> None:
        self._db, aside, saved = replace_damaged(self._path, after=self._highest)
        self._replaced += 1
        # What could be read has other numbers now.
        self._removed.clear()
        self._moved.clear()
        self.notices.append(
            f"{self._path} was damaged ({damage}) and is now called {aside.name}; {saved} messages could be read from"
            " it and are sent, perhaps again; others that it may have held are lost"
        )

    def _mend(self, error: sqlite3.Error) -> bool:
        """Replace the file where that is what the error asks for."""
        if self._db is None or not is_damage(error):
            self._fail(error)
            return False
        self.close()
        try:
            self._replace(str(error))
        except (sqlite3.Error, OSError) as second:
            self._fail(second)
            return False
        return True

    def _fail(self, error: Exception) -> None:
        problem = f"cannot be written or read: {error}"
        if problem != self._problem:
            self.notices.append(f"{self._path} {problem}; messages wait in memory")
        self._problem = problem

    def _try_again(self) -> None:
        """See now and then whether the disk works again, though nothing new comes to be written."""
        now_ns = self._clock()
        if self._problem is None or abs(now_ns - self._tried_ns) < seconds_to_ns(TRY_AGAIN_S):
            return
        self._tried_ns = now_ns
        if self._db is None:
            self._open()
        if self._db is not None:
            try:
                self._store(self._db, [])
            except sqlite3.Error as error:
                self._mend(error)

    def _attempt(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Do something with the file; where it fails, go on with what is in memory."""
        if self._db is None:
            return otherwise
        try:
            return work(self._db)
        except sqlite3.Error as error:
            self._mend(error)
            return otherwise

    def _write(self, statement: str, *values: object) -> int:
        def work(db: sqlite3.Connection) -> int:
            with transaction(db):
                return db.execute(statement, values).rowcount

        return self._attempt(work, 0)

    # What is written.

    def _store(self, db: sqlite3.Connection, messages: Sequence[OutboxMessage]) -> int:
        now_ns = self._clock()
        with transaction(db):
            moved = {number: rows.insert(db, message, now_ns) for number, message in self._memory.items()}
            fresh = sum(rows.insert(db, message, now_ns) is not None for message in messages)
            aged = rows.drop_aged(db, now_ns - seconds_to_ns(self._settings.max_age_s))
            oversize = rows.drop_oversize(db, self._settings.max_bytes)
            if self._puts % _PRUNE_EVERY == 0:
                rows.prune_told(db, now_ns)
        self._dropped["age"] += aged
        self._dropped["size"] += oversize
        self._puts += 1
        self._memory.clear()
        self._moved |= {number: row for number, row in moved.items() if row is not None}
        self._problem = None
        return fresh

    # What is read.

    def _told(self, key: Key, topic: str | None) -> bool:
        return self._memory.holds(key, topic) or self._attempt(lambda db: rows.is_told(db, key, topic), False)

    def _row(self, number: int) -> int:
        return self._moved.get(number, number)

    def _memory_lanes(self) -> tuple[list[tuple[int, OutboxMessage]], list[tuple[int, OutboxMessage]]]:
        """Split what is in memory; what revises backfill is backfill here, since the disk takes no change of lanes."""
        lanes: tuple[list[tuple[int, OutboxMessage]], list[tuple[int, OutboxMessage]]] = ([], [])
        waiting: set[str | None] = set()
        if len(self._memory) > 0:
            waiting = self._attempt(rows.waiting_backfill, waiting)
        for number, message in self._memory.items():
            patient = message.lane == "backfill" or message.detection_id in waiting
            if patient and message.detection_id is not None:
                waiting.add(message.detection_id)
            lanes[patient].append((number, message))
        return lanes
