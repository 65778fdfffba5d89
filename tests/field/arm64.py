"""The program on arm64, as a Raspberry Pi would run it, next to this computer; `make test-arm64`.

A fresh Debian for arm64 under QEMU: installed from wheels, with no compiler there, then the same recordings in both. It
takes minutes, most of them for making the Debian once (kept in build/field). FIELD_RELEASES="bookworm trixie" for
Python 3.11 and 3.13.
"""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.parity_arm64 import MOST_APART, by_a_step, demo_files, differences, furthest, pairs
from tests.field import emulation
from tests.field.emulation import CPU, KEPT, RELEASES, run

CHOSEN = os.environ.get("FIELD_RELEASES", "bookworm").split()
PROGRAM = "/opt/monitor/bin/monitor"
REPLAY = ("replay", "--format", "jsonl", "--all-states")
# What a compiler would be called, and what compiling would need.
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "make", "rustc", "cargo", "go")


class Board:
    """A root for arm64, and how a program runs in it."""

    def __init__(self, release: str) -> None:
        self.release = release
        self.root = KEPT / f"station-{release}-arm64"
        self._cpuinfo = emulation.describe_processor(KEPT / "processor")

    def __call__(self, *command: object, env: dict[str, str] | None = None) -> str:
        """What a program says; root's, with /proc, /sys, and an ARM processor described there."""
        mount = 'mount -t proc proc "$1/proc" && mount --bind "$2" "$1/proc/cpuinfo" && '
        # Without it the inference library does not learn what the processor can do, and rounds otherwise.
        mount += 'mount -t sysfs sysfs "$1/sys" && root=$1 && shift 2'
        script = f'{mount} && exec chroot "$root" "$@"'
        outer = ("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", self.root, self._cpuinfo)
        inside = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            **(env or {}),
        }
        return run(
            *outer, "env", "-i", f"QEMU_CPU={CPU}", *(f"{name}={value}" for name, value in inside.items()), *command
        )

    def make(self) -> None:
        """A fresh Debian with its Python, as docs/install.md asks for; made once."""
        if self.root.exists():
            return
        base = emulation.make_root(self.release, "arm64")
        unfinished = self.root.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        run("cp", "--archive", "--reflink=auto", base, unfinished)
        ready, self.root = self.root, unfinished
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        self("apt-get", "update", "--quiet=2")
        install = ("apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends")
        self(*install, "python3", "python3-venv", "libstdc++6", env=quiet)
        unfinished.rename(ready)
        self.root = ready


@pytest.fixture(scope="session", params=CHOSEN)
def board(request: pytest.FixtureRequest) -> Board:
    emulation.require({"debootstrap": "debootstrap", emulation.QEMU: "qemu-user-static"})
    emulation.let_arm64_run()
    made = Board(request.param)
    made.make()
    return made


@pytest.fixture(scope="session")
def recordings() -> list[Path]:
    return demo_files(KEPT / "recordings")


def test_a_fresh_debian(board: Board, note: Callable[[str], None]) -> None:
    """Debian for arm64, its Python, no compiler"""
    machine, version = board("python3", "-c", "import platform as p; print(p.machine(), p.python_version())").split()
    assert machine == "aarch64"
    assert version.startswith(RELEASES[board.release][0])
    there = board("sh", "-c", f"for name in {' '.join(COMPILERS)}; do command -v $name; done; true")
    assert there == ""
    note(f"{machine}, Python {version}, as {CPU}")


def test_install(board: Board, note: Callable[[str], None]) -> None:
    """Installed from wheels, by their hashes, without a network"""
    wheels = emulation.download_wheels(board.release, "arm64", "requirements-edge.lock")
    shutil.rmtree(board.root / "wheels", ignore_errors=True)
    shutil.rmtree(board.root / "opt" / "monitor", ignore_errors=True)
    shutil.copytree(wheels, board.root / "wheels")
    shutil.copy(emulation.ROOT / "requirements-edge.lock", board.root / "wheels" / "lock")
    start = time.monotonic()
    board("python3", "-m", "venv", "/opt/monitor")
    pip = ("/opt/monitor/bin/pip", "--disable-pip-version-check", "install", "--quiet", "--no-index")
    board(*pip, "--find-links=/wheels", "--only-binary=:all:", "--require-hashes", "--requirement=/wheels/lock")
    (own,) = (path.name for path in wheels.glob("seismic_monitor-*.whl"))
    board(*pip, "--no-deps", f"/wheels/{own}")
    board("/opt/monitor/bin/pip", "check")
    note(f"{time.monotonic() - start:.0f} s under QEMU")


def test_model(board: Board, note: Callable[[str], None]) -> None:
    """monitor --version, monitor model verify"""
    version = board(PROGRAM, "--version").strip()
    note(f"{version}; {board(PROGRAM, 'model', 'verify').strip().splitlines()[0][:80]}")


def test_the_same_detections(board: Board, recordings: list[Path], note: Callable[[str], None]) -> None:
    """monitor replay: detections and onsets as here, probabilities within two steps of int8"""
    folder = board.root / "recordings"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in recordings:
        shutil.copy(path, folder)
    here = run(sys.executable, "-m", "monitor.cli", *REPLAY, *recordings)
    start = time.monotonic()
    there = board(PROGRAM, *REPLAY, *(f"/recordings/{path.name}" for path in recordings))
    seconds = time.monotonic() - start
    ours, theirs = ([json.loads(line) for line in text.splitlines()] for text in (here, there))
    (KEPT / f"parity-{board.release}.json").write_text(json.dumps([ours, theirs], indent=1))
    assert ours
    assert differences(ours, theirs) == []
    both = [(mine, other) for mine, other in pairs(ours, theirs) if mine is not None and other is not None]
    assert both
    for mine, other in both:
        for field in ("station", "onset", "phase"):
            assert mine[field] == other[field], (mine["id"], field)
    assert furthest(ours, theirs) <= MOST_APART
    machine = f"{platform.machine()} Python {platform.python_version()}"
    note(f"{len(both)} detections as on {machine}; {by_a_step(ours, theirs)} {seconds:.0f} s under QEMU")
