"""The SQLite file behind the outbox: how it is opened and checked, and what is done when it is damaged."""

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

SCHEMA_VERSION: Final = 2
# "monO": tells this file from any other SQLite database.
APPLICATION_ID: Final = 0x6D6F6E4F
# Copies of damaged files that are kept for whoever wants to look; more would fill a memory card.
KEPT_DAMAGED: Final = 2
# For another process that is just ending.
LOCK_WAIT_S: Final = 2.0

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# `total` is kept by triggers: counting 60,000 messages at every step would take longer than sending one.
_CREATE: Final = f"""
CREATE TABLE message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: an acknowledgement may come late
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    expiry_s INTEGER,
    detection_id TEXT,
    revision INTEGER,
    lane INTEGER NOT NULL,                  -- 0 live, 1 backfill
    created_ns INTEGER NOT NULL,
    size INTEGER NOT NULL,
    held TEXT,                              -- why the broker does not take it; NULL: it waits to be sent
    crc INTEGER                             -- of topic, payload and key; NULL: version 1 had none
);
CREATE INDEX message_order ON message (held, lane, seq, detection_id);
CREATE INDEX message_age ON message (held, created_ns);
CREATE INDEX message_detection ON message (detection_id, lane);
CREATE TABLE told (
    detection_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    topic TEXT NOT NULL,
    told_ns INTEGER NOT NULL,
    PRIMARY KEY (detection_id, revision, topic)
) WITHOUT ROWID;
CREATE INDEX told_age ON told (told_ns);
CREATE TABLE total (held INTEGER PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO total VALUES (0, 0, 0), (1, 0, 0);
CREATE TRIGGER message_in AFTER INSERT ON message BEGIN
    UPDATE total SET messages = messages + 1, bytes = bytes + new.size WHERE held = (new.held NOTNULL);
END;
CREATE TRIGGER message_out AFTER DELETE ON message BEGIN
    UPDATE total SET messages = messages - 1, bytes = bytes - old.size WHERE held = (old.held NOTNULL);
END;
CREATE TRIGGER message_held AFTER UPDATE OF held ON message BEGIN
    UPDATE total SET messages = messages - 1, bytes = bytes - old.size WHERE held = (old.held NOTNULL);
    UPDATE total SET messages = messages + 1, bytes = bytes + new.size WHERE held = (new.held NOTNULL);
END;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_UPGRADE: Final = "BEGIN IMMEDIATE; ALTER TABLE message ADD COLUMN crc INTEGER; PRAGMA user_version = 2; COMMIT;"
_MESSAGE_COLUMNS_1: Final = (
    "topic, payload, qos, retain, expiry_s, detection_id, revision, lane, created_ns, size, held"
)
MESSAGE_COLUMNS: Final = f"{_MESSAGE_COLUMNS_1}, crc"
INSERT_MESSAGE: Final = f"INSERT INTO message ({MESSAGE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_TOLD: Final = "INSERT OR IGNORE INTO told VALUES (?, ?, ?, ?)"
_MESSAGE_TYPES: Final = (
    *(str, bytes, int, int, int | None, str | None, int | None, int, int, int, str | None, int | None),
)
_TOLD_TYPES: Final = (str, int, str, int)


def checksum(topic: str, payload: bytes, key: tuple[str, int] | None) -> int:
    """CRC-32 of what is published: SQLite checks the structure of its pages, not what stands in them."""
    return zlib.crc32(payload, zlib.crc32(repr((topic, *(key or ()))).encode()))


def is_sound(row: Sequence[Any]) -> bool:
    """Tell whether a row of `MESSAGE_COLUMNS` says what was written."""
    topic, payload, _, _, _, detection_id, revision, *_, crc = row
    key = None if detection_id is None else (detection_id, revision)
    return crc is None or crc == checksum(topic, payload, key)


class DamagedError(Exception):
    """The file is no database of ours, or a broken one; the message says how that showed."""


def is_damage(error: sqlite3.Error) -> bool:
    """Tell a broken file from a full disk, missing rights and the like, which may pass."""
    # The low byte is the primary code, https://www.sqlite.org/rescode.html
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another process has the file."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file, make it where it is missing, and check every page of it.

    Write-ahead log and `synchronous=FULL`: what was committed survives a power cut
    (https://www.sqlite.org/pragma.html#pragma_synchronous). The lock is exclusive: two monitors that share an outbox
    would send everything twice.

    Raises:
        DamagedError: It is not what this program wrote.
        sqlite3.Error: It cannot be used now: missing rights, full disk, another process.
    """
    db = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # One megabyte, and not kept larger than that after a burst.
        db.execute("PRAGMA wal_autocheckpoint = 256")
        db.execute("PRAGMA journal_size_limit = 1048576")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            db.executescript(f"BEGIN IMMEDIATE; {_CREATE} COMMIT;")
        found = _identity(db)
        if found == [APPLICATION_ID, 1]:
            db.executescript(_UPGRADE)
            found = _identity(db)
        if found != [APPLICATION_ID, SCHEMA_VERSION]:
            raise DamagedError(f"application id and version are {found}; expected {[APPLICATION_ID, SCHEMA_VERSION]}")
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DamagedError(" ".join(str(verdict).split()))
    except sqlite3.DatabaseError as error:
        db.close()
        if is_damage(error):
            raise DamagedError(str(error)) from error
        raise
    except DamagedError:
        db.close()
        raise
    return db


