"""All files of a root with owner, mode and content, to see what an installation left behind."""

import hashlib
import os
import stat
from pathlib import Path

# Path -> what would be different if somebody had touched it.
Snapshot = dict[str, str]

# What changes by itself: a broker's memory, logs, caches, and what apt, systemd and passwd keep for themselves. Nor is
# looked at what Python caches of its own modules.
_LIVELY = (
    "dev", "proc", "root", "run", "srv", "sys", "tmp", "var/backups", "var/cache", "var/lib/apt", "var/lib/dpkg",
    "var/lib/mosquitto", "var/lib/systemd", "var/log", "var/tmp", "etc/machine-id", "etc/ld.so.cache", "etc/.pwd.lock",
    "etc/.updated", "var/.updated", "etc/resolv.conf", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-",
    "etc/subuid-", "etc/subgid-",
)  # fmt: skip


def snapshot(root: Path) -> Snapshot:
    """Take a snapshot of what stays as it is unless somebody changes it."""
    found: Snapshot = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in [*folders, *files]:
            path = here / name
            key = str(path.relative_to(root))
            if key in _LIVELY or "__pycache__" in path.parts:
                continue
            found[key] = _describe(path)
        folders[:] = [name for name in folders if str((here / name).relative_to(root)) not in _LIVELY]
    return found


def differences(old: Snapshot, new: Snapshot) -> list[str]:
    """Each path that came, went or changed, in words."""
    said = [f"new: {path}" for path in sorted(new.keys() - old.keys())]
    said += [f"gone: {path}" for path in sorted(old.keys() - new.keys())]
    return said + [f"changed: {path}" for path in sorted(old.keys() & new.keys()) if old[path] != new[path]]


def _describe(path: Path) -> str:
    told = path.lstat()
    content = ""
    if stat.S_ISLNK(told.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(told.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{told.st_mode:o} {told.st_uid}:{told.st_gid} {content}"
