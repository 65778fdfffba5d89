"""Does the same model give the same detections on x86 and on arm64? `monitor replay` on both, arm64 under emulation.

    python benchmarks/parity_arm64.py [--folder build/parity-arm64] [--cpu cortex-a72] [FILE…]

On Debian or Ubuntu, with `apt install qemu-user-static`: nothing else is installed, no container, no root. Into the
folder go Debian's Python for arm64, unpacked, and the arm64 wheels of what requirements-edge.lock names: the versions
that run natively. Without files, the demo's recordings (the extra `obspy` brings them) are made miniSEED first, as
ObsPy has no wheel for arm64.

The two round sums in their own way, so that a score may differ by a step of int8. Where a score lies at the threshold,
an output more or less is above it: the decision comes a tenth of a second or some earlier or later, and with it another
id, as an id holds the moment of the decision. Exits with 1 if one has a detection that the other has not, or another
onset.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QEMU = "qemu-aarch64-static"
WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# Board's processor, as QEMU calls it -> its part number, as /proc/cpuinfo has it: Raspberry Pi 3, 4 and 5.
PROCESSORS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
CPUINFO = """\
processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid{more}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 1
"""
# NumPy and LiteRT want the C++ library, and find it nowhere else.
PACKAGES = ("python3", "libstdc++6")
# Onsets are picked in the samples, which are the same: what is further apart are two things.
SAME_ONSET_S = 0.1
# Two steps of int8, of a score.
MOST_APART = 2 / 256
REPLAY = ("-m", "monitor.cli", "replay", "--format", "jsonl", "--all-states")


def unpack_python(rootfs: Path) -> Path:
    """Debian's python3 for arm64 with all that it depends on, of the release that runs here; its path."""
    found = sorted(rootfs.glob("usr/bin/python3.[0-9]*"))
    if found:
        return found[-1]
    state, archives = rootfs.with_name("apt"), rootfs.with_name("apt") / "cache" / "archives"
    for folder in (state / "lists" / "partial", archives / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    apt = [
        "apt-get",
        "--quiet",
        "-o=APT::Architecture=arm64",
        "-o=APT::Architectures=arm64",
        f"-o=Dir::State={state}",
        f"-o=Dir::State::status={state / 'status'}",
        f"-o=Dir::Cache={state / 'cache'}",
        "-o=Debug::NoLocking=1",
        "-o=APT::Sandbox::User=",
    ]
    # What is not Debian's own may have nothing for arm64; that is no reason to stop.
    subprocess.run([*apt, "update"], stdout=sys.stderr, check=False)
    install = ["install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES]
    subprocess.run([*apt, *install], stdout=sys.stderr, check=True)
    unfinished = rootfs.with_suffix(".part")
    for package in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, unfinished], check=True)
    unfinished.rename(rootfs)
    return sorted(rootfs.glob("usr/bin/python3.[0-9]*"))[-1]


def describe_processor(rootfs: Path, cpu: str) -> None:
    """Lay a description of one arm64 core over this machine's.

    QEMU hands /proc and /sys through, and XNNPACK dies of an x86 machine's; what lies in the root folder goes first.
    """
    system = rootfs / "sys" / "devices" / "system" / "cpu"
    for folder in (rootfs / "proc", system):
        folder.mkdir(parents=True, exist_ok=True)
    more = " asimdhp asimddp" if cpu == "cortex-a76" else ""
    (rootfs / "proc" / "cpuinfo").write_text(CPUINFO.format(part=PROCESSORS[cpu], more=more))
    for name in ("possible", "present", "online", "kernel_max"):
        (system / name).write_text("0\n")


def install_wheels(target: Path, version: str) -> None:
    """What requirements-edge.lock names, for arm64 and this Python, by its hashes."""
    if target.exists():
        return
    unfinished = target.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"]
    command += [str(unfinished), "--implementation", "cp", "--python-version", version]
    command += [f"--platform={tag}" for tag in WHEELS]
    subprocess.run([*command, "--require-hashes", "-r", str(ROOT / "requirements-edge.lock")], check=True)
    unfinished.rename(target)


def demo_files(folder: Path) -> list[Path]:
    """The demo's recordings as miniSEED."""
    import obspy.signal  # noqa: PLC0415  # only where no file is given

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for source in sorted(Path(obspy.signal.__file__).parent.glob("tests/data/BW.UH*.cut.slist.gz")):
        path = folder / f"{source.name.removesuffix('.slist.gz')}.mseed"
        stream = obspy.read(str(source))
        for trace in stream:
            trace.data = trace.data.astype("int32")
        stream.write(str(path), format="MSEED", encoding="STEIM2")
        made.append(path)
    if not made:
        raise SystemExit("the demo's recordings are not there: pip install 'seismic-monitor[obspy]'")
    return made


