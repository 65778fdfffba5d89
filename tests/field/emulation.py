"""Debian for another architecture: debootstrap, binfmt_misc and QEMU; and wheels for it.

As root, on Debian: `apt install debootstrap qemu-user-static`. What is made is kept in build/field, so that the
next run takes minutes less. DEBIAN_MIRROR names another mirror.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.parity_arm64 import CPUINFO, PROCESSORS

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "field"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
# Release -> its Python and the newest glibc that wheels may want.
RELEASES = {"bookworm": ("3.11", 36), "trixie": ("3.13", 41)}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
BINFMT = Path("/proc/sys/fs/binfmt_misc")
QEMU = "/usr/bin/qemu-aarch64-static"
# A Raspberry Pi 4's.
CPU = "cortex-a72"
# An ELF file for 64-bit ARM, as in Debian's /usr/share/binfmts/qemu-aarch64. F: the interpreter is opened now, so that
# it is found in any root; P: programs see the name that they were called by.
REGISTRATION = (
    r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:" + QEMU + ":PF"
)


def require(programs: Mapping[str, str]) -> None:
    """End with a way out where this is not root, or a program is missing.

    Args:
        programs: Program -> Debian package.
    """
    if os.geteuid() != 0:
        raise SystemExit("this needs root: roots and mounts are made")
    lacking = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if lacking:
        raise SystemExit(f"not installed: apt install {' '.join(lacking)}")


def is_native(arch: str) -> bool:
    """Does this computer run programs for `arch` itself?"""
    return MACHINES[arch] == platform.machine()


def let_arm64_run() -> str:
    """Make the kernel run arm64 programs; how, in words. What is registered already stays as it is.

    Only the one file is written: nothing else on this computer changes, and a restart forgets it.
    """
    if is_native("arm64"):
        return "this computer is arm64"
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    for entry in sorted(BINFMT.glob("*aarch64*")):
        text = entry.read_text()
        if text.startswith("enabled") and "F" in text.partition("flags: ")[2].partition("\n")[0]:
            return f"binfmt_misc: {entry.name}, registered before"
    try:
        (BINFMT / "register").write_text(REGISTRATION)
    except OSError as error:
        raise SystemExit(f"{BINFMT}/register: {error.strerror}: is this a container without rights?") from error
    return f"binfmt_misc: {QEMU}, registered now"


def run(*command: object, env: Mapping[str, str] | None = None, quiet: bool = True) -> str:
    """Run a program; what it printed. Ends the whole run where it fails.

    Args:
        *command: Program and arguments.
        env: Added to the environment.
        quiet: Keep what it says on standard error, and show it only where it fails.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "LC_ALL": "C.UTF-8", "QEMU_CPU": CPU, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}{done.stderr or ''}")
    return done.stdout


def make_root(release: str, arch: str, *, include: Sequence[str] = (), name: str = "root") -> Path:
    """A minimal Debian in a folder; the folder. Made once."""
    folder = KEPT / f"{name}-{release}-{arch}"
    if folder.exists():
        return folder
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    more = [f"--include={','.join(include)}"] if include else []
    print(f"debootstrap {release} {arch} {' '.join(more)}", flush=True)
    run("debootstrap", "--variant=minbase", f"--arch={arch}", *more, release, unfinished, MIRROR)
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(unfinished / waste, ignore_errors=True)
    for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (unfinished / needed).mkdir(parents=True)
    unfinished.rename(folder)
    return folder


def describe_processor(folder: Path) -> Path:
    """A /proc/cpuinfo of one arm64 core; the file.

    QEMU 7 hands this computer's through, of which XNNPACK, looking for ARM's features, dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cpuinfo"
    path.write_text(CPUINFO.format(part=PROCESSORS[CPU], more=""))
    return path


def download_wheels(release: str, arch: str, *locks: str) -> Path:
    """What lock files name, as wheels for a release and an architecture, and this project's own; the folder.

    Downloaded by what this Python's pip is set to, so that what is built needs no network of its own.
    """
    version, glibc = RELEASES[release]
    folder = KEPT / f"wheels-{release}-{arch}"
    folder.mkdir(parents=True, exist_ok=True)
    machine = MACHINES[arch]
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(17, glibc + 1)]
    for lock in locks:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        pip += ["--require-hashes", "--requirement", str(ROOT / lock), "--dest", str(folder)]
        pip += ["--implementation=cp", f"--python-version={version}", f"--platform=manylinux2014_{machine}", *platforms]
        run(*pip, f"--abi=cp{version.replace('.', '')}", "--abi=abi3", "--abi=none")
    for old in folder.glob("seismic_monitor-*.whl"):
        old.unlink()
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    return folder
