"""What the archives do to the disk, in one place; errors are OSError and mean that nothing more was done.

Appends name the place where they begin: what a failed one left behind is written over by the next.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Final, Literal

FailureReason = Literal["full", "read_only", "denied", "io", "other"]

_REASONS: Final[dict[int | None, FailureReason]] = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EFBIG: "full",
    errno.EROFS: "read_only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EIO: "io",
}
# On the usual file systems a file takes whole blocks of this size, a folder at least one.
BLOCK_BYTES = 4096


def failure_reason(error: OSError) -> FailureReason:
    """Say in one word why the disk did not take something."""
    return _REASONS.get(error.errno, "other")


def on_disk(size: int) -> int:
    """What a file of so many bytes takes of the disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class Disk:
    """The file system."""

    def free_bytes(self, path: Path) -> int:
        """What is free for us on the file system that a folder is on."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def make_directory(self, path: Path) -> None:
        """Make a folder, and those above it, where they are not there."""
        path.mkdir(parents=True, exist_ok=True)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Write at a place of a file and end the file behind it; at 0 it is made where it is not there."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (0 if offset else os.O_CREAT), 0o666)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset += written
                view = view[written:]
            os.ftruncate(descriptor, offset)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            os.close(descriptor)

    def replace(self, path: Path, data: bytes) -> None:
        """Give a file other contents: whoever reads it sees the old ones or the new ones."""
        beside = path.with_name(path.name + ".new")
        self.write_at(beside, 0, data)
        beside.replace(path)

    def rename(self, path: Path, to: Path) -> None:
        """Give a file or folder another name."""
        path.rename(to)

    def sync(self, path: Path) -> None:
        """Wait until a file or folder is on the medium."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is none."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all that is in it."""
        shutil.rmtree(path)

    def prune(self, path: Path, root: Path) -> None:
        """Remove folders that are empty, from one up to below `root`."""
        while path != root and root in path.parents:
            try:
                path.rmdir()
            except OSError:
                return  # not empty, mostly; an empty folder more or less harms nobody
            path = path.parent
