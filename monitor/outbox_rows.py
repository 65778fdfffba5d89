"""What the outbox reads from its SQLite file and writes to it; each within the transaction of whoever calls."""

import itertools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from monitor.outbox_file import INSERT_MESSAGE, INSERT_TOLD, MESSAGE_COLUMNS, checksum, is_sound
from monitor.outbox_message import Key, Lane, OutboxMessage, Queued
from monitor.timebase import seconds_to_ns

# What a detection told so long ago can no longer be computed again: no server's ring and no saved position goes back
# further. About 100 bytes each.
TOLD_AGE_S: Final = 7 * 86400.0
TOLD_MOST: Final = 100_000
# A computer without a battery clock starts in the past: such a time says nothing about a message's age.
_CLOCK_SET_NS: Final = 1_577_836_800 * 10**9  # 2020-01-01
_LANES: Final[tuple[Lane, Lane]] = ("live", "backfill")

DEMOTE: Final = """
UPDATE message SET lane = 1 WHERE lane = 0 AND created_ns < ?1 AND (
    detection_id ISNULL OR detection_id NOT IN (
        SELECT detection_id FROM message WHERE lane = 0 AND created_ns >= ?1 AND detection_id NOTNULL
    )
)
"""
HOLD: Final = "UPDATE message SET held = ? WHERE seq = ?"
RESTORE: Final = "UPDATE message SET held = NULL WHERE held = ?"
RESTORE_ALL: Final = "UPDATE message SET held = NULL WHERE held NOTNULL"


def insert(db: sqlite3.Connection, message: OutboxMessage, now_ns: int) -> int | None:
    """Add a message; return its number, None where its key was told before on its topic."""
    key = message.key
    if key is not None and not db.execute(INSERT_TOLD, (*key, message.topic, now_ns)).rowcount:
        return None
    values = (
        *(message.topic, message.payload, message.qos, int(message.retain), message.expiry_s),
        *(key if key is not None else (None, None)),
        *(_LANES.index(message.lane), message.created_ns, message.size, None),
        checksum(message.topic, message.payload, key),
    )
    row = db.execute(INSERT_MESSAGE, values).lastrowid
    if key is not None and message.lane == "live":
        # What it revises has to go before it, so that becomes live too.
        db.execute("UPDATE message SET lane = 0 WHERE detection_id = ? AND lane = 1", (key.detection_id,))
    return row


def delete(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Forget messages."""
    db.executemany("DELETE FROM message WHERE seq = ?", [(number,) for number in numbers])


def drop_aged(db: sqlite3.Connection, before_ns: int) -> int:
    """Drop what was made before then, unless the clock cannot have been right; return how many."""
    span = (_CLOCK_SET_NS, before_ns)
    return db.execute("DELETE FROM message WHERE created_ns >= ? AND created_ns < ?", span).rowcount


def drop_oversize(db: sqlite3.Connection, max_bytes: int) -> int:
    """Drop what is too much: what the broker does not take, then backfill, the oldest of each; return how many."""
    excess = db.execute("SELECT sum(bytes) FROM total").fetchone()[0] - max_bytes
    dropped = []
    if excess > 0:
        for seq, size in db.execute("SELECT seq, size FROM message ORDER BY held ISNULL, lane DESC, seq"):
            dropped.append(seq)
            excess -= size
            if excess <= 0:
                break
    delete(db, dropped)
    return len(dropped)


def prune_told(db: sqlite3.Connection, now_ns: int) -> None:
    """Forget keys that are too old or too many."""
    db.execute("DELETE FROM told WHERE told_ns < ?", (now_ns - seconds_to_ns(TOLD_AGE_S),))
    first_dropped = "SELECT told_ns FROM told ORDER BY told_ns DESC LIMIT 1 OFFSET ?"
    db.execute(f"DELETE FROM told WHERE told_ns <= ({first_dropped})", (TOLD_MOST,))


def is_told(db: sqlite3.Connection, key: Key, topic: str | None) -> bool:
    """Say whether a message with this key was taken, on this topic or any."""
    topics = db.execute("SELECT topic FROM told WHERE detection_id = ? AND revision = ?", key)
    return any(topic in (None, told) for (told,) in topics)


def first(db: sqlite3.Connection, *, lane: int, limit: int, take: Callable[[int, str | None], bool]) -> list[Queued]:
    """Read the first messages of a lane that are taken; `take` is asked with the number and the detection.

    Raises:
        sqlite3.DatabaseError: One of them is not what was written.
    """
    if limit <= 0:
        return []
    order = db.execute("SELECT seq, detection_id FROM message WHERE held ISNULL AND lane = ? ORDER BY seq", (lane,))
    numbers = list(itertools.islice((row[0] for row in order if take(*row)), limit))
    query = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE seq = ?"
    return [Queued(number, _message(db.execute(query, (number,)).fetchone())) for number in numbers]


def waiting_backfill(db: sqlite3.Connection) -> set[str | None]:
    """Name the detections of which backfill waits."""
    query = "SELECT DISTINCT detection_id FROM message WHERE held ISNULL AND lane = 1 AND detection_id NOTNULL"
    return {row[0] for row in db.execute(query)}


def totals(db: sqlite3.Connection) -> tuple[int, int, int, int | None]:
    """Count messages that wait and that are held, the bytes of all, and tell when the oldest that waits was made."""
    (depth, waiting_bytes), (held, held_bytes) = db.execute("SELECT messages, bytes FROM total ORDER BY held")
    oldest_ns = db.execute("SELECT min(created_ns) FROM message WHERE held ISNULL").fetchone()[0]
    return depth, held, waiting_bytes + held_bytes, oldest_ns


def _message(row: Sequence[Any]) -> OutboxMessage:
    if not is_sound(row):
        error = sqlite3.DatabaseError(f"the message about {row[0]!r} is not what was written")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    topic, payload, qos, retain, expiry_s, detection_id, revision, lane, created_ns, *_ = row
    return OutboxMessage(
        topic=topic,
        payload=payload,
        created_ns=created_ns,
        qos=qos,
        retain=bool(retain),
        expiry_s=expiry_s,
        key=None if detection_id is None else Key(detection_id, revision),
        lane=_LANES[lane],
    )
