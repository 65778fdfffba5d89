"""deploy/compose.yaml, what it mounts, and setup.sh, which makes what is not shipped."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.config import read_settings
from tests.mosquitto import Mosquitto
from tests.programs import find_program

DEPLOY = Path(__file__).parent.parent / "deploy"
SECRETS = Path("/run/secrets")


@functools.cache
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


SERVICES = sorted(compose()["services"])
LASTING = [name for name in SERVICES if name != "mosquitto-volume"]


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def setup(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = DEPLOY / "compose" / "setup.sh"
    command = ["bash", str(script), "--folder", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What setup.sh makes."""
    folder = tmp_path_factory.mktemp("compose") / "local"
    done = setup(folder, "--seedlink", "192.0.2.1:18001", "--station", "AM.R1234", "--station", "XX.*.00.HH?")
    assert done.returncode == 0, done.stderr
    return folder


# -- compose.yaml ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_no_more_than_it_has_to(name: str) -> None:
    found = service(name)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+m", found["mem_limit"])
    assert found["pids_limit"] <= 128
    assert found["logging"]["options"].keys() == {"max-size", "max-file"}
    assert not {"privileged", "devices", "pid", "ipc", "env_file"} & found.keys()
    if name in LASTING:
        assert re.fullmatch(r"[1-9]\d*:\d+", found["user"])
        assert "cap_add" not in found
        assert found["restart"] == "unless-stopped"
    else:
        assert (found["network_mode"], found["cap_add"], found["restart"]) == ("none", ["CHOWN"], "no")


@pytest.mark.parametrize("name", LASTING)
def test_a_service_is_asked_how_it_is(name: str) -> None:
    found = service(name)["healthcheck"]
    assert found["test"][0] == "CMD"
    assert "curl" not in found["test"]
    assert {"interval", "timeout", "start_period"} <= found.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_of_one_version(name: str) -> None:
    image = service(name)["image"]
    assert image == "${MONITOR_IMAGE:-seismic-monitor}" or re.fullmatch(r"docker\.io/[a-z/-]+:v?\d+\.\d+\.\d+", image)


def test_ports_are_this_computers_only() -> None:
    ports = {port for name in SERVICES for port in service(name).get("ports", [])}
    assert ports == {
        "${MQTT_ADDRESS:-127.0.0.1}:8883:8883",
        "127.0.0.1:9464:9464",
        "127.0.0.1:9465:9465",
        "127.0.0.1:9090:9090",
        "127.0.0.1:9093:9093",
        "127.0.0.1:3000:3000",
    }


@pytest.mark.needs("openssl")
@pytest.mark.needs("mosquitto_passwd")
def test_what_is_mounted_is_there(local: Path) -> None:
    whole = compose()
    declared, used = set(whole["volumes"]), set()
    for name in SERVICES:
        for mount in service(name).get("volumes", []):
            source, target, *mode = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert mode == ["ro"], mount
                made = source.removeprefix("./compose/local/")
                path = DEPLOY / source if made == source else local / made
                assert path.exists(), mount
            else:
                used.add(source)
                assert not mode
    assert used == declared
    for secret, where in whole["secrets"].items():
        made = where["file"].removeprefix("./compose/local/")
        assert made != where["file"]
        assert (local / made).is_file(), secret


def test_secrets_are_used_and_none_is_a_setting() -> None:
    named = set()
    for name in SERVICES:
        named |= {
            secret if isinstance(secret, str) else secret["source"] for secret in service(name).get("secrets", [])
        }
        for variable, value in service(name).get("environment", {}).items():
            assert not re.search(r"PASSWORD|TOKEN|SECRET", variable) or value.startswith(str(SECRETS)), variable
    assert named == set(compose()["secrets"])


def test_services_find_each_other() -> None:
    listening = {"monitor": "9464", "alertmanager": "9093", "prometheus": "9090", "mosquitto": "8883"}
    texts = [*(DEPLOY / "compose").glob("*/*.yml"), DEPLOY / "compose.yaml"]
    for path in texts:
        text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.M)
        for host, port in re.findall(r"\b(monitor|alertmanager|prometheus|mosquitto):(\d{4,5})\b", text):
            assert listening[host] == port, path
    targets = {path.name for path in (DEPLOY / "compose" / "targets").iterdir()}
    assert targets == {path.name for path in (DEPLOY / "prometheus" / "targets").iterdir()}
    assert service("monitor")["user"] in (DEPLOY.parent / "Dockerfile.arm64").read_text()


