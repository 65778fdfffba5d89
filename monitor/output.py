"""Where results go: standard output or a file that is followed while it grows, with failures put into words."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


class OutputError(Exception):
    """Results could not be written; the message names the destination and the cause."""


class OutputClosedError(OutputError):
    """Whoever read the results has gone, as `head` does when it has seen enough; nothing is broken."""


def write_now(stream: TextIO, text: str) -> None:
    """Write text and push it out, so that a reader sees each detection while the recording is still being read.

    Args:
        stream: Open for writing.
        text: Complete lines.

    Raises:
        OutputClosedError: The reader of the pipe has gone.
        OutputError: The text could not be written: disk full, device gone, or not encodable.
    """
    try:
        stream.write(text)
        stream.flush()
    except (OSError, UnicodeError) as error:
        raise _in_words(error, _name(stream), "write to") from error


def printable(text: str) -> str:
    r"""Escape what could steer a terminal or break a row: everything but printable ASCII.

    Args:
        text: From outside, such as a station code; may hold control characters.

    Returns:
        Printable ASCII, for example `BW.\x1b[2J`; a backslash is doubled, so different texts stay different.
    """
    return text.encode("unicode_escape").decode("ascii")


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Open where results go, and put its failures into words.

    A file is written in place, not through a temporary one, so that `tail -f` follows it.

    Args:
        path: File to create or overwrite; None is standard output, which stays open.

    Yields:
        A text stream: UTF-8 and line ends untouched for a file, as the environment says for standard output.

    Raises:
        OutputClosedError: The reader of the pipe has gone.
        OutputError: The file cannot be created or written.
    """
    if path is None:
        with _standard_output() as stream:
            yield stream
        return
    try:
        # RFC 4180 asks for CRLF, which text mode would otherwise be free to change.
        stream = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise _in_words(error, str(path), "open") from error
    try:
        yield stream
    except BaseException:
        # What could not be written is still buffered; closing tries again and would hide the first error.
        with contextlib.suppress(OSError):
            stream.close()
        raise
    try:
        stream.close()
    except OSError as error:
        raise _in_words(error, str(path), "write to") from error


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    try:
        yield sys.stdout
    except OutputError:
        _discard_rest()
        raise
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_rest()
        raise _in_words(error, "standard output", "write to") from error


def _discard_rest() -> None:
    # The interpreter flushes standard output once more at exit and would complain about what is still buffered.
    with contextlib.suppress(OSError, ValueError):
        descriptor = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def _name(stream: TextIO) -> str:
    if stream is sys.stdout:
        return "standard output"
    name = getattr(stream, "name", None)
    return {"<stdout>": "standard output"}.get(name, name) if isinstance(name, str) else "the output"


def _in_words(error: OSError | UnicodeError, name: str, action: str) -> OutputError:
    if isinstance(error, UnicodeError):
        return OutputError(f"cannot write to {name}: its encoding lacks a character ({error})")
    if error.errno == errno.EPIPE:
        return OutputClosedError(f"{name} was closed by its reader")
    return OutputError(f"cannot {action} {name}: {error.strerror or error}")
