"""What a restart needs: where each station's data are taken up again and what was decided, in one small file.

Written as a whole: to a file beside it, to the disk, then renamed over it: a power cut leaves the old or the new.
"""

import contextlib
import os
import threading
import zlib
from pathlib import Path
from typing import Literal

import msgspec

STATE_FILE = "positions.json"
# The last save of a service that stops may come while another is on its way to the disk.
_WRITING = threading.Lock()


class SavedInstrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument.

    Attributes:
        name: `NET.STA.LOC.BI`, as `StationGroup.name`.
        seed_ids: Its channels.
        needed_from_ns: Samples from here on are needed to be where it was, nanoseconds since the epoch.
        settled_step: The first output that is not decided yet.
        taken_until: Outputs before this one belong to earlier events.
    """

    name: str
    seed_ids: list[str]
    needed_from_ns: int
    settled_step: int
    taken_until: int


class SavedPosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is asked to go on.

    Attributes:
        server: Its label.
        station: `NET.STA`.
        sequence: Of the first packet that holds data from then on; null where it is not known.
        time_ns: From when on data are needed, nanoseconds since the epoch.
    """

    server: str
    station: str
    sequence: int | None
    time_ns: int


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """The file.

    Attributes:
        schema: `monitor.state/1`.
        step_s: Seconds from output to output: steps of another model's grid mean nothing.
        saved_ns: When it was written, nanoseconds since the epoch.
        instruments, positions: See there.
        crc: CRC-32 of the rest, as `write_state` encodes it; null in memory, and in files of before there was one.
    """

    schema: Literal["monitor.state/1"] = "monitor.state/1"
    step_s: float
    saved_ns: int
    instruments: list[SavedInstrument] = []
    positions: list[SavedPosition] = []
    crc: int | None = None


class StateError(Exception):
    """The state cannot be read or written; the message names the file and why."""


def read_state(directory: Path) -> SavedState | None:
    """Read the state.

    Args:
        directory: Where it lies.

    Returns:
        The state; None where there is none yet.

    Raises:
        StateError: It cannot be used. A damaged file is set aside as `positions.json.damaged`, so that the next start
            goes on without it.
    """
    path = directory / STATE_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        state = msgspec.json.decode(content, type=SavedState)
        plain = msgspec.structs.replace(state, crc=None)
        # A number that a dying disk has altered would be as good as any: detections would get new ids.
        if state.crc not in {None, zlib.crc32(msgspec.json.encode(plain))}:
            raise msgspec.ValidationError("its checksum is another")
        return plain
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        aside = path.with_suffix(".json.damaged")
        with contextlib.suppress(OSError):
            path.replace(aside)
        raise StateError(f"{path}: damaged ({error}); set aside as {aside.name}, going on without it") from error


def write_state(directory: Path, state: SavedState) -> None:
    """Write the state.

    Raises:
        StateError: It cannot be written; what was there before is still there.
    """
    path = directory / STATE_FILE
    beside = directory / (STATE_FILE + ".new")
    with _WRITING:
        try:
            with beside.open("wb") as stream:
                content = msgspec.json.encode(msgspec.structs.replace(state, crc=None))
                stream.write(msgspec.json.encode(msgspec.structs.replace(state, crc=zlib.crc32(content))))
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
            folder = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror}") from error