# -- setup.sh ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
@pytest.mark.needs("mosquitto_passwd")
def test_setup_makes_settings_that_the_monitor_takes(local: Path) -> None:
    settings = read_settings(local / "monitor.toml", environment={})
    (server,) = settings.seedlink
    assert (server.host, server.port, server.stations) == ("192.0.2.1", 18001, ["AM.R1234", "XX.*.00.HH?"])
    assert settings.mqtt.host == "mosquitto"
    assert settings.mqtt.tls
    mounted = {secret: SECRETS / secret for secret in service("monitor")["secrets"]}
    assert settings.mqtt.password_file == str(mounted["mqtt-password"])


@pytest.mark.needs("openssl")
@pytest.mark.needs("mosquitto_passwd")
def test_the_certificates_are_good_for_the_strictest(local: Path) -> None:
    """Python 3.13 and later ask for all of RFC 5280."""
    program = find_program("openssl")
    assert program is not None
    certs = local / "certs"
    command = [program, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(certs / "ca.crt")]
    done = subprocess.run([*command, certs / "server.crt"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("openssl")
@pytest.mark.needs("mosquitto_passwd")
def test_setup_keeps_what_is_there_and_keeps_it_to_itself(local: Path) -> None:
    files = sorted(path for path in local.rglob("*") if path.is_file())
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert local.stat().st_mode & 0o777 == 0o700
    done = setup(local)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before
    assert sorted(path for path in local.rglob("*") if path.is_file()) == files
    if os.geteuid() == 0:
        owners = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in files}
        assert owners["mqtt-password"] == (10001, 0o400)
        assert owners["passwords"] == owners["server.key"] == (1883, 0o400)
        assert owners["ca.key"] == (0, 0o400)
    hashed = (local / "passwords").read_text().splitlines()
    assert {line.partition(":")[0] for line in hashed} == {"monitor", "listener", "homeassistant", "health"}
    assert all(":$7$" in line for line in hashed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what to listen to?"),
        (["--seedlink", "a", "--station", 'XX.A"]\nevil = ["'], "a character that no name has"),
        (["--seedlink", "a:b", "--station", "XX.A"], "accepted: HOST or HOST:PORT"),
        (["--what", "a"], "unknown"),
        (["--name"], "needs a value"),
    ],
)
@pytest.mark.needs("openssl")
def test_setup_refuses_what_it_cannot_take(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = setup(tmp_path / "local", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.rglob("*.toml"))


@pytest.mark.needs("shellcheck")
def test_setup_is_clean() -> None:
    program = find_program("shellcheck")
    assert program is not None
    subprocess.run([program, str(DEPLOY / "compose" / "setup.sh")], check=True, timeout=120)


@pytest.mark.needs("mosquitto")
@pytest.mark.needs("mosquitto_sub")
@pytest.mark.needs("mosquitto_passwd")
@pytest.mark.needs("openssl")
def test_the_broker_starts_with_it_and_is_well(local: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    shutil.copytree(local / "certs", folder / "certs")
    shutil.copy(DEPLOY / "compose" / "acl", folder / "acl")
    shutil.copy(local / "passwords", folder / "passwords")
    shutil.copy(local / "mosquitto-health", folder / "mosquitto_sub")
    text = (DEPLOY / "mosquitto" / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/", f"{folder}/").replace("/var/lib/mosquitto/", f"{folder}/")
    text = re.sub(r"^listener .*$|^per_listener_settings .*$", "", text, flags=re.M)
    program = find_program("mosquitto_sub")
    assert program is not None
    with Mosquitto(folder, settings=f"sys_interval 1\n{text}") as broker:
        _, _, *arguments = service("mosquitto")["healthcheck"]["test"]
        instead = {"8883": str(broker.port), "/etc/mosquitto/certs/ca.crt": str(folder / "certs" / "ca.crt")}
        command = [program, *(instead.get(word, word).replace("$$", "$") for word in arguments)]
        for home, code in ((folder, 0), (tmp_path, 5)):
            done = subprocess.run(
                command, env={"XDG_CONFIG_HOME": str(home)}, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == code, done.stderr + broker.log
