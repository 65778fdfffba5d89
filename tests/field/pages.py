"""The pages in docs/, followed by a newcomer: each of their commands as it stands.

Only what is around them is prepared: a broker, a seismometer called rs.local, a package index without a network. What
is not for a station, `tests/test_docs.py` says who runs it.
"""

import os
import re
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.field import station
from tests.field.debian import CHECKOUT, FieldError, require, unpack
from tests.field.machine import Machine, Result, wait_for
from tests.systemd_security import exposure
from tests.test_docs import is_shell

SUITE = os.environ.get("FIELD_SUITE", "bookworm")
SOURCE = "/root/seismic-monitor"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
Note = Callable[[str], None]

# Plain text for this computer, encrypted and with a password for others.
_MOSQUITTO = """
per_listener_settings true
listener 1883 127.0.0.1
allow_anonymous true
listener 8883
allow_anonymous false
password_file /etc/mosquitto/passwords
cafile /etc/mosquitto/ca.crt
certfile /etc/mosquitto/server.crt
keyfile /etc/mosquitto/server.key
"""


def blocks(page: str) -> list[list[str]]:
    """The commands of each indented block of a page, comments and line continuations taken away."""
    found, current = [], ""
    for line in [*(CHECKOUT / "docs" / page).read_text().splitlines(), ""]:
        if line.startswith("    "):
            current += line + "\n"
        elif current and not line.startswith(" "):
            text = textwrap.dedent(current)
            if is_shell(text):
                joined = re.sub(r"\\\n\s*", "", text)
                found.append([re.sub(r"\s+#.*$", "", command) for command in joined.splitlines() if command])
            current = ""
    return found


