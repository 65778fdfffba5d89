"""What the demo plays: recordings, moved in time so that they end now, as one miniSEED file."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from monitor.playback.recording import Recording
from monitor.records import ChannelId
from monitor.sources.problems import Problem
from monitor.timebase import NS_PER_SECOND

MAX_SPAN_S = 12 * 3600.0
"""A demo of more is none; the daemon takes lateness up to a day for live."""

# Four stations near Unterhaching, the morning of 2010-05-27; ObsPy's test data.
_SHIPPED = "signal/tests/data/BW.UH*.cut.slist.gz"
_PACKET_S = 1.0


class RecordingError(Exception):
    """There is nothing to play, or not in this way; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Played:
    """A recording that lies ready.

    Attributes:
        path: miniSEED.
        channels: What is in it, sorted.
        span_s: From the first sample of all to the last, seconds.
        first_ns: Time of the first sample, as it is played, nanoseconds since the epoch.
        shift_ns: What was added to the recorded times, whole seconds in nanoseconds.
        ends_ns: When the sample after each channel's last one would come, as it is played.
    """

    path: Path
    channels: tuple[ChannelId, ...]
    span_s: float
    first_ns: int
    shift_ns: int
    ends_ns: dict[ChannelId, int]

    @property
    def stations(self) -> dict[str, list[str]]:
        """`NET.STA` -> its channels, `NET.STA.LOC.CHA`."""
        found: dict[str, list[str]] = {}
        for channel in self.channels:
            found.setdefault(channel.station_id, []).append(channel.seed_id)
        return found


def shipped_files() -> list[str]:
    """Find the recordings that come with ObsPy, without loading it.

    Raises:
        RecordingError: They are not there.
    """
    spec = importlib.util.find_spec("obspy")
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [str(path) for folder in folders for path in sorted(Path(folder).glob(_SHIPPED))]
    if not files:
        what = "ObsPy is not installed" if spec is None else "this ObsPy comes without its test data"
        raise RecordingError(
            f"the demo's recordings are not here: {what}; pip install 'seismic-monitor[demo]', or name other files"
        )
    return files


def open_recording(files: list[str], *, on_problem: Callable[[Problem], None]) -> Recording:
    """Open recordings in any format that `monitor replay` reads.

    Raises:
        RecordingError: More than `MAX_SPAN_S` lie between the first sample and the last.
        NoDataError: No sample in them.
    """
    recording = Recording.from_files(files, on_problem=on_problem)
    span_s = (recording.end_ns - recording.first_ns) / NS_PER_SECOND
    if span_s > MAX_SPAN_S:
        raise RecordingError(
            f"the recordings are of {span_s / 3600:.1f} h; accepted: up to {MAX_SPAN_S / 3600:g} h (for more:"
            " monitor replay)"
        )
    return recording


def shift_to_end_now(recording: Recording, *, speed: float, now_ns: int) -> int:
    """Choose by how much to move a recording that is played from now on, so that it ends when it has been played.

    At more than real time its packets are old at first and catch up: none comes from the future, at any moment.

    Args:
        recording: What is played.
        speed: Multiple of real time, 1 or more.
        now_ns: The time, nanoseconds since the epoch.

    Returns:
        Whole seconds, in nanoseconds.
    """
    end_ns = now_ns + math.floor((recording.end_ns - recording.first_ns) / speed)
    return (end_ns - recording.end_ns) // NS_PER_SECOND * NS_PER_SECOND


def write_moved(recording: Recording, path: Path, *, shift_ns: int) -> Iterator[Played | None]:
    """Write a recording as miniSEED, piece by piece.

    Args:
        recording: What to write.
        path: Where to.
        shift_ns: Added to all times.

    Yields:
        None after each packet, then what was written.

    Raises:
        OSError: It cannot be written.
        ValueError: A channel does not fit miniSEED 2.
    """
    ends_ns: dict[ChannelId, int] = {}
    with path.open("wb") as file:
        for packet in recording.packets(_PACKET_S, shift_ns=shift_ns):
            file.write(packet.record)
            ends_ns[packet.channel_id] = max(packet.next_ns, ends_ns.get(packet.channel_id, 0))
            yield None
    yield Played(
        path=path,
        channels=tuple(sorted(ends_ns)),
        span_s=(recording.end_ns - recording.first_ns) / NS_PER_SECOND,
        first_ns=recording.first_ns + shift_ns,
        shift_ns=shift_ns,
        ends_ns=ends_ns,
    )
