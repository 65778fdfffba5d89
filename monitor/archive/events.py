"""The event archive: for each detection a folder with its JSON and every record of its station around it.

Synchronous; one thread at a time. What is taken waits in memory until `flush`.
"""

import logging
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from monitor.archive.disk import Disk, on_disk
from monitor.archive.event import Margins, OpenEvent, read_detection, write_detection
from monitor.archive.layout import OPEN_FILE, UNDRAWN_FILE, WAVEFORM_FILE, event_directory
from monitor.archive.record import RawRecord, RecordSplitter
from monitor.archive.ring import RecordRing
from monitor.archive.shelf import Shelf
from monitor.records import Detection
from monitor.settings import Settings
from monitor.timebase import NS_PER_SECOND, parse_time, seconds_to_ns

# A detection is made no longer after its onset, in stream time, besides what is waited for components and late packets:
# the longest look back for a P, and the model's look-ahead.
_DECISION_S = 90.0
# An earthquake may be seen at every station at once.
MOST_OPEN = 2048
# What could not be written yet, of all events.
MOST_PENDING_BYTES = 16 * 1024 * 1024
_DELETED = ".deleted-"

log = logging.getLogger("monitor")


class EventArchive:
    """Keeps events.

    Args:
        root: The folder.
        settings: The service's.
        disk: The file system.

    Attributes:
        completed: Events that were completed.
        records: Records that were written.
        lost: Records that were given up, since the disk did not take them.
        deleted: Events that were deleted to keep to the limits.
        undrawn: Folders of events whose pictures are to be made; whoever makes them takes them out.
        finished: Folders of events that were completed; whoever tells of them takes them out.
    """

    def __init__(self, root: Path, settings: Settings, *, disk: Disk) -> None:
        self.completed = self.records = self.lost = self.deleted = 0
        self.undrawn: list[Path] = []
        self.finished: list[Path] = []
        self._root, self._settings, self._disk = root, settings.archive, disk
        before_s, after_s = settings.archive.before_s, settings.archive.after_s
        wait_s = settings.live.component_wait_s + settings.live.reorder_wait_s + _DECISION_S
        untold_s = settings.detector.max_duration_s + wait_s
        self._margins = Margins(seconds_to_ns(before_s), seconds_to_ns(after_s), seconds_to_ns(untold_s))
        past_s = before_s + wait_s
        self._ring = RecordRing(seconds_to_ns(past_s))
        self._splitter = RecordSplitter()
        self._shelf = Shelf()
        self._ids: dict[str, Path] = {}
        self._open: dict[str, OpenEvent] = {}
        # Found open without a readable detection: folder's name, which is made of the id.
        self._nameless: dict[Path, OpenEvent] = {}
        # Of complete events, to be written.
        self._revised: dict[Path, Detection] = {}

    @property
    def kept(self) -> int:
        """How many events are complete."""
        return len(self._shelf)

    @property
    def is_busy(self) -> bool:
        """Whether events are open."""
        return bool(self._open)

    @property
    def nbytes(self) -> int:
        """What all of it takes of the disk."""
        return self._shelf.nbytes + sum(on_disk(event.nbytes) for event in self._open.values())

    def start(self, monotonic_ns: int) -> None:
        """Find what is there.

        Raises:
            OSError: It cannot be read, or the folder not be made.
        """
        self._disk.make_directory(self._root)
        for rest in self._root.glob(f"{_DELETED}*"):
            self._disk.remove_tree(rest)
        found = []
        for path in sorted(self._root.glob("[0-9]*/[0-9]*/[0-9]*/*")):
            if not path.is_dir() or _date(path) is None:
                continue
            if (path / OPEN_FILE).exists():
                found.append(OpenEvent.found(path, self._margins, splitter=self._splitter, since_ns=monotonic_ns))
            else:
                self._shelve(path)
                self._note_undrawn(path)
        gathered, self._open = self._open, {}
        for event in found:
            if event.detection is None:
                self._nameless[event.directory] = event
            else:
                self._open[event.detection.id] = event
                event.take(self._ring.records(event.detection.station))
        for event_id, event in gathered.items():
            # What was taken before.
            kept = self._ids.get(event.directory.name)
            if event_id in self._open:
                self._open[event_id].join(event)
            elif kept is None:
                self._open[event_id] = event
            elif event.detection is not None:
                self._revised[kept] = event.detection

    # -- data --------------------------------------------------------------------------------------------------------

    def take(self, records: Iterable[RawRecord]) -> None:
        """Take records as they were received."""
        stations: dict[str, list[RawRecord]] = {}
        for record in records:
            if self._ring.add(record):
                stations.setdefault(record.span.channel.station_id, []).append(record)
        for event in self._open.values():
            if event.detection is not None and event.detection.station in stations:
                event.take(stations[event.detection.station])

    def tell(self, detection: Detection, *, now_ns: int | None, monotonic_ns: int) -> None:
        """Take a revision of a detection; one that is known already changes nothing.

        Args:
            detection: The revision.
            now_ns: This computer's clock; None where it is not to be trusted, and nothing is too old.
            monotonic_ns: Now.
        """
        event = self._open.get(detection.id)
        if event is None:
            onset_ns = parse_time(detection.onset)
            path = event_directory(self._root, detection.id, onset_ns)
            path = self._ids.get(path.name, path)
            if path in self._shelf:
                self._revised[path] = detection
                return
            too_old = now_ns is not None and onset_ns < now_ns - seconds_to_ns(self._settings.max_age_s)
            if too_old or len(self._open) >= MOST_OPEN:
                return
            event = self._nameless.pop(path, None)
            if event is None:
                event = OpenEvent(path, self._margins, since_ns=monotonic_ns, detection=None)
            self._open[detection.id] = event
        if event.revise(detection):
            event.take(self._ring.records(detection.station))

    # -- disk --------------------------------------------------------------------------------------------------------

    def flush(self, monotonic_ns: int) -> None:
        """Write what is not on disk yet, and complete what is complete.

        Raises:
            OSError: The disk does not take it; what could not be written is tried again by the next call.
        """
        for event in list(self._open.values()):
            try:
                self._flush(event, monotonic_ns)
            except FileNotFoundError as error:
                # Somebody has removed it while it was open; that is an answer.
                log.warning("archive: %s is gone; the event is no longer archived", error.filename)
                self._forget(event)
        for path, event in list(self._nameless.items()):
            if event.is_complete({}, monotonic_ns):
                del self._nameless[path]
                self._delete(path)
        while self._revised:
            path, detection = next(iter(self._revised.items()))
            if path in self._shelf and path.exists():
                known = read_detection(path)
                if known is None or known.revision < detection.revision:
                    write_detection(self._disk, path, detection)
                    self._shelve(path)
            del self._revised[path]

    def _flush(self, event: OpenEvent, monotonic_ns: int) -> None:
        self.records += event.flush(self._disk)
        detection = event.detection
        if detection is not None and event.is_complete(self._ring.channels(detection.station), monotonic_ns):
            event.complete(self._disk, self._splitter, draw=self._settings.pictures)
            self._forget(event)
            self._shelve(event.directory)
            self.completed += 1
            self.finished.append(event.directory)
            self._note_undrawn(event.directory)

    def limit_pending(self) -> None:
        """Give up what has waited for the disk, where it is more than `MOST_PENDING_BYTES`."""
        if sum(event.pending_bytes for event in self._open.values()) > MOST_PENDING_BYTES:
            self.lost += sum(event.drop_pending() for event in self._open.values())

    def drawn(self, path: Path) -> None:
        """Note that an event's pictures have been made, or cannot be.

        Raises:
            OSError: It cannot be noted.
        """
        self._disk.remove(path / UNDRAWN_FILE)
        if path in self._shelf and path.exists():
            self._shelve(path)

    def keep_limits(self, now_ns: int | None) -> None:
        """Delete the oldest events, as far as they are too old or too large together.

        Args:
            now_ns: This computer's clock; None where it is not to be trusted, and nothing is too old.

        Raises:
            OSError: They cannot be deleted.
        """
        while (oldest := self._shelf.oldest()) is not None:
            (day, *_), path = oldest
            too_old = now_ns is not None and _age_limit(now_ns, self._settings.max_age_s) > day
            if not too_old and self.nbytes <= self._settings.max_bytes:
                return
            self._delete(path)
            self.deleted += 1

    def _delete(self, path: Path) -> None:
        self._shelf.take(path)
        self._ids.pop(path.name, None)
        if not path.exists():
            return
        # One step for whoever looks; what follows may be cut short.
        aside = self._root / f"{_DELETED}{path.name[-200:]}"
        self._disk.rename(path, aside)
        self._disk.remove_tree(aside)
        self._disk.prune(path.parent, self._root)

    def _note_undrawn(self, path: Path) -> None:
        if self._settings.pictures and (path / UNDRAWN_FILE).exists():
            self.undrawn.append(path)

    def _forget(self, event: OpenEvent) -> None:
        if event.detection is not None:
            self._open.pop(event.detection.id, None)

    def _shelve(self, path: Path) -> None:
        day, size, changed_s = _date(path), on_disk(1), 0
        for file in path.iterdir():
            status = file.stat()
            size += on_disk(status.st_size)
            if file.name == WAVEFORM_FILE:
                changed_s = status.st_mtime_ns // NS_PER_SECOND
        self._shelf.put(path, age=(day or 0, changed_s), nbytes=size)
        self._ids[path.name] = path


def _date(path: Path) -> int | None:
    """The day that an event's folder stands for, counted as Python does; None where it is none."""
    try:
        year, month, day = (int(part) for part in path.parts[-4:-1])
        return date(year, month, day).toordinal()
    except ValueError:
        return None


def _age_limit(now_ns: int, max_age_s: float) -> int:
    """The first day that is not too old."""
    day_ns = 24 * 3600 * NS_PER_SECOND
    return date(1970, 1, 1).toordinal() + (now_ns - seconds_to_ns(max_age_s)) // day_ns