class Newcomer:
    """Types what the page says; knows which of it has been typed."""

    def __init__(self, machine: Machine, page: str) -> None:
        self._machine = machine
        self.left = blocks(page)

    def __call__(
        self, beginning: str, *, check: bool = True, stdin: str | None = None, path: str | None = None
    ) -> Result:
        """Type a block that was not typed yet; the result of its last command.

        Args:
            beginning: Of the block's first command; the whole of it where another block begins with it.
            check: Fail where a command fails.
            stdin: Answers, typed on a terminal.
            path: A folder of programs that come first.
        """
        commands = self.take(beginning)
        first = f"PATH={path}:$PATH\n" if path else ""
        script = f"cd {SOURCE}\n{first}" + "\n".join(commands)
        shell = ["bash", "-euo", "pipefail", "-c", script]
        if stdin is not None:
            # On a terminal.
            shell = ["script", "--quiet", "--return", "--command", f"bash -euc '{script}'", "/dev/null"]
        return self._machine(*shell, check=check, stdin=stdin)

    def take(self, beginning: str) -> list[str]:
        """The commands of a block, which counts as typed from now on."""
        like = [commands for commands in self.left if commands[0].startswith(beginning)]
        assert like, f"the page has no such commands left: {beginning}"
        chosen = next((commands for commands in like if commands[0] == beginning), like[0])
        self.left.remove(chosen)
        return chosen


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A fresh Debian with a checkout, and what surrounds a station."""
    try:
        require()
    except FieldError as error:
        pytest.exit(str(error), returncode=1)
    with tempfile.TemporaryDirectory(prefix="field-", ignore_cleanup_errors=True) as name:
        made = unpack(SUITE, Path(name) / "root")
        wheels = station.wheelhouse()
        station.furnish(made, wheels, stations={"UH1": "AM.R1234", "UH3": "AM.R5678"})
        # In place of the package index that a network would give.
        shutil.copytree(station.build_wheels(), made / "srv/index")
        shutil.copytree(wheels, made / "srv/index", dirs_exist_ok=True)
        (made / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /srv/index\n")
        # Whoever is at the keyboard says yes; what is only recommended would come from the network.
        answers = 'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n'
        (made / "etc/apt/apt.conf.d/90newcomer").write_text(answers)
        with (made / "etc/hosts").open("a") as hosts:
            hosts.write("127.0.0.1 rs.local broker.example.org\n")
        (made / "etc/mosquitto/conf.d/station.conf").write_text(_MOSQUITTO)
        _certify(made / "etc/mosquitto", made / "usr/local/share/ca-certificates")
        yield made


@pytest.fixture(scope="module")
def machine(root: Path) -> Iterator[Machine]:
    with Machine(root, name="field-newcomer") as machine:
        machine("chown", "-R", "mosquitto:", "/etc/mosquitto")
        machine("update-ca-certificates")
        station.start_surroundings(machine)
        yield machine


@pytest.fixture(scope="module")
def page(machine: Machine) -> Newcomer:
    """The install page."""
    return Newcomer(machine, "install.md")


def test_first_installation(machine: Machine, page: Newcomer, note: Note) -> None:
    """install.md: the first command line leads to a service with data from the station"""
    page("sudo apt install python3")
    said = page("sudo deploy/install.sh --seedlink rs.local --station AM.R1234 --mqtt localhost").stdout
    note(said.splitlines()[-1])
    assert "failed" not in said
    streams_page(machine)


def streams_page(machine: Machine) -> None:
    """Data arrive, as /readyz says."""

    def ready() -> bool:
        return machine("curl", "-sf", "localhost:9464/readyz", check=False).returncode == 0

    wait_for(ready, why="not ready")


def test_questions(machine: Machine, page: Newcomer, note: Note) -> None:
    """install.md: without options, on a terminal, it asks; the answers become the settings"""
    machine(f"{SOURCE}/deploy/install.sh", "--uninstall", "--purge")
    answers = ["rs.local", "AM.R1234", "broker.example.org", "y", "station", station.PASSWORD]
    said = page("sudo deploy/install.sh", stdin="".join(f"{line}\n" for line in answers)).stdout
    assert "login as station accepted" in said
    assert machine.path("/etc/credstore/monitor.mqtt-password").read_text() == f"{station.PASSWORD}\n"
    note("answered on a terminal; TLS and password")
    streams_page(machine)


def test_looking_at_it(page: Newcomer, note: Note) -> None:
    """install.md: status, streams and readiness, as the page says"""
    said = page("systemctl status monitor").stdout
    note(said.replace("\n", " ")[:60])


def test_passwords(machine: Machine, page: Newcomer, note: Note) -> None:
    """install.md: a broker with TLS and a password from a file; the password changed later"""
    machine(f"{SOURCE}/deploy/install.sh", "--uninstall", "--purge")
    said = page("sudo deploy/install.sh --seedlink rs.local --station AM.R1234 --mqtt broker").stdout
    assert "broker.example.org:8883: connected" in said
    machine("mosquitto_passwd", "-b", "/etc/mosquitto/passwords", "station", "another")
    # Its unit reloads by a program that a small Debian has not.
    machine("sh", "-c", f"kill -HUP {machine.property('mosquitto', 'MainPID')}")
    machine.path("/root/mqtt-password").write_text("another\n")
    assert "login as station accepted" in page("sudo deploy/install.sh --mqtt-password-file").stdout
    note("both accepted")


def test_second_instance(machine: Machine, page: Newcomer, note: Note) -> None:
    """install.md: a second station as an instance of its own"""
    page("sudo deploy/install.sh --instance north")
    assert machine.property("monitor@north", "ActiveState") == "active"
    note(machine.property("monitor@north", "StatusText")[:60])


def test_without_a_network(machine: Machine, page: Newcomer, note: Note) -> None:
    """install.md: from wheels"""
    machine(f"{SOURCE}/deploy/install.sh", "--uninstall", "--purge")
    assert page.take("deploy/wheels.sh") == ["deploy/wheels.sh wheels"]
    machine("cp", "-r", "/root/wheels", f"{SOURCE}/wheels")
    machine("mv", "/etc/pip.conf", "/etc/pip.conf.away")
    page("sudo deploy/install.sh --wheels wheels")
    machine("mv", "/etc/pip.conf.away", "/etc/pip.conf")
    note("ok")


# What these pages have is typed one by one; `monitor` goes on working meanwhile.
@pytest.mark.parametrize("name", ["operate.md", "configure.md", "coral.md", "security.md"])
def test_page(machine: Machine, name: str, note: Note) -> None:
    """Each command of the page"""
    scratch = "/root/scratch"
    machine("mkdir", "-p", scratch)
    machine("cp", "/srv/recording.mseed", f"{scratch}/day.mseed")
    # The page's name for a file that only the reader has.
    machine("ln", "-sfn", f"{SOURCE}/deploy", f"{scratch}/deploy")
    machine("ln", "-sfn", f"{SOURCE}/systemd", f"{scratch}/systemd")
    count = 0
    for command in (command for block in blocks(name) for command in block if not is_for_developers(command)):
        # What would go on for ever goes on for two seconds.
        endless = command.startswith("journalctl") and command.endswith(" -f")
        result = machine("bash", "-c", f"cd {scratch}; {'timeout 2 ' if endless else ''}{command}", check=False)
        accepted = {124} if endless else {0}
        if "--connect" in command:
            accepted = {0, 1}  # the settings of the page name nothing that is here
        elif "--device edgetpu" in command:
            accepted = {1}  # there is no stick, and that is what it has to say
            assert "not on the Edge TPU" in result.stderr
        assert result.returncode in accepted, f"{command}: {result.stdout}{result.stderr}"
        count += 1
    if name == "coral.md":
        assert machine.property("monitor", "SupplementaryGroups") == "plugdev"
        told = exposure(machine.out("systemd-analyze", "security", "--no-pager", "monitor.service"))
        note(f"exposure with --coral {told}")
        machine("rm", "/etc/systemd/system/monitor.service.d/coral.conf")
        machine("systemctl", "daemon-reload")
    wait_for(lambda: machine.property("monitor", "ActiveState") == "active", why="it does not run any more")
    assert count
    note(f"{count} commands")


def is_for_developers(command: str) -> bool:
    """It needs a checkout with its environment."""
    return command.startswith("make ")


def test_upgrade(machine: Machine, root: Path, note: Note) -> None:
    """upgrade.md: git pull, install, and back by hand"""
    page = Newcomer(machine, "upgrade.md")
    # What a `git pull` would bring.
    project = root / SOURCE.lstrip("/") / "pyproject.toml"
    new = re.sub(r'(?m)^version = ".*"$', 'version = "0.1.1"', project.read_text())
    (root / "root/new.toml").write_text(new)
    git = machine.path("/usr/local/bin/git")
    git.write_text(f'#!/bin/sh\n[ "$*" = pull ] && cp /root/new.toml {SOURCE}/pyproject.toml\n')
    git.chmod(0o755)
    page("git pull")
    assert "0.1.1" in machine.out("monitor", "--version")
    page("sudo deploy/install.sh --rollback")
    assert "0.1.0" in machine.out("monitor", "--version")
    assert page.left == []
    git.unlink()
    note("0.1.0 -> 0.1.1 -> 0.1.0")


def test_package(machine: Machine, page: Newcomer, root: Path, note: Note) -> None:
    """install.md: the package, built by make's script here, installed there"""
    machine(f"{SOURCE}/deploy/install.sh", "--uninstall", "--purge")
    assert page.take("make deb") == ["make deb"]
    out = root / SOURCE.lstrip("/") / "dist"
    environment = {**os.environ, "WHEELS": str(root / "root/wheels"), "OUT": str(out)}
    subprocess.run([CHECKOUT / "deploy/deb/build.sh"], check=True, env=environment, capture_output=True)
    page.left = [[command.replace("_amd64.deb", f"_{ARCH}.deb") for command in commands] for commands in page.left]
    said = page("sudo apt install ./dist/seismic-monitor_0.1.0").stdout
    assert "failed" not in said
    streams_page(machine)
    note(said.splitlines()[-1])


