"""docs/docker.md with Docker itself: compose.yaml brought up as the page says, and what it is for seen to work.

Docker, Compose, mosquitto, Prometheus and Alertmanager are Debian's and go by the names in compose.yaml, whose images
cannot be fetched everywhere. Grafana, which Debian has not, is a stand-in that serves its health and reads, as
Grafana's user, all that is laid out for it. Everything is in a network of its own, where the page's addresses are.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.field import emulation, station
from tests.field.debian import CHECKOUT, FieldError, require, unpack
from tests.field.emulation import KEPT, run
from tests.field.image import STORE, Image
from tests.field.machine import ENVIRONMENT, Result, wait_for
from tests.field.pages import blocks

RELEASE = "trixie"
PACKAGES = "docker.io docker-cli docker-compose docker-buildx iptables prometheus prometheus-alertmanager wget".split()
SOURCE = "/root/seismic-monitor"
COMPOSE = yaml.safe_load((CHECKOUT / "deploy" / "compose.yaml").read_text())
# The station's and the broker's in docs/docker.md.
SEISMOMETER, BROKER = "192.168.1.20", "192.168.1.5"
NATIVE = next(arch for arch, machine in emulation.MACHINES.items() if machine == os.uname().machine)
# What the page says and needs a network, or another architecture: tests/field/image.py does that with buildah.
BUILDS = re.compile(r"git pull|docker build |docker buildx |docker load |buildah ")
# Service -> what runs in its place, by the command that its image has.
STAND_INS = {
    "mosquitto": ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"],
    "prometheus": ["/usr/bin/prometheus"],
    "alertmanager": ["/usr/bin/prometheus-alertmanager"],
    "grafana": ["python3", "/grafana.py"],
}
# Image's entry point, where compose.yaml adds arguments; else its command.
TAKES_ARGUMENTS = {"prometheus", "alertmanager"}
# What the real images have made for their users.
OWNED = {"prometheus": ("/prometheus", "65534:65534"), "alertmanager": ("/alertmanager", "65534:65534"),
         "grafana": ("/var/lib/grafana", "472:0")}  # fmt: skip
_GRAFANA = """
import http.server, os, pathlib
places = ["/etc/grafana/provisioning", "/var/lib/grafana/dashboards", os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]]
files = [f for p in map(pathlib.Path, places) for f in ([p] if p.is_file() else p.rglob("*.*")) if f.is_file()]
assert len([f for f in files if f.read_bytes()]) >= 9, files
pathlib.Path("/var/lib/grafana/grafana.db").write_text("")
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
http.server.HTTPServer(("0.0.0.0", 3000), Health).serve_forever()
"""
_START = f"""
set -e
root=$1
# To be the root of the whole namespace: `docker exec` would land in this computer's otherwise.
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
umount "$root/sys/fs/cgroup/unified" 2>/dev/null || true
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
ip link set lo up
ip address add {SEISMOMETER}/32 dev lo
ip address add {BROKER}/32 dev lo
cd "$root"
pivot_root . mnt
umount -l /mnt
exec dockerd --storage-driver overlay2
"""
Note = Callable[[str], None]


class Engine:
    """A Docker in a root and a network of its own; ends with the `with`.

    Args:
        root: A Debian with Docker.
        log: Where dockerd writes.
    """

    def __init__(self, root: Path, log: Path) -> None:
        self.root, self._log = root, log
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = ""

    def __enter__(self) -> "Engine":
        spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=TERM", "--propagation", "private"]
        with self._log.open("w") as log:
            command = [*spaces, "sh", "-c", _START, "sh", str(self.root)]
            # Nothing of this computer's environment: a TMPDIR of ours is no folder there.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(ENVIRONMENT)
            )
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        self._leader = wait_for(lambda: children.read_text().split(), why="no namespace")[0]
        wait_for(lambda: self("docker", "info", check=False).returncode == 0, why=f"no Docker: {self._log}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self._leader), 15)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Groups of version 1 outlive those that made them.
        for folder in sorted(Path("/sys/fs/cgroup").glob("*/docker"), reverse=True):
            for each in [*sorted(folder.rglob("*/"), reverse=True), folder]:
                with contextlib.suppress(OSError):
                    each.rmdir()

    def inside(self, *command: str | Path) -> list[str]:
        """A command line that runs here, with this computer's files."""
        return ["nsenter", "--target", self._leader, "--net", *map(str, command)]

    def __call__(self, *command: str | Path, check: bool = True, cwd: str = "/") -> Result:
        """Run a command in the root; both outputs are kept."""
        inner = ["env", "-i", f"--chdir={cwd}", *(f"{key}={value}" for key, value in ENVIRONMENT.items())]
        outer = ["nsenter", "--target", self._leader, "--mount", "--net", "--pid"]
        result = subprocess.run(
            [*outer, *inner, *map(str, command)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            cwd="/",
        )
        assert not check or result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def shell(self, script: str, *, check: bool = True, cwd: str = SOURCE) -> Result:
        """Run what a person would type."""
        return self("bash", "-euo", "pipefail", "-c", script, check=check, cwd=cwd)


def make_root() -> Path:
    """A Debian with Docker and what goes by the names of other images; made once."""
    root = KEPT / f"engine-{RELEASE}"
    wanted = root / "packages"
    if wanted.exists() and wanted.read_text().split() == PACKAGES:
        return root
    shutil.rmtree(root, ignore_errors=True)
    unpack(RELEASE, root)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    install = (
        'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount -t devpts devpts "$1/dev/pts"; '
        'root=$1; shift; exec chroot "$root" sh -c "$*"'
    )
    apt = "apt-get update -qq && apt-get install -qq --yes --no-install-recommends " + " ".join(PACKAGES)
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", install, "sh", str(root)]
    run(*private, apt, env={**ENVIRONMENT})
    wanted.write_text(" ".join(PACKAGES))
    return root


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    try:
        require()
    except FieldError as error:
        pytest.exit(str(error), returncode=1)
    root = make_root()
    shutil.rmtree(root / SOURCE.lstrip("/"), ignore_errors=True)
    station.copy_checkout(root / SOURCE.lstrip("/"))
    station.recording(root / "root/day.mseed", {"UH1": "AM.R1234"})
    with tempfile.TemporaryDirectory(prefix="field-") as name, Engine(root, Path(name) / "dockerd.log") as engine:
        seismometer = [sys.executable, "-m", "monitor.cli", "serve", str(root / "root/day.mseed"), "--now", "--loop"]
        seismometer += ["--preload", "60", "--host", SEISMOMETER]
        process = subprocess.Popen(engine.inside(*seismometer), stdout=subprocess.DEVNULL, cwd=CHECKOUT)
        try:
            yield engine
        finally:
            engine.shell("docker compose --file deploy/compose.yaml down --volumes --timeout 5", check=False)
            engine.shell("docker rm --force --volumes monitor", check=False)
            engine("docker", "volume", "prune", "--all", "--force", check=False)
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def page(engine: Engine) -> list[str]:
    """The commands of docs/docker.md, one after the other; the builds are left to tests/field/image.py."""
    return [command for block in blocks("docker.md") for command in block if not BUILDS.match(command)]


def test_images(engine: Engine, note: Note) -> None:
    """The image that buildah made is loaded; the others get their names"""
    image = Image(NATIVE)
    if subprocess.run(
        ["buildah", *map(str, STORE), "inspect", image.name], capture_output=True, check=False
    ).returncode:
        image.build()
    archive = engine.root / "root/image.tar"
    archive.unlink(missing_ok=True)
    image.buildah("push", "--quiet", image.name, f"docker-archive:{archive}:seismic-monitor:latest")
    engine("docker", "load", "--quiet", "--input", "/root/image.tar")
    archive.unlink()
    base = "field/debian:latest"
    if engine("docker", "image", "inspect", base, check=False).returncode:
        left_out = ["./var/lib/docker", "./var/lib/apt", "./var/cache", "./root", "./proc", "./sys", "./dev", "./run"]
        left_out += ["./usr/bin/docker*", "./usr/bin/containerd*", "./usr/sbin/dockerd", "./usr/libexec/docker"]
        pack = ["tar", "--one-file-system", "-C", "/", *(f"--exclude={name}" for name in left_out), "-c", "."]
        engine.shell(f"{' '.join(pack)} | docker import - {base}", cwd="/")
    for service, command in STAND_INS.items():
        kind = "ENTRYPOINT" if service in TAKES_ARGUMENTS else "CMD"
        lines = [f"FROM {base}", f"{kind} {json.dumps(command)}"]
        if service in OWNED:
            folder, owner = OWNED[service]
            lines.insert(1, f"RUN mkdir -p {folder} && chown {owner} {folder}")
        if service == "grafana":
            lines.insert(1, "COPY grafana.py /grafana.py")
        context = engine.root / "root" / f"image-{service}"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text("\n".join([*lines, ""]))
        (context / "grafana.py").write_text(_GRAFANA)
        name = COMPOSE["services"][service]["image"]
        engine("docker", "build", "--quiet", "--network", "none", "--tag", name, f"/root/{context.name}")
    note(engine("docker", "--version").stdout.strip())


def healthy(engine: Engine) -> bool:
    """Every service runs and says that it is well; what has to end has ended with 0."""
    said = engine.shell("docker compose --file deploy/compose.yaml ps --all --format json").stdout
    rows = [json.loads(line) for line in said.splitlines()]
    wanted = set(COMPOSE["services"])
    well = {row["Service"] for row in rows if row["Health"] == "healthy"}
    over = {row["Service"] for row in rows if row["State"] == "exited" and row["ExitCode"] == 0}
    return well | over == wanted and over == {"mosquitto-volume"}


def test_start(engine: Engine, page: list[str], note: Note) -> None:
    """docker.md: setup.sh, then docker compose up; every service gets healthy"""
    setup, up, status, *_ = page
    engine.shell(f"rm -rf deploy/compose/local; echo MQTT_ADDRESS={BROKER} > deploy/.env")
    engine.shell(f"{setup} --name {BROKER}")
    begin = time.monotonic()
    engine.shell(up.replace("--build", "--no-build"))
    try:
        wait_for(lambda: healthy(engine), why="not healthy", seconds=240, every_s=2)
    except AssertionError:
        health = "docker inspect --format '{{.Name}} {{json .State.Health}}' $(docker ps --all --quiet)"
        told = engine.shell(f"{status} --all; {health}; docker compose --file deploy/compose.yaml logs --tail 5")
        pytest.fail(told.stdout)
    note(f"{len(COMPOSE['services']) - 1} services healthy after {time.monotonic() - begin:.0f} s")


def test_confined(engine: Engine, note: Note) -> None:
    """No service is root, keeps a capability or can write to its root"""
    names = engine.shell("docker compose --file deploy/compose.yaml ps --quiet").stdout.split()
    for facts in json.loads(engine("docker", "inspect", *names).stdout):
        config = facts["HostConfig"]
        assert config["ReadonlyRootfs"], facts["Name"]
        assert config["CapDrop"] == ["ALL"], facts["Name"]
        assert not config["CapAdd"], facts["Name"]
        assert config["SecurityOpt"] == ["no-new-privileges:true"], facts["Name"]
        status = engine("cat", f"/proc/{facts['State']['Pid']}/status").stdout
        assert re.search(r"^CapEff:\s+0+$", status, flags=re.M), facts["Name"]
        assert not re.search(r"^Uid:\s+0\s", status, flags=re.M), facts["Name"]
    listening = engine("ss", "-Hlnt").stdout
    outside = {line.split()[3] for line in listening.splitlines()} - {f"{SEISMOMETER}:18000"}
    assert {where.rpartition(":")[0] for where in outside} <= {"127.0.0.1", BROKER}, outside
    note(f"{len(names)} services; ports on 127.0.0.1 only, but for the broker's")


def test_looking_at_it(engine: Engine, page: list[str], note: Note) -> None:
    """docker.md: ps, logs, check --connect, as the page says"""
    _, _, status, logs, check, *_ = page
    assert "healthy" in engine.shell(status).stdout
    said = engine.shell(f"timeout 3 {logs}", check=False)
    assert said.returncode == 124
    assert "listening to" in said.stdout
    said = engine.shell(check, check=False)
    assert "login as monitor accepted" in said.stdout, said.stdout + said.stderr
    assert "AM.R1234: " in said.stdout
    assert "failed" not in said.stdout
    note("broker and seismometer answer")


def get(engine: Engine, url: str) -> Any:
    return json.loads(engine("curl", "-sf", f"http://localhost:{url}").stdout)


def test_wired_together(engine: Engine, page: list[str], note: Note) -> None:
    """Prometheus scrapes the monitor, a detection is heard with TLS and raises an alert at Alertmanager"""
    targets = get(engine, "9090/api/v1/targets")["data"]["activeTargets"]
    assert {(t["labels"]["job"], t["health"]) for t in targets} >= {("monitor", "up")}
    assert get(engine, "9090/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert engine("curl", "-sf", "http://localhost:9465/").stdout.startswith("<!")
    (hear,) = [command for command in page if command.startswith("mosquitto_sub")]
    engine.shell("cp deploy/compose/local/certs/ca.crt deploy/compose/local/listener-password /root")
    # Who listens ends by a closed pipe.
    heard = engine.shell(f"timeout 200 {hear} | grep --max-count 1 /detection", cwd="/root", check=False).stdout
    assert '"station":"AM.R1234"' in heard.replace(": ", ":")

    def told() -> list[str]:
        alerts = get(engine, "9093/api/v2/alerts")
        return [a["labels"]["alertname"] for a in alerts if a["labels"].get("station") == "AM.R1234"]

    alerts = wait_for(told, why="no alert arrives at Alertmanager", seconds=120, every_s=2)
    note(", ".join(sorted(set(alerts))))


def test_again_and_down(engine: Engine, page: list[str], note: Note) -> None:
    """docker.md: the same command after an upgrade restarts nothing that is the same; down keeps the volumes"""
    up = [command for command in page if " up " in command][-1]
    ids = "docker compose --file deploy/compose.yaml ps --quiet | sort"
    before = engine.shell(ids).stdout
    engine.shell(up.replace("--build", "--no-build"))
    assert engine.shell(ids).stdout == before
    engine.shell("docker compose --file deploy/compose.yaml down")
    kept = engine("docker", "volume", "ls", "--quiet").stdout.split()
    assert {f"seismic-monitor_{name}" for name in COMPOSE["volumes"]} <= set(kept)
    codes = engine.shell("docker ps --all --quiet").stdout
    assert codes == ""
    note(f"{len(kept)} volumes")


def test_only_the_monitor(engine: Engine, page: list[str], note: Note) -> None:
    """docker.md: docker run by itself gets healthy and ends in order; replay from a folder"""
    alone, replay = [command for command in page if command.startswith("docker run")]
    engine.shell(alone)
    ask = "docker inspect --format '{{.State.Health.Status}}' monitor"
    wait_for(lambda: engine.shell(ask).stdout == "healthy\n", why="not healthy", seconds=120, every_s=2)
    engine.shell("docker stop monitor")
    assert engine.shell("docker inspect --format '{{.State.ExitCode}}' monitor").stdout == "0\n"
    engine.shell("docker rm monitor")
    found = engine.shell(replay, cwd="/root").stdout
    assert "AM.R1234" in found
    note(f"{len(found.splitlines()) - 1} detections")
