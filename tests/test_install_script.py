"""deploy/install.sh below a root of its own: settings, secrets, versions, rollback, removal. No user, no systemd."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from monitor.config import read_settings
from monitor.reference import reference

SCRIPT = Path(__file__).parent.parent / "deploy" / "install.sh"

# Stands in for the program: an install of the real one takes a minute and a network.
_PROGRAM = """
import sys
from pathlib import Path

def main():
    words = sys.argv[1:]
    if words == ["check", "--reference"]:
        print(Path(__file__).with_name("reference.toml").read_text(), end="")
    elif words[0] == "check":
        sys.exit(2 if "REFUSE THIS" in Path(words[1]).read_text() else 0)
    elif words != ["model", "verify"]:
        sys.exit("what?")
"""


def make_wheel(folder: Path, version: str, *, program: str = _PROGRAM) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    info = f"seismic_monitor-{version}.dist-info"
    files = {
        "standin/__init__.py": program,
        "standin/reference.toml": reference(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: seismic-monitor\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nmonitor = standin:main\n",
    }
    with zipfile.ZipFile(folder / f"seismic_monitor-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return folder


class Root:
    """A folder that stands for a computer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [str(SCRIPT), "--root", str(self.folder), "--python", sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def version(self) -> str:
        return self.path("opt/monitor/current").readlink().name

    def everything(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.folder)): path.read_text() if path.is_file() and "opt" not in path.parts else ""
            for path in self.folder.rglob("*")
        }


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheels"), "1.0.0")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