def test_removal(machine: Machine, page: Newcomer, note: Note) -> None:
    """install.md: the removal, of both kinds"""
    page("sudo apt remove")
    machine(f"{SOURCE}/deploy/install.sh", "--seedlink", "rs.local", "--station", "AM.R1234")
    page("sudo deploy/install.sh --uninstall")
    nothing_left(machine)
    note("nothing left")


def test_to_the_end(page: Newcomer, note: Note) -> None:
    """install.md: each of its commands was typed"""
    assert page.left == []
    note("all of them")


def test_uninstall_page(machine: Machine, note: Note) -> None:
    """uninstall.md: service, package, an environment of one's own"""
    page = Newcomer(machine, "uninstall.md")
    answers = ("--seedlink", "rs.local", "--station", "AM.R1234")
    machine(f"{SOURCE}/deploy/install.sh", *answers)
    page("sudo deploy/install.sh --uninstall")
    assert machine.path("/etc/monitor/monitor.toml").exists()
    assert machine.path("/var/lib/monitor/positions.json").exists()
    machine(f"{SOURCE}/deploy/install.sh")
    page("sudo deploy/install.sh --uninstall --purge")
    nothing_left(machine)
    page("mosquitto_pub -h broker.example.org")
    (package,) = machine.path(f"{SOURCE}/dist").glob("*.deb")
    machine("apt-get", "install", "-q", "-y", "--no-install-recommends", f"{SOURCE}/dist/{package.name}")
    machine("monitor-setup", *answers)
    page("sudo apt remove")
    nothing_left(machine)
    machine("python3", "-m", "venv", "/root/own")
    machine("/root/own/bin/pip", "install", "--quiet", "seismic-monitor")
    page("pip uninstall", path="/root/own/bin")
    assert not machine.path("/root/own/bin/monitor").exists()
    assert page.left == []
    note("nothing left")


def nothing_left(machine: Machine) -> None:
    for name in ("/etc/monitor", "/var/lib/monitor", "/opt/monitor"):
        assert not machine.path(name).exists()


def _certify(folder: Path, trusted: Path) -> None:
    """An authority that the whole computer trusts, and a certificate for broker.example.org."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    authority = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=field test"]
    server = ["-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=broker.example.org"]
    named = ["-addext", "subjectAltName=DNS:broker.example.org", "-CA", "ca.crt", "-CAkey", "ca.key"]
    for more in ([*key, *authority], [*key, *server, *named]):
        subprocess.run(["openssl", "req", "-x509", *more], cwd=folder, check=True, capture_output=True)
    trusted.mkdir(parents=True, exist_ok=True)
    shutil.copy2(folder / "ca.crt", trusted / "field-test.crt")
