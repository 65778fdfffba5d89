"""The continuous archive: every record as it was received, in files by channel and day (SDS, as SeisComP defines it).

A record that crosses midnight lies in the file of the day in which it starts. What comes again is left out. Records
wait in memory until `flush`. Synchronous; one thread at a time.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from monitor.archive.disk import Disk, on_disk
from monitor.archive.layout import sds_day, sds_path, year_and_day
from monitor.archive.record import Held, RawRecord, RecordSplitter
from monitor.archive.ring import MOST_CHANNELS
from monitor.archive.shelf import Shelf
from monitor.settings import ArchiveSettings
from monitor.timebase import NS_PER_SECOND, seconds_to_ns

# What is looked at of a file that an earlier process wrote: minutes of records, more than is asked for again.
_TAIL_BYTES = 64 * 1024
# Files whose contents are remembered: today's and yesterday's of each channel.
_MOST_FILES = 2 * MOST_CHANNELS
# What could not be written yet.
MOST_PENDING_BYTES = 16 * 1024 * 1024
_KEEP_NS = 2 * 24 * 3600 * NS_PER_SECOND
_NEVER_NS = 2**63


@dataclass(slots=True)
class _DayFile:
    """A file that is appended to.

    Attributes:
        end: Where the next record goes, bytes.
        known_from_ns: Records that start earlier may be in the part that was not looked at; None: all was.
        held: What of it is known.
    """

    end: int = 0
    known_from_ns: int | None = None
    held: Held = field(default_factory=lambda: Held(_KEEP_NS))


class SdsArchive:
    """Keeps everything.

    Args:
        root: The folder.
        settings: How much to keep.
        disk: The file system.

    Attributes:
        records: Records that were written.
        lost: Records that were given up: the disk did not take them, or there was no room left for a new day's.
        deleted: Files that were deleted to keep to the limits.
    """

    def __init__(self, root: Path, settings: ArchiveSettings, *, disk: Disk) -> None:
        self.records = self.lost = self.deleted = 0
        self._root, self._settings, self._disk = root, settings, disk
        self._splitter = RecordSplitter()
        self._shelf = Shelf()
        self._files: OrderedDict[Path, _DayFile] = OrderedDict()
        self._pending: dict[Path, list[RawRecord]] = {}
        self._pending_bytes = 0

    @property
    def nbytes(self) -> int:
        """What all of it takes of the disk."""
        return self._shelf.nbytes

    def start(self, _monotonic_ns: int) -> None:
        """Find what is there.

        Raises:
            OSError: It cannot be read, or the folder not be made.
        """
        self._disk.make_directory(self._root)
        for path in self._root.glob("*/*/*/*/*"):
            day = sds_day(path)
            if day is not None:
                self._shelf.put(path, age=day, nbytes=on_disk(path.stat().st_size))

    def take(self, records: Iterable[RawRecord]) -> None:
        """Take records as they were received."""
        for record in records:
            path = sds_path(self._root, record.span.channel, record.span.start_ns)
            self._pending.setdefault(path, []).append(record)
            self._pending_bytes += len(record.data)

    def limit_pending(self) -> None:
        """Give up what has waited for the disk, where it is more than `MOST_PENDING_BYTES`."""
        if self._pending_bytes > MOST_PENDING_BYTES:
            self.lost += sum(map(len, self._pending.values()))
            self._pending, self._pending_bytes = {}, 0

    def flush(self, now_ns: int | None) -> None:
        """Write what waits; the oldest days make room for it.

        Args:
            now_ns: This computer's clock; None where it is not to be trusted, and nothing is too old.

        Raises:
            OSError: The disk does not take it; what could not be written is tried again by the next call.
        """
        while self._pending:
            path = next(iter(self._pending))
            day = sds_day(path)
            if day is not None and not self._is_too_old(day, now_ns):
                if self._make_room(day, sum(len(record.data) for record in self._pending[path])):
                    self._append(path, day, self._pending[path])
                else:
                    self.lost += len(self._pending[path])
            self._pending_bytes -= sum(len(record.data) for record in self._pending.pop(path))
        while (oldest := self._shelf.oldest()) is not None and self._is_too_old(oldest[0], now_ns):
            self._delete(oldest[1])

    def _append(self, path: Path, day: tuple[int, int], records: list[RawRecord]) -> None:
        try:
            file = self._file(path, earliest_ns=min(record.span.start_ns for record in records))
            new = [record.data for record in records if file.held.add(record.span)]
            if not new:
                return
            content = b"".join(new)
            if not file.end:
                self._disk.make_directory(path.parent)
            self._disk.write_at(path, file.end, content)
        except OSError as error:
            # What it holds is looked up when the disk is tried again.
            self._files.pop(path, None)
            if isinstance(error, FileNotFoundError):
                self._shelf.take(path)  # somebody has removed it
            raise
        file.end += len(content)
        self.records += len(new)
        self._shelf.put(path, age=day, nbytes=on_disk(file.end))

    def _file(self, path: Path, *, earliest_ns: int) -> _DayFile:
        """Know what a file holds, as far back as a record that is to be added."""
        file = self._files.get(path)
        if file is None:
            file = self._read(path, max(0, self._size(path) - _TAIL_BYTES))
        if file.known_from_ns is not None and earliest_ns < file.known_from_ns:
            file = self._read(path, 0)
        self._files[path] = file
        self._files.move_to_end(path)
        while len(self._files) > _MOST_FILES:
            self._files.popitem(last=False)
        return file

    def _read(self, path: Path, from_offset: int) -> _DayFile:
        file = _DayFile()
        if path in self._shelf:
            spans, file.end = self._splitter.scan(path, from_offset=from_offset)
            if spans and file.end < self._size(path):
                self._disk.write_at(path, file.end, b"")  # torn off
            for span in spans:
                file.held.add(span)
            if from_offset:
                file.known_from_ns = min((span.start_ns for span in spans), default=_NEVER_NS)
        return file

    def _size(self, path: Path) -> int:
        return path.stat().st_size if path in self._shelf else 0

    def _make_room(self, day: tuple[int, int], nbytes: int) -> bool:
        """Delete older days until there is room for more; return whether there is."""
        while self._shelf.nbytes + nbytes > self._settings.sds_max_bytes:
            oldest = self._shelf.oldest()
            if oldest is None or oldest[0] >= day:
                return False
            self._delete(oldest[1])
        return True

    def _delete(self, path: Path) -> None:
        self._shelf.take(path)
        self._files.pop(path, None)
        self._disk.remove(path)
        self._disk.prune(path.parent, self._root)
        self.deleted += 1

    def _is_too_old(self, day: tuple[int, ...], now_ns: int | None) -> bool:
        if now_ns is None:
            return False
        return day < year_and_day(max(0, now_ns - seconds_to_ns(self._settings.sds_max_age_s)))
