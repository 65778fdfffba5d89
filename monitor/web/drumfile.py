"""The drum plots of the last day on disk, so that a restart does not begin an empty sheet.

A figure for people, no contract: a file that cannot be read is passed over, and one that cannot be written too.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

DRUM_FILE = "drum.msgpack"
# 86 kB for each of as many instruments as are shown.
_MOST_BYTES = 32 * 1024 * 1024


class SavedDrum(msgspec.Struct, frozen=True):
    """One instrument's.

    Attributes:
        first: Absolute index of the first bin.
        bins: As `monitor.web.feed` gives them: least and greatest value, bfloat16.
    """

    first: int
    bins: bytes


class SavedDrums(msgspec.Struct, frozen=True):
    """All of them.

    Attributes:
        bin_s: Seconds of a bin: those of another length mean nothing.
        drums: Name of the instrument -> its drum plot.
    """

    bin_s: int
    drums: dict[str, SavedDrum]


def read_drums(directory: Path, *, bin_s: int) -> dict[str, SavedDrum]:
    """Read what an earlier process left; nothing where there is nothing of use."""
    path = directory / DRUM_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        found = msgspec.msgpack.decode(path.read_bytes(), type=SavedDrums)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found.drums if found.bin_s == bin_s else {}


def write_drums(directory: Path, drums: Mapping[str, SavedDrum], *, bin_s: int) -> None:
    """Write them as a whole: to a file beside it, then renamed over it."""
    content = msgspec.msgpack.encode(SavedDrums(bin_s, dict(drums)))
    path = directory / DRUM_FILE
    beside = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
