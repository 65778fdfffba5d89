"""The service on a fresh Debian with a real systemd, from installation to removal: `make test-systemd`.

One story; each test goes on where the one before it ended. FIELD_SUITE names the release (bookworm unless set).
"""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.field import station
from tests.field.debian import CHECKOUT, FieldError, require, unpack
from tests.field.machine import Machine, wait_for
from tests.field.snapshot import Snapshot, differences, snapshot
from tests.systemd_security import MOST_EXPOSURE, exposure

SUITE = os.environ.get("FIELD_SUITE", "bookworm")
SOURCE = "/root/seismic-monitor"
INSTALL = f"{SOURCE}/deploy/install.sh"
ANSWERS = "--seedlink localhost --station BW.* --mqtt localhost".split()
SECRET = ["--mqtt-password-file", "/root/mqtt-password"]
# RestartSec, and what a start takes on a busy computer.
RESTART_S = 5 + 60
Note = Callable[[str], None]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for roots; not below pytest's own, whose cleaning would follow what is mounted there."""
    try:
        require()
    except FieldError as error:
        pytest.exit(str(error), returncode=1)
    with tempfile.TemporaryDirectory(prefix="field-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def root(folder: Path) -> Path:
    """The station's files: a fresh Debian, the checkout, wheels of three versions."""
    made = unpack(SUITE, folder / "root")
    wheels = station.wheelhouse()
    station.furnish(made, wheels)
    crash = {"monitor/commands/run.py": '\n\ndef run(config: str = "") -> None:\n    raise SystemExit(1)\n'}
    silent = {"monitor/sdnotify.py": "\n\nNotifier.ready = lambda self, status: True\n"}
    for version, add in (("0.1.1", {}), ("0.1.2", crash), ("0.1.3", silent)):
        station.other_version(made / "root/wheels", made / f"root/wheels-{version}", version, add=add)
    return made


@pytest.fixture(scope="module")
def before() -> list[Snapshot]:
    """What the files were before anything was installed; filled by the first test."""
    return []


class TestService:
    """`deploy/install.sh`, units, and what systemd does."""

    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls, root: Path) -> Iterator[Machine]:
        with Machine(root, name="field-station") as machine:
            yield machine

    def test_installed(self, machine: Machine, before: list[Snapshot], note: Note) -> None:
        """One command installs it on a fresh Debian, without a network or a compiler; all checks answer."""
        assert machine("sh", "-c", "command -v cc gcc", check=False).returncode != 0
        station.start_surroundings(machine)
        before.append(snapshot(machine.root))
        begin = time.monotonic()
        result = machine(INSTALL, "--wheels", "/root/wheels", *ANSWERS, "--mqtt-user", "station", *SECRET)
        note(f"{time.monotonic() - begin:.0f} s, Debian {machine.path('/etc/debian_version').read_text().strip()}")
        assert station.PASSWORD not in result.stdout + result.stderr
        assert "login as station accepted" in result.stdout
        assert "failed" not in result.stdout

    def test_ready(self, machine: Machine, note: Note) -> None:
        """The unit is enabled, active, and READY was said by the program itself"""
        assert machine.out("systemctl", "is-enabled", "monitor") == "enabled"
        assert machine.property("monitor", "ActiveState") == "active"
        assert re.search(r"\d stations?, \d", machine.property("monitor", "StatusText"))
        note(f"{resident_mb(machine, 'monitor'):.0f} MB resident")

    def test_again(self, machine: Machine, note: Note) -> None:
        """The same command again changes nothing and restarts nothing"""
        pid, files = machine.property("monitor", "MainPID"), snapshot(machine.root)
        said = machine.out(INSTALL, "--wheels", "/root/wheels", *ANSWERS, "--mqtt-user", "station", *SECRET)
        assert "runs already" in said
        assert machine.property("monitor", "MainPID") == pid
        changed = [line for line in differences(files, snapshot(machine.root)) if "var/lib/monitor" not in line]
        assert changed == []
        note("same process")

    def test_sandbox(self, machine: Machine, note: Note) -> None:
        """systemd-analyze security: exposure below 2.0"""
        told = exposure(machine.out("systemd-analyze", "security", "--no-pager", "monitor.service"))
        note(f"{told}")
        assert told < MOST_EXPOSURE

    def test_credentials(self, machine: Machine, note: Note) -> None:
        """Secrets reach the service; no other user can read them, nor are they in the journal or in the environment"""
        held = "/run/credentials/monitor.service/mqtt-password"
        assert machine.out("cat", held) == station.PASSWORD
        for path in (held, "/etc/credstore/monitor.mqtt-password"):
            assert machine("setpriv", "--reuid=65534", "--clear-groups", "cat", path, check=False).returncode == 1
        assert station.PASSWORD not in machine.journal("monitor")
        pid = machine.property("monitor", "MainPID")
        assert station.PASSWORD not in machine.out("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")
        assert station.PASSWORD not in machine.path("/etc/monitor/monitor.toml").read_text()
        mode = machine.out("stat", "-c", "%U %a", "/etc/credstore/monitor.mqtt-password")
        note(f"/etc/credstore: {mode}")
        assert mode == "root 600"

    def test_only_its_state_can_be_written(self, machine: Machine, note: Note) -> None:
        """In what the service sees, only state, run time folder and its own temporary folders can be written to"""
        pid = machine.property("monitor", "MainPID")
        user = ["setpriv", "--reuid=monitor", "--regid=monitor", "--clear-groups"]
        look = ["find", "/", "-path", "/proc", "-prune", "-o", "-type", "d", "-writable", "-print"]
        found = machine("nsenter", "-t", pid, "-m", *user, *look, check=False).stdout.split()
        outside = [
            f for f in found if not re.match(r"/(var/lib/monitor|run/monitor|tmp|var/tmp|dev/(shm|mqueue))(/|$)", f)
        ]
        note(" ".join(name for name in found if not name.startswith("/var/lib/monitor/")))
        assert "/var/lib/monitor" in found
        assert outside == []

    def test_second_instance(self, machine: Machine, note: Note) -> None:
        """monitor@north runs beside it with settings, state, secret, ports and page of its own"""
        own = "--instance north --mqtt-user north".split()
        machine(INSTALL, "--wheels", "/root/wheels", *ANSWERS, *own, *SECRET)
        settings = machine.path("/etc/monitor/north.toml")
        settings.write_text(settings.read_text().replace('#root = "monitor/v1"', 'root = "north/v1"'))
        machine("systemctl", "restart", "monitor@north")
        pids = {machine.property(unit, "MainPID") for unit in ("monitor", "monitor@north")}
        assert len(pids) == 2
        for state, port in (("monitor", 9464), ("monitor-north", 9466)):
            assert machine.path(f"/var/lib/{state}/outbox.sqlite").exists()
            machine("curl", "-sf", f"http://127.0.0.1:{port}/healthz")
        for port in (9465, 9467):
            assert machine.out("curl", "-sf", f"http://127.0.0.1:{port}/").startswith("<!")
        told = exposure(machine.out("systemd-analyze", "security", "--no-pager", "monitor@north.service"))
        assert told < MOST_EXPOSURE
        note(f"exposure {told}")

    def test_detections_arrive(self, machine: Machine, note: Note) -> None:
        """Earthquakes of the recording arrive at mosquitto, from four stations"""
        wait_for(lambda: len({d["station"] for d in station.heard(machine)}) == 4, why="no detections", seconds=200)
        first = station.heard(machine)[0]
        note(f"probability {first['probability']:.2f}, {first['latency_s']:.1f} s after P")
        assert first["schema"] == "monitor.detection/1"

    def test_pictures(self, machine: Machine, note: Note) -> None:
        """The pictures of an event are drawn within the sandbox, too"""
        events = machine.path("/var/lib/monitor/events")
        (first, *_) = wait_for(lambda: list(events.rglob("*.png")), why="no pictures", seconds=300)
        assert "no picture" not in machine.journal("monitor")
        note(first.name)

    def test_reload(self, machine: Machine, note: Note) -> None:
        """SIGHUP: settings are read again by the same process; wrong ones are refused and change nothing"""
        path = machine.path("/etc/monitor/monitor.toml")
        before = path.read_text()
        pid = machine.property("monitor", "MainPID")
        path.write_text(before.replace('#level = "info" ', 'level = "nonsense" '))
        machine("systemctl", "reload", "monitor")
        wait_for(lambda: "the settings are as they were before" in machine.journal("monitor"), why="not refused")
        assert metric(machine, "monitor_config_last_reload_successful") == 0
        path.write_text(before.replace('#level = "info" ', 'level = "debug" '))
        machine("systemctl", "reload", "monitor")
        wait_for(lambda: metric(machine, "monitor_config_last_reload_successful") == 1, why="not taken")
        path.write_text(before)
        machine("systemctl", "reload", "monitor")
        assert machine.property("monitor", "MainPID") == pid
        assert machine.property("monitor", "ActiveState") == "active"
        note("same process")

    def test_killed(self, machine: Machine, note: Note) -> None:
        """kill -9 while a detection is going on, three times: started again each time"""
        took = []
        for _ in range(3):
            count = len(station.heard(machine))
            wait_for(lambda: len(station.heard(machine)) > count, why="no detection", seconds=200)  # noqa: B023
            took.append(restarted(machine, lambda pid: machine("sh", "-c", f"kill -KILL {pid}"), within_s=RESTART_S))
        note(f"{', '.join(f'{seconds:.0f}' for seconds in took)} s")
        assert machine.property("monitor", "NRestarts") == "3"

    def test_watchdog(self, machine: Machine, note: Note) -> None:
        """kill -STOP: the watchdog ends it within its limit, with a trace, and it is started again"""
        seconds = restarted(machine, lambda pid: machine("sh", "-c", f"kill -STOP {pid}"), within_s=60 + 10 + RESTART_S)
        note(f"{seconds:.0f} s")
        journal = machine.journal("monitor")
        assert "Watchdog timeout" in journal
        assert "Fatal Python error: Aborted" in journal

    def test_same_ids(self, machine: Machine, note: Note) -> None:
        """What the disturbed one told has the same ids as what the undisturbed one told, none more, none less"""
        few = "the undisturbed one tells too little"
        wait_for(lambda: len(station.finals(machine, "north/v1")) >= 8, why=few, seconds=300)
        begin = min(d["onset"] for d in station.finals(machine, "north/v1").values())
        settled = station.finals(machine, "north/v1")
        wait_for(lambda: settled.keys() <= station.finals(machine).keys(), why="detections are missing", seconds=120)
        told = {d["id"] for d in station.finals(machine).values() if begin <= d["onset"]}
        late = station.finals(machine, "north/v1").keys()
        wait_for(lambda: told <= station.finals(machine, "north/v1").keys(), why=f"ids told only once: {told - late}")
        assert machine.property("monitor@north", "NRestarts") == "0"
        note(f"{len(told)} detections")

    def test_settings_that_are_wrong(self, machine: Machine, note: Note) -> None:
        """Exit code 2, wrong settings: not started again and again; started by hand when they are mended"""
        path = machine.path("/etc/monitor/north.toml")
        right = path.read_text()
        path.write_text(right + "nonsense = 1\n")
        machine("systemctl", "restart", "monitor@north", check=False)
        wait_for(lambda: machine.property("monitor@north", "ActiveState") == "failed", why="not failed")
        assert machine.property("monitor@north", "ExecMainStatus") == "2"
        path.write_text(right)
        machine("systemctl", "restart", "monitor@north")
        assert machine.property("monitor@north", "ActiveState") == "active"
        note("failed, then active")

    def test_upgrade(self, machine: Machine, note: Note) -> None:
        """An upgrade keeps settings, secrets and state, and restarts both instances with the new version"""
        path = machine.path("/etc/monitor/monitor.toml")
        path.write_text(path.read_text() + "# by hand\n")
        kept = [machine.path(f"/etc/{name}").read_bytes() for name in KEPT]
        ids = station.finals(machine).keys()
        pids = [machine.property(unit, "MainPID") for unit in ("monitor", "monitor@north")]
        said = machine.out(INSTALL, "--wheels", "/root/wheels-0.1.1")
        assert "done: version 0.1.1-" in said
        assert [machine.path(f"/etc/{name}").read_bytes() for name in KEPT] == kept
        assert "0.1.1" in machine.out("monitor", "--version")
        for unit, pid in zip(("monitor", "monitor@north"), pids, strict=True):
            assert machine.property(unit, "MainPID") != pid
            assert running_version(machine, unit) == "0.1.1"
        wait_for(lambda: station.finals(machine).keys() > ids, why="nothing is told after the upgrade", seconds=200)
        assert repeated(machine) == []
        note("0.1.0 -> 0.1.1")

    @pytest.mark.parametrize("broken", ["0.1.2: ends at once", "0.1.3: never READY"])
    def test_broken_upgrade(self, machine: Machine, note: Note, broken: str) -> None:
        """An upgrade to a version that does not come up fails, and the version before runs again"""
        version = broken.partition(":")[0]
        result = machine(INSTALL, "--wheels", f"/root/wheels-{version}", "--wait", "30", check=False)
        assert result.returncode == 1, result.stdout + result.stderr
        assert "version 0.1.1" in result.stderr
        for unit in ("monitor", "monitor@north"):
            assert machine.property(unit, "ActiveState") == "active"
            assert running_version(machine, unit) == "0.1.1"
        assert not list(machine.path("/opt/monitor/versions").glob(f"{version}-*"))
        note(f"exit code {result.returncode}, 0.1.1 runs")

    def test_rollback(self, machine: Machine, note: Note) -> None:
        """--rollback goes back to the version before the last upgrade, and again to the newer one"""
        for version in ("0.1.0", "0.1.1"):
            machine(INSTALL, "--rollback")
            assert {running_version(machine, unit) for unit in ("monitor", "monitor@north")} == {version}
        note("0.1.1 -> 0.1.0 -> 0.1.1")

    def test_nothing_elsewhere(self, machine: Machine, note: Note) -> None:
        """After all this, the service's user owns nothing outside /var/lib/monitor*"""
        found = machine("find", "/", "-xdev", "-user", "monitor", "-print", check=False).stdout.split()
        assert [name for name in found if not re.match(r"/var/lib/monitor(-north)?(/|$)", name)] == []
        note(f"{len(found)} files, all there")


