"""From the paths a user gives to bytes that can be read at any offset: files, directories, pipes, .gz and .bz2."""

import bz2
import gzip
import io
import os
import stat
import sys
import tempfile
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, cast

from monitor.sources.problems import ProblemLog

STDIN_NAME = "<stdin>"

# An archive has thousands of files and a process may open about a thousand; reopening one costs some microseconds.
MAX_OPEN_FILES = 16

# What a pipe, a compressed file or another format may take on disk: ten times the largest recording expected,
# so that an endless pipe ends with a message, not with a full disk.
MAX_SPOOL_BYTES = 32 * 2**30

_COPY_BYTES = 1 << 20

# What lies about in data directories and is never a waveform; given by name, such a file is read all the same.
_SIDE_FILES = {
    *(".bak", ".cfg", ".conf", ".ini", ".toml", ".yaml", ".yml", ".db", ".sqlite", ".js", ".py", ".pyc", ".sh"),
    *(".csv", ".tsv", ".json", ".jsonl", ".log", ".md", ".rst", ".txt", ".xml", ".qml", ".quakeml", ".stationxml"),
    *(".css", ".gif", ".htm", ".html", ".jpeg", ".jpg", ".pdf", ".png", ".ps", ".svg"),
}


@dataclass(frozen=True, slots=True)
class Input:
    """A run of bytes that can be read at any offset.

    Attributes:
        name: What the user calls it.
        path: The file, or None when the bytes are in the spool or behind a descriptor.
        start: Where in the file or spool it begins, bytes.
        size: Length, bytes.
        directory: The directory, as the user gave it, in which it was found; None for a file given by name.
        descriptor: Where to read what has no name that could be opened again (a redirected standard input).
    """

    name: str
    path: str | None
    start: int
    size: int
    directory: str | None = None
    descriptor: int | None = None

    @property
    def is_side_file(self) -> bool:
        """Whether it was found in a directory and its name says that it is no waveform file."""
        return self.directory is not None and Path(self.name).suffix.lower() in _SIDE_FILES


@dataclass(slots=True, weakref_slot=True, eq=False)
class InputReader:
    """Reads inputs by offset with few open files, and keeps what cannot be read twice in one anonymous file."""

    _files: OrderedDict[str, IO[bytes]] = field(default_factory=OrderedDict)
    _spool: IO[bytes] | None = None
    _spool_bytes: int = 0

    def read_at(self, source: Input, offset: int, size: int) -> bytes:
        """Read bytes of an input.

        Args:
            source: Which input.
            offset: First byte, from the input's start.
            size: How many bytes.

        Returns:
            The bytes; fewer at the input's end, or where a file has become shorter.

        Raises:
            OSError: The file cannot be opened or read.
        """
        size = min(size, source.size - offset)
        if size <= 0:
            return b""
        fd = self._descriptor(source)
        blocks = []
        offset += source.start
        while size > 0 and (block := os.pread(fd, size, offset)):
            blocks.append(block)
            offset += len(block)
            size -= len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def stream(self, source: Input) -> BinaryIO:
        """Return a buffered file object over an input, positioned at its start."""
        return cast(BinaryIO, io.BufferedReader(_InputStream(self, source), _COPY_BYTES))

    def spool_bytes(self, content: bytes | memoryview) -> int:
        """Append bytes to the spool.

        Returns:
            Where in the spool they begin.

        Raises:
            OSError: The temporary directory is full, or the spool's limit is reached.
        """
        start = self._spool_bytes
        if start + len(content) > MAX_SPOOL_BYTES:
            raise OSError(f"needs more than {MAX_SPOOL_BYTES} bytes of temporary space")
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(prefix="monitor-replay-", buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._spool.close)
        view = memoryview(content)
        while view:
            written = os.pwrite(self._spool.fileno(), view, self._spool_bytes)
            self._spool_bytes += written
            view = view[written:]
        return start

    def read_spool(self, start: int, size: int) -> bytes:
        """Read bytes that were spooled."""
        return self.read_at(Input("", None, 0, self._spool_bytes), start, size)

    def spool_stream(self, stream: IO[bytes], *, name: str, directory: str | None = None) -> tuple[Input, str | None]:
        """Copy a stream that cannot be read twice to the spool.

        Args:
            stream: What to read to its end.
            name: What the user calls it.
            directory: As in `Input`.

        Returns:
            The copy, as far as it could be read, and why it could not be read further, or None.
        """
        start = self._spool_bytes
        fault = None
        # read1 gives what comes before the damage of a compressed file; read would lose it.
        read = getattr(stream, "read1", stream.read)
        try:
            while block := read(_COPY_BYTES):
                self.spool_bytes(block)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            fault = f"compressed data are damaged or cut off ({error})"
        except OSError as error:
            fault = f"cannot be read further: {error.strerror or error}"
        return Input(name, None, start, self._spool_bytes - start, directory), fault

    @contextmanager
    def as_path(self, source: Input) -> Iterator[str]:
        """Give an input as a file with a name of its own, for readers that want a path."""
        if source.path is not None and source.start == 0:
            yield source.path
            return
        stem = source.name.removesuffix(".gz").removesuffix(".bz2")
        with tempfile.NamedTemporaryFile(prefix="monitor-", suffix=Path(stem).suffix) as copy:
            stream = self.stream(source)
            while block := stream.read(_COPY_BYTES):
                copy.write(block)
            copy.flush()
            yield copy.name

    def close_files(self) -> None:
        """Close all files but the spool; they are opened again when needed."""
        while self._files:
            self._files.popitem()[1].close()

    def _descriptor(self, source: Input) -> int:
        if source.descriptor is not None:
            return source.descriptor
        if source.path is None:
            if self._spool is None:
                raise OSError("nothing was spooled")
            return self._spool.fileno()
        file = self._files.get(source.path)
        if file is None:
            if len(self._files) >= MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            file = self._files[source.path] = Path(source.path).open("rb", buffering=0)  # noqa: SIM115
        else:
            self._files.move_to_end(source.path)
        return file.fileno()


