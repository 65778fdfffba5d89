"""The broker settings in deploy/: two real brokers, one behind a bridge; who may do what."""

import queue
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.mosquitto import Mosquitto, make_certificates
from tests.programs import find_program
from tests.service import PATIENCE_S, wait_for

pytestmark = [pytest.mark.needs("mosquitto"), pytest.mark.needs("mosquitto_passwd"), pytest.mark.needs("openssl")]

FOLDER = Path(__file__).parent.parent / "deploy" / "mosquitto"
USERS = ("sta1", "sta2", "listener", "homeassistant", "admin")
DETECTION_1, DETECTION_2 = "monitor/v1/XX/STA1/detection", "monitor/v1/XX/STA2/detection"


class Shipped(Mosquitto):
    """A broker with one of the files in deploy/, in a folder of its own."""

    def __init__(self, folder: Path, file: str, **instead: str) -> None:
        text = (FOLDER / file).read_text()
        text = text.replace("/etc/mosquitto/", f"{folder}/").replace("/var/lib/mosquitto/", f"{folder}/")
        for old, new in instead.items():
            assert old in text
            text = text.replace(old, new)
        # `Mosquitto` says itself where it listens, and on which rights it runs.
        text, listeners = re.subn(r"^listener .*$|^per_listener_settings .*$", "", text, flags=re.M)
        assert listeners == 2
        super().__init__(folder, settings=text)