class TestReadOnlyRoot:
    """The same station with a root file system that cannot be written to; /var is a file system of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls, root: Path, folder: Path) -> Iterator[Machine]:
        var = folder / "var"
        if not var.exists():
            (root / "var").rename(var)
            (root / "var").mkdir()
        with Machine(root, name="field-readonly", arguments=("--read-only", f"--bind={var}:/var")) as machine:
            yield machine
        (root / "var").rmdir()
        var.rename(root / "var")

    def test_works(self, machine: Machine, note: Note) -> None:
        """From a read-only root both services start at boot, detect, and keep their state in /var/lib"""
        assert machine("touch", "/etc/x", "/opt/x", "/usr/x", check=False).returncode == 1
        for unit, port in (("monitor", 9464), ("monitor@north", 9466)):
            wait_for(lambda: machine.property(unit, "ActiveState") == "active", why=f"{unit} is not up")  # noqa: B023
            machine("curl", "-sf", f"http://127.0.0.1:{port}/healthz")
        told = "monitor_detections_total"
        wait_for(lambda: metric(machine, told) > 0, why="no detections from a read-only root", seconds=200)
        note(f"{metric(machine, told):.0f} detections")


class TestRemoval:
    """Away with it, then the same as a package."""

    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls, root: Path) -> Iterator[Machine]:
        with Machine(root, name="field-removal") as machine:
            yield machine

    def test_uninstall(self, machine: Machine, note: Note) -> None:
        """--uninstall keeps settings, secrets and state, and a new installation takes them"""
        kept = [machine.path(f"/etc/{name}").read_bytes() for name in KEPT]
        machine(INSTALL, "--uninstall")
        assert machine.out("systemctl", "list-units", "--all", "--plain", "--no-legend", "monitor*") == ""
        assert not machine.path("/opt/monitor").exists()
        assert [machine.path(f"/etc/{name}").read_bytes() for name in KEPT] == kept
        assert machine.path("/var/lib/monitor/positions.json").exists()
        machine(INSTALL, "--wheels", "/root/wheels")
        assert running_version(machine, "monitor") == "0.1.0"
        note("and installed again")

    def test_purge(self, machine: Machine, before: list[Snapshot], note: Note) -> None:
        """--uninstall --purge leaves nothing: every file, user and group is as before the installation"""
        machine(INSTALL, "--uninstall", "--purge")
        note(f"{len(before[0])} files compared")
        assert differences(before[0], snapshot(machine.root)) == []

    def test_package(self, machine: Machine, root: Path, note: Note) -> None:
        """The Debian package is installed by apt; monitor-setup sets it up; all checks answer"""
        package = build_package(root)
        machine("apt-get", "install", "-q", "-y", "--no-install-recommends", f"/root/{package}")
        assert machine.property("monitor", "ActiveState") == "inactive"
        said = machine.out("monitor-setup", *ANSWERS, "--mqtt-user", "station", *SECRET)
        assert "login as station accepted" in said
        assert running_version(machine, "monitor") == "0.1.0"
        assert machine.property("monitor", "FragmentPath").endswith("/lib/systemd/system/monitor.service")
        note(f"{machine.path(f'/root/{package}').stat().st_size / 1e6:.0f} MB")

    def test_package_upgrade(self, machine: Machine, root: Path, note: Note) -> None:
        """A newer package takes the service over, with settings and state"""
        pid = machine.property("monitor", "MainPID")
        package = build_package(root, wheels=root / "root/wheels-0.1.1")
        machine("apt-get", "install", "-q", "-y", "--no-install-recommends", f"/root/{package}")
        assert running_version(machine, "monitor") == "0.1.1"
        assert machine.property("monitor", "MainPID") != pid
        note("0.1.0 -> 0.1.1")

    def test_package_removed(self, machine: Machine, note: Note) -> None:
        """apt remove stops and removes it; settings and state stay"""
        machine("apt-get", "remove", "-q", "-y", "seismic-monitor")
        assert machine("systemctl", "is-active", "monitor", check=False).stdout.strip() == "inactive"
        assert not machine.path("/opt/monitor").exists()
        assert machine.path("/etc/monitor/monitor.toml").exists()
        assert machine.path("/var/lib/monitor/positions.json").exists()
        note("inactive")

    def test_package_purged(self, machine: Machine, before: list[Snapshot], note: Note) -> None:
        """apt purge leaves nothing: every file, user and group is as before"""
        machine("apt-get", "purge", "-q", "-y", "seismic-monitor")
        assert differences(before[0], snapshot(machine.root)) == []
        note(f"{len(before[0])} files compared")


KEPT = ["monitor/monitor.toml", "monitor/north.toml", "credstore/monitor.mqtt-password"]


def build_package(root: Path, *, wheels: Path | None = None) -> str:
    """Build the package into the root's /root, and give its name."""
    wheels = wheels or station.wheelhouse()
    (wheel,) = wheels.glob("seismic_monitor-*.whl")
    environment = {**os.environ, "WHEELS": str(wheels), "OUT": str(root / "root")}
    subprocess.run([CHECKOUT / "deploy/deb/build.sh"], check=True, env=environment, capture_output=True)
    (package,) = (root / "root").glob(f"seismic-monitor_{wheel.name.split('-')[1]}_*.deb")
    return package.name