def _identity(db: sqlite3.Connection) -> list[int]:
    return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]


def set_aside(path: Path) -> Path:
    """Rename a damaged file, with its log, out of the way, and remove older ones of its kind but `KEPT_DAMAGED`.

    Returns:
        Where it is now.

    Raises:
        OSError: It cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    # The log belongs to its file by name: left behind, it would be taken for the new file's.
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    path.rename(aside)
    for old in sorted(path.parent.glob(f"{path.name}.corrupt-*Z"))[:-KEPT_DAMAGED]:
        for suffix in ("", "-wal", "-shm"):
            old.with_name(old.name + suffix).unlink(missing_ok=True)
    return aside


def replace_damaged(path: Path, *, after: int) -> tuple[sqlite3.Connection, Path, int]:
    """Set a damaged file aside and begin a new one with what can still be read of it.

    Args:
        path: The file.
        after: Messages get numbers above this one: an acknowledgement of an earlier number must not remove another
            message.

    Returns:
        The new file, open; where the damaged one is now; how many messages could be read.

    Raises:
        OSError: It cannot be renamed.
        sqlite3.Error: No new one can be made.
    """
    aside = set_aside(path)
    messages, told = _salvage(aside)
    db = open_file(path)
    with transaction(db):
        db.execute("INSERT INTO sqlite_sequence VALUES ('message', ?)", (after,))
        db.executemany(INSERT_MESSAGE, messages)
        db.executemany(INSERT_TOLD, told)
    return db, aside, len(messages)


def _salvage(damaged: Path) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    try:
        db = sqlite3.connect(damaged)
    except sqlite3.Error:
        return [], []
    with contextlib.closing(db):
        columns = {row[1] for row in _readable(db, "PRAGMA table_info(message)", (object,) * 6)}
        wanted = MESSAGE_COLUMNS if "crc" in columns else f"{_MESSAGE_COLUMNS_1}, NULL"
        messages = _readable(db, f"SELECT {wanted} FROM message ORDER BY seq", _MESSAGE_TYPES)
        return (
            [row for row in messages if is_sound(row)],
            list(_readable(db, "SELECT detection_id, revision, topic, told_ns FROM told", _TOLD_TYPES)),
        )


def _readable(db: sqlite3.Connection, query: str, types: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Give rows, until one cannot be read, that this program could have written."""
    try:
        for row in db.execute(query):
            if all(isinstance(value, kind) for value, kind in zip(row, types, strict=True)):
                yield row
    except (sqlite3.Error, UnicodeDecodeError):
        return


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Do all of it or nothing; on disk when left.

    Raises:
        sqlite3.Error: Nothing of it was done.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