def fine(result: "subprocess.CompletedProcess[str]") -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize("script", sorted(SCRIPT.parent.rglob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_have_none_of_the_usual_mistakes(script: Path) -> None:
    found = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_life_from_installation_to_removal(root: Root, wheels: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    ca = tmp_path / "authority.pem"
    ca.write_text("a certificate\n")
    answers = (
        "--seedlink 192.0.2.20 --station AM.R1234 --station AM.R5678.00.EH? "
        "--seedlink [2001:db8::1]:18500 --seedlink-tls --station XX.* "
        "--mqtt broker.example.org:8884 --mqtt-tls --mqtt-user station --http-port 9500"
    ).split()
    said = fine(root.install("--wheels", wheels, *answers, "--mqtt-ca", ca, "--mqtt-password-file", password))
    assert "correct horse" not in said

    # The settings are the reference with the answers in it, and the program takes them.
    path = root.path("etc/monitor/monitor.toml")
    settings = read_settings(path, environment={})
    first, second = settings.seedlink
    assert (first.host, first.port, first.stations) == ("192.0.2.20", None, ["AM.R1234", "AM.R5678.00.EH?"])
    assert (second.host, second.port, second.tls, second.stations) == ("2001:db8::1", 18500, True, ["XX.*"])
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.tls) == ("broker.example.org", 8884, True)
    assert (settings.mqtt.user, settings.http.port) == ("station", 9500)
    assert settings.mqtt.password_file == str(path.parent / "mqtt-password")
    assert Path(settings.mqtt.ca_file or "").read_text() == "a certificate\n"
    assert "# How probabilities become detections." in path.read_text()

    # Only root reads the secret, and the service's name for it is in the unit.
    secret = root.path("etc/credstore/monitor.mqtt-password")
    assert secret.read_text() == "correct horse\n"
    assert (secret.stat().st_mode & 0o777, secret.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    unit = root.path("etc/systemd/system/monitor.service").read_text()
    assert f"LoadCredential=mqtt-password:{secret.name}\n" in unit
    assert root.version.startswith("1.0.0-")

    # The same again changes nothing, other answers neither.
    path.write_text(path.read_text() + "# by hand\n")
    before = root.everything()
    assert "installed already" in fine(root.install("--wheels", wheels, "--seedlink", "other"))
    assert root.everything() == before

    # Unless it does not run any more, as after an upgrade of Debian to another Python.
    (program,) = root.path("opt/monitor").rglob("standin/__init__.py")
    program.unlink()
    assert "once more" in fine(root.install("--wheels", wheels))
    assert program.exists()

    # An upgrade keeps settings and secrets, and the version before; a version that is older than that one goes.
    state = root.path("var/lib/monitor/positions.json")
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    old = root.version
    for version in ("1.1.0", "1.2.0"):
        fine(root.install("--wheels", make_wheel(tmp_path / version, version)))
    kept = {folder.name.split("-")[0] for folder in root.path("opt/monitor/versions").iterdir()}
    assert kept == {"1.1.0", "1.2.0"}
    assert root.version.startswith("1.2.0-")
    assert root.version != old
    assert "# by hand" in path.read_text()
    for version in ("1.1.0-", "1.2.0-", "1.1.0-"):
        fine(root.install("--rollback"))
        assert root.version.startswith(version)

    # One that refuses the settings is never switched to.
    path.write_text(path.read_text() + "# REFUSE THIS\n")
    refused = root.install("--wheels", make_wheel(tmp_path / "1.3.0", "1.3.0"))
    assert (refused.returncode, root.version.split("-")[0]) == (2, "1.1.0")
    assert "nothing was switched" in refused.stderr

    fine(root.install("--uninstall"))
    assert not root.path("opt/monitor").exists()
    assert not list(root.path("etc/systemd").rglob("*.service"))
    assert not root.path("usr/local/bin/monitor").is_symlink()
    assert path.exists()
    assert secret.exists()
    assert state.exists()
    fine(root.install("--uninstall", "--purge"))
    assert [p for p in root.folder.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("is_systemds", [False, True])
def test_the_folder_of_secrets_goes_unless_it_is_systemds_own(
    root: Root, wheels: Path, tmp_path: Path, is_systemds: bool
) -> None:
    """Debian 13's systemd has made it before anything was installed."""
    if is_systemds:
        tmpfiles = root.path("usr/lib/tmpfiles.d/credstore.conf")
        tmpfiles.parent.mkdir(parents=True)
        tmpfiles.write_text("d /etc/credstore 0700 root root\nd /etc/credstore.encrypted 0700 root root\n")
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    answers = "--seedlink a --mqtt b --mqtt-user c --mqtt-password-file".split()
    fine(root.install("--wheels", wheels, *answers, password))
    assert root.path("etc/credstore/monitor.mqtt-password").exists()
    fine(root.install("--uninstall", "--purge"))
    assert root.path("etc/credstore").exists() == is_systemds
    assert not list(root.path("etc").rglob("*password*"))


def test_one_of_several_has_settings_and_a_name_of_its_own(root: Root, wheels: Path, tmp_path: Path) -> None:
    fine(
        root.install("--wheels", wheels, "--instance", "north", "--seedlink", "localhost:18001", "--mqtt", "localhost")
    )
    settings = tomllib.loads(root.path("etc/monitor/north.toml").read_text())
    assert settings["seedlink"] == [{"host": "localhost", "port": 18001, "stations": ["*.*"]}]
    assert settings["mqtt"] == {"host": "localhost", "client_id": "monitor-north"}
    assert settings["http"] == settings["page"] == {}
    assert not root.path("etc/monitor/monitor.toml").exists()

    # An upgrade asks nothing, and does not make up a service without a name.
    fine(root.install("--wheels", make_wheel(tmp_path / "1.1.0", "1.1.0")))
    assert root.version.startswith("1.1.0-")
    assert not root.path("etc/monitor/monitor.toml").exists()

    # The ports of a second one are those that the first leaves free.
    answers = "--instance south --seedlink localhost --http-port 9466 --page-listen 0.0.0.0 --page-user me"
    fine(root.install("--wheels", tmp_path / "1.1.0", *answers.split()))
    settings = tomllib.loads(root.path("etc/monitor/south.toml").read_text())
    assert settings["http"] == {"port": 9466}
    assert settings["page"] == {"listen": "0.0.0.0", "port": 9467, "user": "me", "password_file": "page-password"}


def test_without_answers_the_reference_waits_for_the_operator(root: Root, wheels: Path) -> None:
    assert "systemctl enable --now monitor.service" in fine(root.install("--wheels", wheels))
    assert root.path("etc/monitor/monitor.toml").read_text() == reference()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "--nonsense: no such option"),
        (["--mqtt-password", "hunter2"], "--mqtt-password: no such option"),
        (["--seedlink"], "--seedlink needs a value"),
        (["--station", "XX.A"], "--station comes after the --seedlink"),
        (["--seedlink", "a", "--mqtt-tls"], "--mqtt-tls comes after --mqtt"),
        (["--instance", "../x"], "accepted: letters"),
        (["--wait", "0"], "accepted: 1 to 9999"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--mqtt-password-file", "/nowhere"], "cannot be read"),
        (["--python", "no-such-python"], "not found"),
        (["--wheels", "/"], "has no seismic_monitor"),
    ],
)
def test_wrong_usage_is_named_and_changes_nothing(root: Root, arguments: list[str], said: str) -> None:
    result = root.install(*arguments)
    assert (result.returncode, said in result.stderr) == (2, True), result.stderr
    assert not root.folder.exists()