def resident_mb(machine: Machine, unit: str) -> float:
    """Memory of a service's main process."""
    status = machine.out("cat", f"/proc/{machine.property(unit, 'MainPID')}/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


def running_version(machine: Machine, unit: str) -> str:
    """The version whose environment the service's process runs from."""
    executable = machine.out("cat", f"/proc/{machine.property(unit, 'MainPID')}/cmdline").split("\0")[0]
    return Path(executable).parts[4].split("-")[0]


def metric(machine: Machine, name: str, port: int = 9464) -> float:
    """The sum of a metric's series."""
    lines = machine.out("curl", "-sf", f"http://127.0.0.1:{port}/metrics").splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{| )", line)]
    assert found, name
    return sum(found)


def restarted(machine: Machine, harm: Callable[[str], object], *, within_s: float) -> float:
    """Harm the service's process; after how many seconds another one is up."""
    pid = machine.property("monitor", "MainPID")
    begin = time.monotonic()
    harm(pid)

    def again() -> bool:
        return machine.property("monitor", "MainPID") not in {pid, "0"} and (
            machine.property("monitor", "ActiveState") == "active"
        )

    wait_for(again, why="it is not started again", seconds=within_s)
    return time.monotonic() - begin


def repeated(machine: Machine) -> list[str]:
    """Revisions that were told twice with different content."""
    seen: dict[tuple[str, int], str] = {}
    return [
        d["id"]
        for d in station.heard(machine)
        if seen.setdefault((d["id"], d["revision"]), json.dumps(d, sort_keys=True)) != json.dumps(d, sort_keys=True)
    ]
