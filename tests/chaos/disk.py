"""A disk that loses its power: which contents a folder may have afterwards, from a record of the system calls.

What was written is on disk when `fsync` has returned, and perhaps before; of each later write any 512-byte sector may
be there or not, in any order. Names (made, renamed, removed) are there from the folder's `fsync` on, and a new file's
from its own; later ones in their order, as far as the cut let them. That is what POSIX leaves open and what file
systems with a journal do; see Pillai et al. 2014, "All File Systems Are Not Created Equal" (OSDI).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

SECTOR = 512
CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink,close"

_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)", re.ASCII)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Call(NamedTuple):
    """One system call that matters: its name, the numbers in it, the texts in it, its result."""

    name: str
    numbers: list[int]
    texts: list[bytes]
    result: int


def read_calls(lines: Iterable[str]) -> Iterator[Call]:
    """Read what `strace -f -xx` has written, without calls that failed.

    Raises:
        ValueError: A line was cut short.
    """
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            if "(" in line and "+++" not in line and "---" not in line and "unfinished" not in line:
                raise ValueError(f"unreadable: {line[:200]!r}")
            continue
        name, arguments, result = match[1], match[2], int(match[3])
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(arguments)]
        numbers = [int(number) for number in re.findall(r"(?:^|, )(\d+)(?=$|,)", _TEXT.sub("", arguments))]
        if result >= 0:
            yield Call(name, numbers, texts, result)


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    # (where, what) of a write; (size, None) of a cut.
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    at: int = 0

    def settle(self) -> None:
        for where, what in self.pending:
            _apply(self.durable, where, what)
        self.pending.clear()


def _apply(content: bytearray, where: int, what: bytes | None) -> None:
    if what is None:
        del content[where:]
        content.extend(bytes(where - len(content)))
        return
    content.extend(bytes(max(0, where + len(what) - len(content))))
    content[where : where + len(what)] = what


class Disk:
    """A folder, as the calls of one process change it.

    Attributes:
        said: What the process has written to its standard output, line by line.
    """

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self._folder = str(folder)
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        # (name, its file or None) of each change of names since the last that is on disk.
        self._renamed: list[dict[str, _File | None]] = []
        self._open: dict[int, _File | None] = {}

    def apply(self, call: Call) -> None:
        """Follow a call."""
        match call.name:
            case "openat":
                self._opened(call)
            case "close":
                self._open.pop(call.numbers[0], None)
            case "write" if call.numbers[0] == 1:
                self.said += call.texts[0].decode().splitlines()
            case "write" if file := self._open.get(call.numbers[0]):
                file.pending.append((file.at, call.texts[0]))
                file.at += len(call.texts[0])
            case "pwrite64" if file := self._open.get(call.numbers[0]):
                file.pending.append((call.numbers[-1], call.texts[0]))
            case "ftruncate" if file := self._open.get(call.numbers[0]):
                file.pending.append((call.numbers[-1], None))
            case "fsync" | "fdatasync" if call.numbers[0] in self._open:
                self._synced(self._open[call.numbers[0]])
            case "rename" | "unlink":
                self._named(call)

    def cut(self, rng: np.random.Generator) -> dict[str, bytes]:
        """Lose the power now: name -> content of what is found afterwards."""
        names = dict(self._durable_names)
        for change in self._renamed[: rng.integers(0, len(self._renamed) + 1)]:
            _rename(names, change)
        found: dict[str, bytes] = {}
        chances: dict[int, float] = {}
        for name, file in names.items():
            content = bytearray(file.durable)
            # Nothing of it, all of it, or any of it.
            chance = chances.setdefault(id(file), float(rng.choice([0.0, 0.5, 0.9, 1.0])))
            for where, what in file.pending:
                if what is None:
                    if rng.random() < chance:
                        _apply(content, where, None)
                    continue
                for first in range(0, len(what), SECTOR):
                    if rng.random() < chance:
                        _apply(content, where + first, what[first : first + SECTOR])
            found[name] = bytes(content)
        return found

    def _opened(self, call: Call) -> None:
        path = call.texts[0].decode()
        if path == self._folder:
            self._open[call.result] = None
        elif path.startswith(self._folder + "/"):
            name = path[len(self._folder) + 1 :]
            if name not in self._names:
                file = self._names[name] = _File()
                self._renamed.append({name: file})
            self._open[call.result] = self._names[name]
            self._names[name].at = 0
            # As `open(…, "wb")` does; SQLite's files are never cut this way.
            if name.endswith(".new"):
                self._names[name].pending.append((0, None))
        else:
            self._open.pop(call.result, None)

    def _named(self, call: Call) -> None:
        paths = [text.decode() for text in call.texts]
        if not all(path.startswith(self._folder + "/") for path in paths):
            return
        names = [path[len(self._folder) + 1 :] for path in paths]
        change: dict[str, _File | None] = {names[0]: None}
        if call.name == "rename":
            change[names[1]] = self._names[names[0]]
        _rename(self._names, change)
        self._renamed.append(change)

    def _synced(self, file: _File | None) -> None:
        if file is not None:
            file.settle()
        # The folder, or up to the name of a new file.
        last = len(self._renamed)
        if file is not None:
            last = max((n for n, change in enumerate(self._renamed, 1) if file in change.values()), default=0)
        for change in self._renamed[:last]:
            _rename(self._durable_names, change)
        del self._renamed[:last]


def _rename(names: dict[str, _File], change: dict[str, _File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file
