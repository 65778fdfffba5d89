"""The container image: built by buildah from a Debian made here, run by podman; `make test-image`.

The base image cannot always be fetched, so one is made by debootstrap and given its name. FIELD_ARCHITECTURES=amd64 or
arm64 for one of them; arm64 runs under QEMU, which takes its time. FIELD_KEEP_IMAGE=1: the image of the last run.
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parity_arm64 import by_a_step, demo_files, differences
from tests.field import emulation
from tests.field.emulation import KEPT, ROOT, run
from tests.field.machine import wait_for
from tests.mosquitto import free_port

ARCHITECTURES = os.environ.get("FIELD_ARCHITECTURES", "amd64 arm64").split()
RELEASE = "bookworm"
IMAGE = "localhost/seismic-monitor"
STORE = ("--root", KEPT / "containers", "--runroot", KEPT / "containers-run")
# As small as what is in it allows: Debian's base and Python 110 MB, NumPy and LiteRT as much again.
MOST_BYTES = 320_000_000
# A container under QEMU on a busy computer takes a minute to start.
PATIENCE_S = 300.0
# All that compose.yaml takes away.
CONFINED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host")
# What a container in a container, or an older kernel, may lack: cgroups of its own, and the right to raise limits.
HERE = ("--cgroups=disabled", "--ulimit=nofile=1024:2048", "--ulimit=nproc=512:512")


def base_name() -> str:
    found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile.arm64").read_text(), flags=re.M)
    assert found is not None
    return found[1]


class Image:
    """The image for one architecture."""

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.name = f"{IMAGE}:{arch}"
        self._cpuinfo = emulation.describe_processor(KEPT / "processor")

    def buildah(self, *arguments: object) -> str:
        """What buildah says."""
        return run("buildah", *STORE, *arguments)

    def podman(self, *arguments: object) -> list[str]:
        """A command line of podman."""
        # Where version 1 and 2 of cgroups are mixed, crun gives up; podman is shown version 1 only.
        hide = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"'
        engine = ["unshare", "--mount", "sh", "-c", hide, "podman"]
        return [*engine, *map(str, STORE), "--cgroup-manager=cgroupfs", *map(str, arguments)]

    def container(self, *arguments: object) -> list[str]:
        """A command line that runs the image, confined as in compose.yaml."""
        emulated = [] if emulation.is_native(self.arch) else [f"--volume={self._cpuinfo}:/proc/cpuinfo:ro"]
        emulated += ["--env=QEMU_CPU=" + emulation.CPU] if emulated else []
        return self.podman(
            "run", "--rm", f"--arch={self.arch}", "--pull=never", *CONFINED, *HERE, *emulated, *arguments
        )

    def monitor(self, *arguments: object, options: tuple[object, ...] = ()) -> str:
        """What the program in it says."""
        return run(*self.container(*options, self.name, *arguments))

    def build(self) -> None:
        """Make the base image and build this one from it, with nothing but Debian's mirror and a folder of wheels."""
        root = emulation.make_root(RELEASE, self.arch)
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", container, root, "/")
        self.buildah("config", f"--arch={self.arch}", "--os=linux", "--cmd=/bin/bash", container)
        self.buildah("commit", "--quiet", "--rm", container, base_name())
        wheels = emulation.download_wheels(RELEASE, self.arch, "requirements-edge.lock", "requirements-build.lock")
        self.buildah(
            "bud",
            "--isolation=chroot",
            "--format=docker",
            f"--platform=linux/{self.arch}",
            "--pull-never",
            f"--file={ROOT / 'Dockerfile.arm64'}",
            f"--build-context=wheels={wheels}",
            "--build-arg=PIP_NO_INDEX=1",
            f"--tag={self.name}",
            ROOT,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What the engine knows of it."""
        (found,) = json.loads(run(*self.podman("image", "inspect", self.name)))
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="session", params=ARCHITECTURES)
def image(request: pytest.FixtureRequest) -> Iterator[Image]:
    programs = {"buildah": "buildah", "podman": "podman", "crun": "crun", "debootstrap": "debootstrap"}
    emulation.require({**programs, emulation.QEMU: "qemu-user-static"})
    if request.param == "arm64":
        emulation.let_arm64_run()
    yield Image(request.param)
    # The store mounts its own folder, which `make clean` could not remove then.
    run("buildah", *STORE, "umount", "--all")
    subprocess.run(["umount", KEPT / "containers" / "overlay"], capture_output=True, check=False)


@pytest.fixture(scope="session")
def recordings() -> list[Path]:
    return demo_files(KEPT / "recordings")


def test_build(image: Image, note: Callable[[str], None]) -> None:
    """Dockerfile.arm64 builds"""
    if os.environ.get("FIELD_KEEP_IMAGE") != "1":
        image.build()
    size = image.facts["Size"]
    note(f"{size / 1e6:.0f} MB")
    assert size < MOST_BYTES


def test_what_it_is(image: Image, note: Callable[[str], None]) -> None:
    """Architecture, user, health check, labels, volume as written"""
    facts = image.facts
    config = facts["Config"]
    assert facts["Architecture"] == image.arch
    assert config["User"] == "10001:10001"
    assert list(config["Volumes"]) == ["/var/lib/monitor"]
    assert facts["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.title"] == "seismic-monitor"
    assert config["Labels"]["org.opencontainers.image.base.name"] == base_name()
    found = image.monitor("-c", "command -v gcc cc pip pip3 curl || true", options=("--entrypoint=sh",))
    assert found.strip() == ""
    note("no compiler, no pip, no curl in it")


def test_nothing_can_be_written(image: Image, note: Callable[[str], None]) -> None:
    """Read-only root, no capability, no new rights, nobody's user"""
    script = "id -u; touch /x /etc/x /opt/monitor/x 2>&1 | wc -l; grep -E 'CapEff|NoNewPrivs' /proc/self/status"
    lines = image.monitor("-c", script, options=("--entrypoint=sh",)).split()
    assert lines == ["10001", "3", "CapEff:", "0000000000000000", "NoNewPrivs:", "1"]
    note("uid 10001, CapEff 0")


def test_version_and_model(image: Image, note: Callable[[str], None]) -> None:
    """monitor --version, monitor model verify"""
    version = image.monitor("--version").strip()
    said = image.monitor("model", "verify").strip()
    note(f"{version}; {said.splitlines()[0][:80]}")


def test_replay(image: Image, recordings: list[Path], note: Callable[[str], None]) -> None:
    """monitor replay finds what it finds here"""
    command = ["replay", "--format", "jsonl", "--all-states"]
    here = run(sys.executable, "-m", "monitor.cli", *command, *recordings)
    folder = KEPT / "recordings"
    inside = [f"/recordings/{path.name}" for path in recordings]
    there = image.monitor(*command, *inside, options=(f"--volume={folder}:/recordings:ro",))
    ours, theirs = ([json.loads(line) for line in text.splitlines()] for text in (here, there))
    assert ours
    assert differences(ours, theirs) == []
    if emulation.is_native(image.arch):
        assert {d["id"] for d in ours} == {d["id"] for d in theirs}
    note(by_a_step(ours, theirs))


@pytest.fixture
def server(recordings: list[Path]) -> Iterator[int]:
    """A SeedLink server of this computer that plays the recordings; its port."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "monitor.cli",
        "serve",
        *map(str, recordings),
        "--port",
        str(port),
        "--speed",
        "20",
        # However long a container takes to start: the earthquakes come after it.
        "--wait",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def test_daemon(image: Image, server: int, note: Callable[[str], None], tmp_path: Path) -> None:
    """monitor run: healthy, detects, keeps its state in the volume, ends in order"""
    http, name = free_port(), f"field-{image.arch}-{os.getpid()}"
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 10001, 10001)
    settings = {
        "SEEDLINK__0__HOST": "127.0.0.1",
        "SEEDLINK__0__PORT": str(server),
        "SEEDLINK__0__STATIONS": '["*.*"]',
        "SEEDLINK__0__BACKLOG_S": "0",
        "PAGE__PORT": "none",
        "HTTP__PORT": str(http),
    }
    options = [f"--env=MONITOR_{key}={value}" for key, value in settings.items()]
    command = image.container(f"--name={name}", f"--volume={state}:/var/lib/monitor", *options, image.name)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def detects() -> bool:
        assert process.poll() is None, "it ended by itself"
        return metric(http, "monitor_detections_total") > 0

    try:
        wait_for(detects, why="nothing is found", seconds=PATIENCE_S)
        healthy = subprocess.run(image.podman("healthcheck", "run", name), capture_output=True, text=True, check=False)
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        wait_for(lambda: list(state.iterdir()), why="nothing is saved", seconds=PATIENCE_S)
    except AssertionError as error:
        pytest.fail(f"{error}\n{(tmp_path / 'log').read_text()[-4000:]}")
    finally:
        subprocess.run(image.podman("stop", "--time=60", name), capture_output=True, check=False)
        code = process.wait()
    assert code == 0, (tmp_path / "log").read_text()[-4000:]
    kept = sorted(path.name for path in state.iterdir())
    assert {path.stat().st_uid for path in state.rglob("*")} == {10001}
    note(f"HEALTHCHECK 0; state: {', '.join(kept)}; exit 0")


def metric(port: int, name: str) -> float:
    """The sum of a family of series; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return 0.0
    return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, flags=re.M))


def test_a_hung_monitor_is_not_healthy(image: Image, note: Callable[[str], None]) -> None:
    """HEALTHCHECK fails where nobody answers"""
    command = image.facts["Healthcheck"]["Test"][1:]
    entry, *arguments = command
    done = subprocess.run(
        image.container(f"--entrypoint={entry}", "--env=MONITOR_HTTP__PORT=1", image.name, *arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    note(done.stdout.strip())