def run(command: Sequence[object], environment: dict[str, str]) -> tuple[list[dict[str, Any]], float]:
    """The detections that a replay prints, and the seconds that it took."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]}: exit {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()], time.perf_counter() - start


def finals(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last word on each detection."""
    return [record for record in records if record["state"] == "final"]


def pairs(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> list[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """Each final detection with the other's of the same channels and onset; None where there is none."""
    left, found = finals(theirs), []
    for mine in finals(ours):
        like = next((other for other in left if _is_same(mine, other)), None)
        if like is not None:
            left.remove(like)
        found.append((mine, like))
    return found + [(None, other) for other in left]


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["seed_ids"] == other["seed_ids"]) and apart_s(one["onset"], other["onset"]) <= SAME_ONSET_S


def apart_s(one: str, other: str) -> float:
    """Seconds between two moments."""
    return abs((datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds())


def differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Detections that only one of the two has, a line for each; not of what is above the threshold by rounding only."""
    lines = []
    for mine, other in pairs(ours, theirs):
        one = mine or other
        assert one is not None
        if (mine is None or other is None) and one["probability"] - one["reason"]["threshold"] > MOST_APART:
            where = "native" if other is None else "arm64"
            lines.append(f"only {where}: {one['id']}, onset {one['onset']}, probability {one['probability']:.4f}")
    return sorted(lines)


def by_a_step(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """How many detections say the same to the last digit, and how far apart the others are."""
    both = [(mine, other) for mine, other in pairs(ours, theirs) if mine is not None and other is not None]
    unlike = [(mine, other) for mine, other in both if mine != other]
    text = f"{len(both) - len(unlike)} of {len(both)} detections are the same to the last digit"
    if not unlike:
        return f"{text}."
    fields = sorted({name for mine, other in unlike for name in mine if mine[name] != other.get(name)})
    ids = sum(mine["id"] == other["id"] for mine, other in both)
    return (
        f"{text}, {ids} have the same id; others differ in {', '.join(fields)}, the probability by "
        f"{furthest(ours, theirs):.4f} at most."
    )


def furthest(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """How far a probability is from its like at most."""
    both = [(mine, other) for mine, other in pairs(ours, theirs) if mine is not None and other is not None]
    return max((abs(mine["probability"] - other["probability"]) for mine, other in both), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare detections on this machine and on arm64 under emulation.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="miniSEED; the demo's without any")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "parity-arm64", help="kept between runs")
    parser.add_argument("--cpu", choices=PROCESSORS, default="cortex-a72", help="the default is a Raspberry Pi 4's")
    options = parser.parse_args()
    for program, package in ((QEMU, "qemu-user-static"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed: apt install {package}")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = unpack_python(folder / "rootfs")
    version = re.sub(r"^python", "", python.name)
    site = folder / f"site-{version}"
    install_wheels(site, version)
    files = [path.resolve() for path in options.files] or demo_files(folder / "recordings")

    describe_processor(folder / "rootfs", options.cpu)
    arm = [QEMU, "-cpu", options.cpu, "-L", folder / "rootfs", python]
    there = {"PYTHONPATH": f"{ROOT}:{site}", "PYTHONHOME": str(folder / "rootfs" / "usr")}
    asked = "import platform; print(platform.machine(), platform.python_version())"
    told = subprocess.run(
        [*map(str, arm), "-c", asked], env={**os.environ, **there}, capture_output=True, text=True, check=True
    )
    ours, native_s = run([sys.executable, *REPLAY, *files], {"PYTHONPATH": str(ROOT)})
    theirs, arm_s = run([*arm, *REPLAY, *files], there)
    print("| machine | Python | detections | revisions | seconds |")
    print("|---|---|--:|--:|--:|")
    rows = (
        (f"{platform.machine()} {platform.python_version()}", ours, native_s),
        (told.stdout.strip(), theirs, arm_s),
    )
    for name, each, seconds in rows:
        machine, _, python_version = name.partition(" ")
        print(f"| {machine} | {python_version} | {len({d['id'] for d in each})} | {len(each)} | {seconds:.1f} |")
    if not ours:
        raise SystemExit("nothing was detected: nothing was compared")
    lines = differences(ours, theirs)
    print("\n".join(["", *lines]) if lines else "\nBoth have the same detections.")
    print(by_a_step(ours, theirs))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
