"""Read a lock: pip's requirements with versions and hashes, as `make lock` writes them."""

import re
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)(?:\s*;\s*(.+))?")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


class LockError(Exception):
    """A line is not pinned with hashes; the message says which."""


class Requirement(NamedTuple):
    """One line of a lock.

    Attributes:
        name, version: Of the distribution.
        marker: Where it is needed; None: everywhere.
        hashes: SHA-256 of each published file, any of which may be installed.
        via: What needs it.
    """

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]
    via: tuple[str, ...]


def read_lock(path: Path) -> list[Requirement]:
    """Read a lock.

    Raises:
        LockError: A line is no requirement of one version with SHA-256 hashes.
    """
    found: list[Requirement] = []
    comments: list[str] = []
    for line in path.read_text().replace("\\\n", " ").splitlines():
        text = line.strip()
        if text.startswith("#") or not text:
            comments.append(text.lstrip("# "))
            continue
        if found:
            found[-1] = found[-1]._replace(via=_via(comments))
        comments = []
        found.append(_requirement(path, text))
    if found:
        found[-1] = found[-1]._replace(via=_via(comments))
    return found


def _requirement(path: Path, text: str) -> Requirement:
    head, *options = re.split(r"\s+--hash=", text)
    match = _NAME.fullmatch(head.strip())
    if match is None:
        raise LockError(f"{path.name}: {head}: not pinned; accepted: NAME==VERSION with --hash=sha256:…")
    hashes = [_HASH.fullmatch(option.strip()) for option in options]
    if not hashes or None in hashes:
        raise LockError(f"{path.name}: {head}: no SHA-256; accepted: NAME==VERSION with --hash=sha256:…")
    return Requirement(match[1], match[2], match[3], tuple(sorted(h[1] for h in hashes if h)), ())


def _via(comments: list[str]) -> tuple[str, ...]:
    """What the comments below a requirement say: `via NAME`, or `via` and one name a line."""
    names = [text.removeprefix("via").removesuffix("(pyproject.toml)").strip() for text in comments]
    return tuple(sorted(name for name in names if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)))
