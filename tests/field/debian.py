"""A fresh Debian's files, made once by debootstrap and kept as a tar archive below `build/field`.

    python -m tests.field.debian bookworm trixie

DEBIAN_MIRROR is where packages come from (http://deb.debian.org/debian unless set), FIELD_CACHE where archives are
kept.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.programs import find_program

CHECKOUT = Path(__file__).parents[2]
DEFAULT_MIRROR = "http://deb.debian.org/debian"

# What a station has: systemd, Python as Debian brings it, a broker, and what the pages in docs/ use.
INCLUDED = (
    "ca-certificates curl dbus iproute2 mosquitto mosquitto-clients openssl python3 python3-venv sudo systemd "
    "systemd-sysv"
).split()

# Program -> Debian package, for what the field tests start on this computer.
NEEDED = {
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "setpriv": "util-linux",
    "systemd-nspawn": "systemd-container",
    "tar": "tar",
    "unshare": "util-linux",
}


class FieldError(Exception):
    """This computer cannot run the field tests; the message says what is missing."""


def require() -> None:
    """Check that the tests can run here.

    Raises:
        FieldError: Not root, or a program is not installed.
    """
    if os.geteuid() != 0:
        raise FieldError("booting a container needs root: sudo make test-systemd")
    lacking = sorted({package for program, package in NEEDED.items() if find_program(program) is None})
    if lacking:
        raise FieldError(f"not installed; apt install {' '.join(lacking)}")


def cache() -> Path:
    """Where archives are kept between runs."""
    folder = Path(os.environ.get("FIELD_CACHE") or CHECKOUT / "build" / "field")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def archive(suite: str) -> Path:
    """Give the archive of a fresh root; made now where it is not there yet, which takes minutes and a network.

    Args:
        suite: A release of Debian, such as "bookworm".

    Raises:
        FieldError: debootstrap failed; its last words are in the message.
    """
    kept, packages = cache() / f"{suite}.tar", cache() / f"{suite}.packages"
    if kept.exists() and packages.exists() and packages.read_text().split() == INCLUDED:
        return kept
    folder = cache() / f"{suite}.new"
    shutil.rmtree(folder, ignore_errors=True)
    mirror = os.environ.get("DEBIAN_MIRROR") or DEFAULT_MIRROR
    print(f"debootstrap {suite}, once: takes minutes", file=sys.stderr, flush=True)
    # In a mount namespace of its own: what it mounts is gone when it ends, however it ends.
    command = ["unshare", "--mount", "--propagation", "private", "debootstrap", "--variant=minbase"]
    command += [f"--include={','.join(INCLUDED)}", suite, str(folder), mirror]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        raise FieldError(f"debootstrap {suite}: {' / '.join(result.stdout.splitlines()[-5:])}")
    for package in (folder / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    _settle(folder)
    part = kept.with_suffix(".part")
    command = ["tar", "--one-file-system", "--numeric-owner", "--xattrs", "-C", str(folder), "-cf", str(part), "."]
    subprocess.run(command, check=True)
    shutil.rmtree(folder)
    part.rename(kept)
    packages.write_text(" ".join(INCLUDED))
    return kept


def unpack(suite: str, to: Path) -> Path:
    """Unpack a fresh root into a new folder, and give it."""
    to.mkdir(parents=True)
    subprocess.run(["tar", "--numeric-owner", "--xattrs", "-C", str(to), "-xf", str(archive(suite))], check=True)
    return to


def _settle(root: Path) -> None:
    """Add what an installer for a real computer would have added."""
    root.joinpath("etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 station\n")
    root.joinpath("etc/hostname").write_text("station\n")
    root.joinpath("etc/machine-id").write_text("")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        try:
            require()
            print(archive(name))
        except FieldError as error:
            sys.exit(str(error))
