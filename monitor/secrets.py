"""Passwords and tokens: read from files, never shown."""

import hmac
import os
import stat
from pathlib import Path
from typing import NoReturn

# A token is a few hundred bytes; whoever names a disk image by mistake is told, not obeyed.
_MOST_BYTES = 64 * 1024


class SecretError(Exception):
    """A secret cannot be had from its file; the message names the file and what is wrong with it."""


class Secret:
    """A text that no log, error or report shows; `reveal` gives it to the one who has to send it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the text itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written out")


def read_secret(path: str | os.PathLike[str]) -> Secret:
    """Read the first line of a file, without its end of line.

    Raises:
        SecretError: The file is missing, unreadable, not UTF-8 text, or its first line is empty or endless.
    """
    try:
        with Path(path).open("rb") as file:
            line = file.readline(_MOST_BYTES)
    except OSError as error:
        raise SecretError(f"{path}: cannot be read: {error.strerror}") from error
    if len(line) == _MOST_BYTES:
        raise SecretError(f"{path}: its first line is no password: {_MOST_BYTES} bytes or more")
    try:
        text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # Not chained: the error that Python raises carries the bytes.
        raise SecretError(f"{path}: its first line is not UTF-8 text") from None
    if not text:
        raise SecretError(f"{path}: its first line is empty; accepted: the password or token")
    return Secret(text)


def exposure(path: str | os.PathLike[str]) -> str | None:
    """Say who else can read a secret's file; None where only its owner and group can, or where there is no file."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"{path}: every user of this computer can read or change it (mode {stat.S_IMODE(mode):04o}); chmod o= it"
    return None