class Client:
    """One that is connected, and what it hears."""

    def __init__(
        self, port: int, user: str | None, *, ca: Path | None, client_id: str = "", keep: bool = False
    ) -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.codes: queue.Queue[ReasonCode] = queue.Queue()
        self._answers: queue.Queue[ReasonCode] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        if user is not None:
            self._client.username_pw_set(user, f"secret of {user}")
        if ca is not None:
            self._client.tls_set(ca_certs=str(ca))
        self._client.on_connect = lambda _c, _d, _f, code, _p: self._answers.put(code)
        self._client.on_subscribe = lambda _c, _d, _m, codes, _p: self._answers.put(codes[0])
        self._client.on_publish = lambda _c, _d, _m, code, _p: self.codes.put(code)
        self._client.on_message = lambda _c, _d, message: self.heard.put((message.topic, bytes(message.payload)))
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600 if keep else 0
        self._client.connect("localhost", port, clean_start=not keep, properties=properties)
        self._client.loop_start()
        self.accepted = self._answers.get(timeout=PATIENCE_S)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic: str) -> "Client":
        self._client.subscribe(topic, qos=1)
        self._answers.get(timeout=PATIENCE_S)
        return self

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> str:
        """Publish and wait; what the broker says of it."""
        self._client.publish(topic, payload, qos=1, retain=retain)
        return str(self.codes.get(timeout=PATIENCE_S))

    def hear(self) -> tuple[str, bytes]:
        return self.heard.get(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates, accounts and the access list."""
    folder = tmp_path_factory.mktemp("central")
    certificates = folder / "certs"
    certificates.mkdir(parents=True)
    make_certificates(certificates)
    for old, new in (("ca.pem", "ca.crt"), ("localhost.pem", "server.crt"), ("localhost.key", "server.key")):
        (certificates / old).rename(certificates / new)
    shutil.copy(FOLDER / "acl", folder / "acl")
    (folder / "acl").chmod(0o600)
    (folder / "passwords").touch(mode=0o600)
    program = find_program("mosquitto_passwd")
    assert program is not None
    for user in USERS:
        subprocess.run([program, "-b", str(folder / "passwords"), user, f"secret of {user}"], check=True, timeout=60)
    return folder


@pytest.fixture
def central(furnished: Path, tmp_path: Path) -> Iterator[Mosquitto]:
    with Shipped(Path(shutil.copytree(furnished, tmp_path / "central")), "mosquitto.conf") as broker:
        yield broker


@pytest.fixture
def ca(central: Mosquitto, tmp_path: Path) -> Path:
    return tmp_path / "central" / "certs" / "ca.crt"


def test_nobody_without_a_name_and_nothing_without_tls(central: Mosquitto, ca: Path) -> None:
    with Client(central.port, None, ca=ca) as nobody:
        assert str(nobody.accepted) == "Not authorized"
    with Client(central.port, "mallory", ca=ca) as stranger:
        assert str(stranger.accepted) == "Not authorized"
    distrustful = ssl.create_default_context(cafile=str(ca.with_name("stranger.pem")))
    with (
        socket.create_connection(("localhost", central.port)) as plain_socket,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        distrustful.wrap_socket(plain_socket, server_hostname="localhost")
    log = central.log
    plain = paho.Client(CallbackAPIVersion.VERSION2)
    ended = queue.Queue[None]()
    plain.on_disconnect = lambda *_: ended.put(None)
    plain.connect("localhost", central.port)
    plain.loop_start()
    ended.get(timeout=PATIENCE_S)
    plain.loop_stop()
    assert "wrong version number" in central.log[len(log) :]


def test_each_station_under_its_own_name_only(central: Mosquitto, ca: Path) -> None:
    with (
        Client(central.port, "listener", ca=ca) as listener,
        Client(central.port, "homeassistant", ca=ca) as home,
        Client(central.port, "sta1", ca=ca, client_id="monitor-sta1") as station,
    ):
        listener.subscribe("#")
        home.subscribe("homeassistant/#")
        allowed = [
            DETECTION_1,
            "monitor/v1/XX/STA1/quality",
            "monitor/v1/XX/STA1/pick",
            "monitor/v1/monitor-sta1/status",
        ]
        refused = [DETECTION_2, "monitor/v1/monitor-sta2/status", "homeassistant/status", "bridge/sta2/state", "$SYS/x"]
        for topic in refused:
            assert station.publish(topic, "lie") == "Not authorized", topic
        for topic in allowed:
            assert station.publish(topic, "truth") == "Success", topic
        assert [listener.hear() for _ in allowed] == [(topic, b"truth") for topic in allowed]
        announced = "homeassistant/device/monitor-sta1__XX__STA1/config"
        assert station.publish(announced, "{}") == "Success"
        assert home.hear() == (announced, b"{}")
        assert listener.publish(DETECTION_1, "lie") == "Not authorized"
        assert home.publish(DETECTION_1, "lie") == "Not authorized"
        # A station does not hear the others, nor itself.
        station.subscribe("monitor/v1/#").subscribe("homeassistant/status")
        assert station.publish(DETECTION_1, "more") == "Success"
        assert home.publish("homeassistant/status", "online") == "Success"
        assert station.hear() == ("homeassistant/status", b"online")
        assert listener.hear() == (DETECTION_1, b"more")
        assert listener.heard.empty()


def test_what_a_listener_missed_survives_a_restart_of_the_broker(central: Mosquitto, ca: Path) -> None:
    with Client(central.port, "listener", ca=ca, client_id="alarm", keep=True) as listener:
        listener.subscribe("monitor/v1/#")
    with Client(central.port, "sta1", ca=ca) as station:
        for number in range(3):
            assert station.publish(DETECTION_1, str(number)) == "Success"
    central.stop()
    central.start()
    with Client(central.port, "listener", ca=ca, client_id="alarm", keep=True) as listener:
        assert [listener.hear()[1] for _ in range(3)] == [b"0", b"1", b"2"]


def test_a_bridge_keeps_what_the_link_cannot_carry(central: Mosquitto, ca: Path, tmp_path: Path) -> None:
    folder = tmp_path / "station"
    (folder / "certs").mkdir(parents=True)
    shutil.copy(ca, folder / "certs" / "ca.crt")
    instead = {"broker.example.org:8883": f"localhost:{central.port}", "PASSWORD": "secret of sta2"}
    # Patience is for cellular links.
    instead["restart_timeout 5 300"] = "restart_timeout 1"
    with Shipped(folder, "bridge.conf", **instead) as local:
        with Client(central.port, "listener", ca=ca, client_id="alarm", keep=True) as listener:
            listener.subscribe("bridge/#")
            while listener.hear() != ("bridge/sta2/state", b"1"):
                pass
            listener.subscribe("monitor/v1/#")
            with Client(local.port, None, ca=None) as monitor:
                assert monitor.publish(DETECTION_2, "first") in {"Success", "No matching subscribers"}
                assert listener.hear() == (DETECTION_2, b"first")
                # Under another station's name nothing comes through, even from there.
                monitor.publish(DETECTION_1, "lie")
                wait_for(lambda: "Denied PUBLISH" in central.log, why="the lie did not reach the central broker")

        central.stop()  # the link is gone
        with Client(local.port, None, ca=None) as monitor:
            monitor.publish(DETECTION_2, "second")
            monitor.publish("monitor/v1/monitor-sta2/status", "offline", retain=True)
        local.stop()  # and so is, for a moment, the station's power
        local.start()
        central.start()
        with Client(central.port, "listener", ca=ca, client_id="alarm", keep=True) as listener:
            heard: set[tuple[str, bytes]] = set()
            wanted = {(DETECTION_2, b"second"), ("monitor/v1/monitor-sta2/status", b"offline")}
            while not wanted <= heard:
                heard.add(listener.hear())
            assert (DETECTION_1, b"lie") not in heard
            local.kill()
            while listener.hear() != ("bridge/sta2/state", b"0"):
                pass
