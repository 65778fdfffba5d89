"""Files that the page serves: its own, and those of the event archive."""

import asyncio
import functools
import gzip
import hashlib
import re
from collections.abc import AsyncGenerator, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from monitor.records import Detection
from monitor.web.thumb import Thumb, thumb_of_records

_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# What an event's folder may hold -> media type. Nothing else is ever opened.
ARCHIVE_FILES = {
    "detection.json": "application/json",
    "waveforms.mseed": "application/vnd.fdsn.mseed",
    "event.png": "image/png",
    "explanation.png": "image/png",
    "explanation.json": "application/json",
}
# Ids as `monitor.pipeline` makes them: NET.STA-YYYYMMDDTHHMMSS.f-DIGEST. Station codes with other characters are not
# looked for on disk.
_ID = re.compile(r"[A-Za-z0-9_-]{1,8}\.[A-Za-z0-9_-]{1,8}-(\d{4})(\d{2})(\d{2})T\d{6}(?:\.\d{1,9})?-[0-9a-f]{8,64}")
_YEAR, _TWO_DIGITS = re.compile(r"\d{4}"), re.compile(r"\d{2}")
_PIECE_BYTES = 64 * 1024
_MOST_JSON_BYTES = 1024 * 1024
# Three minutes of three components at 1000 samples per second, twice.
_MOST_RECORD_BYTES = 4 * 1024 * 1024


class StaticFile(NamedTuple):
    """A file of the page.

    Attributes:
        content_type: Its media type.
        etag: Changes when it does.
        plain, zipped: Its bytes; `zipped` with gzip.
    """

    content_type: str
    etag: str
    plain: bytes
    zipped: bytes


@functools.cache
def static_files() -> dict[str, StaticFile]:
    """The page's own files by name; read when the first browser comes."""
    found = {}
    for path in sorted(_STATIC.iterdir()):
        content_type = _TYPES.get(path.suffix)
        if content_type is not None:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found[path.name] = StaticFile(content_type, etag, content, gzip.compress(content, mtime=0))
    return found


class ArchivedFile(NamedTuple):
    """A file of the archive, and its size in bytes."""

    path: Path
    size: int


class EventArchive:
    """Reads what is archived of detections; without an archive everything is absent.

    Args:
        root: `<state>/events`, with `YYYY/MM/DD/<id>/` below it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self, identifier: str) -> dict[str, int]:
        """Name -> size of what there is of a detection."""
        folder = self._folder(identifier)
        found = {}
        for name in ARCHIVE_FILES if folder is not None else ():
            file = self._found(folder, name)
            if file is not None:
                found[name] = file.size
        return found

    def find(self, identifier: str, name: str) -> ArchivedFile | None:
        """Find a file of a detection; None where there is none."""
        return self._found(self._folder(identifier), name) if name in ARCHIVE_FILES else None

    def detection(self, identifier: str) -> Detection | None:
        """The detection itself; None where it is not archived or is damaged."""
        found = self.find(identifier, "detection.json")
        if found is None or found.size > _MOST_JSON_BYTES:
            return None
        try:
            return msgspec.json.decode(found.path.read_bytes(), type=Detection)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def thumb(self, detection: Detection) -> Thumb:
        """Draw a detection in small; empty where its waveforms are not archived."""
        found = self.find(detection.id, "waveforms.mseed")
        if found is None or found.size > _MOST_RECORD_BYTES:
            return []
        try:
            return thumb_of_records(found.path.read_bytes(), detection)
        except OSError:
            return []

    def newest(self, most: int) -> list[Detection]:
        """The newest detections, `most` at most."""
        found: list[Detection] = []
        for identifier in self._newest_ids():
            detection = self.detection(identifier)
            if detection is not None and detection.id == identifier:
                found.append(detection)
            if len(found) >= most:
                break
        return found

    def _newest_ids(self) -> Iterator[str]:
        for year in _listed(self._root, _YEAR):
            for month in _listed(year, _TWO_DIGITS):
                for day in _listed(month, _TWO_DIGITS):
                    yield from (path.name for path in sorted(_listed(day, _ID), key=_stamp, reverse=True))

    def _folder(self, identifier: str) -> Path | None:
        """Where a detection lies: the day of its onset, which is that of its trigger or the one before."""
        match = _ID.fullmatch(identifier)
        if match is None:
            return None
        try:
            day = date(int(match[1]), int(match[2]), int(match[3]))
        except ValueError:
            return None
        for days in (0, -1, 1):
            at = day + timedelta(days=days)
            folder = self._root / f"{at.year:04d}" / f"{at.month:02d}" / f"{at.day:02d}" / identifier
            if folder.is_dir():
                return folder
        return None

    def _found(self, folder: Path | None, name: str) -> ArchivedFile | None:
        if folder is None:
            return None
        path = folder / name
        try:
            # A link would lead out of the archive.
            if path.is_symlink() or folder.is_symlink() or not path.is_file():
                return None
            return ArchivedFile(path, path.stat().st_size)
        except OSError:
            return None


async def read_pieces(found: ArchivedFile) -> AsyncGenerator[bytes, None]:
    """Read a file piece by piece, each in another thread; nothing where it has gone in the meantime."""
    try:
        file = await asyncio.to_thread(found.path.open, "rb")
    except OSError:
        return
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece


def _listed(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """Folders in a folder whose names match, last first; none where it cannot be read."""
    try:
        found = [path for path in folder.iterdir() if names.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []
    return sorted(found, reverse=True)


def _stamp(path: Path) -> str:
    return path.name.rsplit("-", 2)[1]
