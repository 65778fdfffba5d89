"""One event that is being archived: its folder, what was put into it, and what is still to be."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from monitor.archive.disk import Disk
from monitor.archive.layout import DETECTION_FILE, OPEN_FILE, UNDRAWN_FILE, WAVEFORM_FILE
from monitor.archive.record import Held, RawRecord, RecordSplitter, Span
from monitor.archive.ring import ChannelRing
from monitor.records import ChannelId, Detection
from monitor.timebase import NS_PER_SECOND, parse_time

# After the end of a long event, so that its end is seen.
AFTER_END_S = 30.0
# A channel that has not come so far as the event's end is waited for until the newest one is so far ahead; one of long
# records, of one sample per second, longer.
_LAG_NS = 60 * NS_PER_SECOND
_MOST_LAG_NS = 900 * NS_PER_SECOND
# Data are waited for no longer than this, in a process' own time: the station may be gone.
GIVE_UP_NS = 24 * 3600 * NS_PER_SECOND
# Nothing that an event covers is further apart.
_KEEP_NS = 7 * 24 * 3600 * NS_PER_SECOND


class OpenMark(msgspec.Struct, frozen=True, kw_only=True):
    """The file that says that an event is not complete.

    Attributes:
        schema: Always `monitor.archive.open/1`.
    """

    schema: Literal["monitor.archive.open/1"] = "monitor.archive.open/1"


@dataclass(frozen=True, slots=True)
class Margins:
    """How much around an event is kept.

    Attributes:
        before_ns, after_ns: Before and after its onset, nanoseconds.
        untold_ns: How much longer it is waited for a detection's end: whoever was to tell it may be gone.
    """

    before_ns: int
    after_ns: int
    untold_ns: int


def write_detection(disk: Disk, directory: Path, detection: Detection) -> None:
    """Write an event's detection.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    disk.replace(directory / DETECTION_FILE, msgspec.json.encode(detection))


def read_detection(directory: Path) -> Detection | None:
    """Read an event's detection; None where it is not there or damaged.

    Raises:
        OSError: It cannot be read.
    """
    try:
        detection = msgspec.json.decode((directory / DETECTION_FILE).read_bytes(), type=Detection)
        for time in filter(None, (detection.onset, detection.end)):
            parse_time(time)
    except (FileNotFoundError, ValueError):  # of msgspec, of bytes that are no text, of times that are none
        return None
    return detection