class _InputStream(io.RawIOBase):
    def __init__(self, reader: InputReader, source: Input) -> None:
        self._reader = reader
        self._source = source
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        block = self._reader.read_at(self._source, self._offset, len(buffer))
        buffer[: len(block)] = block
        self._offset += len(block)
        return len(block)


def unpack(reader: InputReader, source: Input) -> tuple[Input, str | None]:
    """Unpack a gzip or bzip2 file to the spool.

    Args:
        reader: Holds the spool.
        source: The file, compressed or not.

    Returns:
        What it unpacks to, or `source` itself when it is not compressed; and what was wrong, or None.

    Raises:
        OSError: The file cannot be read.
    """
    magic = reader.read_at(source, 0, 3)
    stream: IO[bytes]
    if magic[:2] == b"\x1f\x8b":
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=reader.stream(source), mode="rb"))
    elif magic == b"BZh":
        stream = bz2.BZ2File(reader.stream(source))
    else:
        return source, None
    with stream:
        return reader.spool_stream(stream, name=source.name, directory=source.directory)


def find_inputs(
    paths: Sequence[str], *, reader: InputReader, log: ProblemLog, stdin: BinaryIO | None, accounted: set[str]
) -> Iterator[Input]:
    """Find the files behind the paths a user gives, each once.

    Args:
        paths: Files, directories (searched with all below them, in sorted order, without hidden entries), or `-`.
        reader: Takes over what comes through a pipe.
        log: Told of what cannot be read.
        stdin: What `-` means; None: standard input.
        accounted: Receives directories in which files were met that had been given before, or that cannot be listed.

    Yields:
        Each input, in the order given.
    """
    seen: set[tuple[int, int]] = set()
    stdin_read = False
    for path in paths:
        if path == "-":
            if not stdin_read:
                stdin_read = True
                yield from _stdin_input(sys.stdin.buffer if stdin is None else stdin, reader=reader, log=log)
            continue
        if not path:  # pathlib takes "" for the working directory
            log.report(path, None, "an empty file name")
            continue
        try:
            status = Path(path).stat()
        except (OSError, ValueError) as error:
            log.report(path, None, _os_message(error))
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _directory_inputs(path, seen=seen, log=log, accounted=accounted)
        elif stat.S_ISREG(status.st_mode):
            if _first_time(status, seen):
                yield Input(path, path, 0, status.st_size)
        elif stat.S_ISFIFO(status.st_mode):
            yield from _pipe_inputs(path, reader=reader, log=log)
        else:
            log.report(path, None, "is neither a file nor a directory; accepted: files, directories, pipes and -")


def _stdin_input(stdin: BinaryIO, *, reader: InputReader, log: ProblemLog) -> Iterator[Input]:
    try:
        status = os.fstat(stdin.fileno())
        if stat.S_ISREG(status.st_mode):
            start = stdin.tell()
            yield Input(STDIN_NAME, None, start, max(0, status.st_size - start), descriptor=stdin.fileno())
            return
    except (OSError, ValueError):
        pass  # no descriptor (such as io.BytesIO) or not seekable: copied like a pipe
    source, fault = reader.spool_stream(stdin, name=STDIN_NAME)
    if fault:
        log.report(STDIN_NAME, source.size, fault)
    yield source


def _pipe_inputs(path: str, *, reader: InputReader, log: ProblemLog) -> Iterator[Input]:
    try:
        with Path(path).open("rb") as pipe:
            source, fault = reader.spool_stream(pipe, name=path)
    except OSError as error:
        log.report(path, None, _os_message(error))
        return
    if fault:
        log.report(path, source.size, fault)
    yield source


def _directory_inputs(top: str, *, seen: set[tuple[int, int]], log: ProblemLog, accounted: set[str]) -> Iterator[Input]:
    paths = [top]
    while paths:
        path = paths.pop()
        try:
            status = Path(path).stat()
            is_directory = stat.S_ISDIR(status.st_mode)
            if not is_directory and not stat.S_ISREG(status.st_mode):
                continue
            if not _first_time(status, seen):  # given before, or a link back up, which would never end
                accounted.add(top)
            elif is_directory:
                names = sorted((entry.name for entry in Path(path).iterdir()), reverse=True)
                paths += [f"{path.rstrip('/')}/{name}" for name in names if not name.startswith(".")]
            else:
                yield Input(path, path, 0, status.st_size, top)
        except OSError as error:
            accounted.add(top)
            log.report(path, None, _os_message(error))


def _first_time(status: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    identity = (status.st_dev, status.st_ino)
    new = identity not in seen
    seen.add(identity)
    return new


def _os_message(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or directory"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return f"not a file name: {error}"