class OpenEvent:
    """An event to which data are still to come.

    Args:
        directory: Its folder, which may not be there yet.
        margins: How much around it is kept.
        since_ns: When it was opened or found, monotonic, nanoseconds.
        detection: Its latest revision; None where it is not known.

    Attributes:
        detection: As above.
        nbytes: Size of its waveforms on disk.
        pending_bytes: Size of those that are not there yet.
    """

    def __init__(
        self, directory: Path, margins: Margins, *, since_ns: int, detection: Detection | None, is_new: bool = True
    ) -> None:
        self.directory, self._since_ns = directory, since_ns
        self.detection = detection
        self.nbytes = 0
        self.pending_bytes = 0
        self._margins = margins
        self._held = Held(_KEEP_NS)
        self._pending: list[RawRecord] = []
        self._newest: dict[ChannelId, int] = {}
        self._in_order = True
        self._made = not is_new
        self._told = not is_new

    @classmethod
    def found(cls, directory: Path, margins: Margins, *, splitter: RecordSplitter, since_ns: int) -> "OpenEvent":
        """Take up an event that an earlier process has left open.

        Raises:
            OSError: It cannot be read.
        """
        event = cls(directory, margins, since_ns=since_ns, detection=read_detection(directory), is_new=False)
        with contextlib.suppress(FileNotFoundError):
            # What was torn off behind the last whole record is written over, or cut off by `complete`.
            spans, event.nbytes = splitter.scan(directory / WAVEFORM_FILE)
            for span in spans:
                event._note(span)
        return event

    @property
    def window_ns(self) -> tuple[int, int] | None:
        """From when to when it is kept as far as is known, nanoseconds since the epoch; None while nothing is."""
        if self.detection is None:
            return None
        onset_ns = parse_time(self.detection.onset)
        until_ns = onset_ns + self._margins.after_ns
        if self.detection.end is not None:
            until_ns = max(until_ns, parse_time(self.detection.end) + round(AFTER_END_S * NS_PER_SECOND))
        return onset_ns - self._margins.before_ns, until_ns

    @property
    def _wait_ns(self) -> int:
        """How far beyond its window data are looked at: while it goes on it may become longer."""
        is_ended = self.detection is not None and self.detection.state in {"final", "retracted"}
        return 0 if is_ended else self._margins.untold_ns

    def revise(self, detection: Detection) -> bool:
        """Take a revision.

        Returns:
            False where it is known already.
        """
        if self.detection is not None and detection.revision <= self.detection.revision:
            return False
        self.detection, self._told = detection, False
        return True

    def take(self, records: Iterable[RawRecord]) -> None:
        """Take those of a station's records that belong to it and are not there yet."""
        window = self.window_ns
        if window is None:
            return
        from_ns, until_ns = window
        for record in records:
            span = record.span
            if span.next_ns > from_ns and span.start_ns < until_ns + self._wait_ns and self._note(span):
                self._pending.append(record)
                self.pending_bytes += len(record.data)

    def join(self, other: "OpenEvent") -> None:
        """Take over what was gathered for the same event before it was found."""
        if other.detection is not None:
            self.revise(other.detection)
        self.take(other._pending)

    def drop_pending(self) -> int:
        """Give up what could not be written; how many records that is. Later data are taken as before."""
        count, self._pending, self.pending_bytes = len(self._pending), [], 0
        return count

    def is_complete(self, channels: Mapping[ChannelId, ChannelRing], monotonic_ns: int) -> bool:
        """Tell whether nothing more is to come.

        Args:
            channels: The station's, as they are now.
            monotonic_ns: Now.
        """
        if monotonic_ns - self._since_ns > GIVE_UP_NS:
            return True
        window = self.window_ns
        if window is None or not channels:
            return False
        until_ns = window[1] + self._wait_ns
        newest_ns = max(ring.start_ns for ring in channels.values())
        behind = [ring.span_ns for ring in channels.values() if ring.start_ns < until_ns]
        lag_ns = min(max(_LAG_NS, 2 * max(behind)), _MOST_LAG_NS) if behind else 0
        return newest_ns >= until_ns + lag_ns

    def flush(self, disk: Disk) -> int:
        """Write what is not on disk yet.

        Returns:
            How many records were written.

        Raises:
            OSError: Something of it could not be; it is tried again by the next call.
        """
        if not self._made:
            disk.make_directory(self.directory)
            disk.replace(self.directory / OPEN_FILE, msgspec.json.encode(OpenMark()))
            self._made = True
        window = self.window_ns
        if self.detection is None or window is None:
            return 0
        if not self._told:
            write_detection(disk, self.directory, self.detection)
            self._told = True
        certain = [record for record in self._pending if record.span.start_ns < window[1]]
        if certain:
            content = b"".join(record.data for record in certain)
            disk.write_at(self.directory / WAVEFORM_FILE, self.nbytes, content)
            self.nbytes += len(content)
        rest = [record for record in self._pending if record.span.start_ns >= window[1]] if self._wait_ns else []
        self._pending, self.pending_bytes = rest, sum(len(record.data) for record in rest)
        return len(certain)

    def complete(self, disk: Disk, splitter: RecordSplitter, *, draw: bool) -> None:
        """Make sure that all of it is on the medium, and say that it is complete.

        Raises:
            OSError: It could not be done; it is tried again by the next call.
        """
        path = self.directory / WAVEFORM_FILE
        if self.nbytes:
            if not self._in_order:
                spans, _ = splitter.scan(path)
                content = path.read_bytes()
                spans.sort(key=lambda span: (span.start_ns, span.channel))
                disk.replace(path, b"".join(content[s.offset : s.offset + s.length] for s in spans))
            else:
                disk.write_at(path, self.nbytes, b"")
            disk.sync(path)
        disk.sync(self.directory / DETECTION_FILE)
        if draw and self.nbytes:
            disk.rename(self.directory / OPEN_FILE, self.directory / UNDRAWN_FILE)
        else:
            disk.remove(self.directory / OPEN_FILE)
        disk.sync(self.directory)

    def _note(self, span: Span) -> bool:
        if not self._held.add(span):
            return False
        if span.start_ns < self._newest.get(span.channel, span.start_ns):
            self._in_order = False
        self._newest[span.channel] = max(span.start_ns, self._newest.get(span.channel, span.start_ns))
        return True
