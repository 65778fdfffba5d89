"""The publisher against a real broker, and against one that answers what no real one can be made to answer."""

import asyncio
import contextlib
import errno
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from monitor.drain import MAX_TRIES, Drain
from monitor.messages import Status
from monitor.mqtt import LINK_REASONS, LinkError, classify
from monitor.outbox_message import Key, Lane, OutboxMessage
from monitor.outbox_thread import OutboxThread
from monitor.publisher import Publisher
from monitor.publisher_events import Connected, Disconnected, Published, PublisherEvent, Rejected
from monitor.records import ModelRef
from monitor.settings import MqttSettings, OutboxSettings
from monitor.topics import Topics
from tests.broker import CONNACK, broker, packet
from tests.detections import detection
from tests.mosquitto import Mosquitto, frozen, make_certificates

STATUS = Status(
    state="online",
    reason=None,
    client="monitor-test",
    version="1.2.3",
    model=ModelRef(name="m", version="1", sha256="ab"),
    stations=["XX.A"],
    since=None,
    started="2024-01-01T00:00:00.000000Z",
)
STATUS_TOPIC = "monitor/v1/monitor-test/status"
TOPIC = "monitor/v1/XX/A/detection"
QUICK: dict[str, Any] = {"host": "127.0.0.1", "backoff_s": 0.01, "backoff_max_s": 0.02, "will_delay_s": 0}

# For what has to happen, however busy the computer.
PATIENCE_S = 90.0

needs_mosquitto = pytest.mark.needs("mosquitto")


def message(
    number: int, *, key: Key | None = None, lane: Lane = "live", topic: str = TOPIC, **more: Any
) -> OutboxMessage:
    fields: dict[str, Any] = {"payload": b"%d" % number, "created_ns": time.time_ns(), "expiry_s": 3600}
    return OutboxMessage(topic=topic, key=key, lane=lane, **(fields | more))


class Station:
    """A publisher at work, and what it has said of itself."""

    def __init__(self, publisher: Publisher, outbox: OutboxThread, events: list[PublisherEvent]) -> None:
        self.publisher = publisher
        self.outbox = outbox
        self.events = events
        self.happened = asyncio.Condition()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self.happened:
            await self.happened.wait_for(is_so)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def station(path: Path, port: int, *, stop: bool = True, **settings: Any) -> AsyncIterator[Station]:
    lateness_s = settings.pop("lateness_s", 60.0)
    auth_retry_s = settings.pop("auth_retry_s", 0.01)
    outbox = OutboxThread(path / "outbox.sqlite", OutboxSettings(), clock=time.time_ns, on_notice=notices.append)
    await outbox.open()
    tasks: set[asyncio.Task[None]] = set()

    async def tell() -> None:
        async with made.happened:
            made.happened.notify_all()

    def on_event(event: PublisherEvent) -> None:
        made.events.append(event)
        task = asyncio.create_task(tell())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    publisher = Publisher(
        MqttSettings(**(QUICK | {"port": port} | settings)),
        topics=Topics("monitor/v1", "monitor-test"),
        outbox=outbox,
        status=STATUS,
        on_event=on_event,
        lateness_s=lateness_s,
        auth_retry_s=auth_retry_s,
    )
    made = Station(publisher, outbox, [])
    running = asyncio.create_task(publisher.run())
    try:
        yield made
        if stop:
            publisher.stop()
            await running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await outbox.close()


notices: list[str] = []


@pytest.fixture(autouse=True)
def no_notices() -> Iterator[None]:
    notices.clear()
    yield
    assert notices == []


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto") as started:
        yield started


@contextlib.asynccontextmanager
async def subscriber(port: int, topic: str = "#", **more: Any) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5, **more) as client:
        await client.subscribe(topic, qos=1)
        yield client


async def received(client: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in client.messages:
            found.append(message)
            if len(found) == count:
                break
    return found


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - another process, which has no event to wait for
            await asyncio.sleep(0.005)


def payload(received: aiomqtt.Message) -> Any:
    assert isinstance(received.payload, bytes)
    return json.loads(received.payload)


@needs_mosquitto
class TestWithMosquitto:
    def test_life(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        """Birth, detections with their properties, goodbye."""

        async def run() -> None:
            async with subscriber(mosquitto.port) as client, station(tmp_path, mosquitto.port) as at:
                (birth,) = await received(client, 1)
                assert birth.topic.value == STATUS_TOPIC
                assert payload(birth) == msgspec.to_builtins(STATUS) | {"since": payload(birth)["since"]}
                await at.publisher.put([message(1), message(2, expiry_s=None, retain=True)])
                first, second = await received(client, 2)
                assert [first.payload, second.payload] == [b"1", b"2"]
                assert [first.qos, first.retain, second.qos] == [1, False, 1]
                properties: Any = vars(first.properties)
                assert 3590 <= properties["MessageExpiryInterval"] <= 3600
                assert properties["ContentType"] == "application/json"
                assert not hasattr(second.properties, "MessageExpiryInterval")
                assert await at.publisher.flush(PATIENCE_S)
                assert at.outbox.stats.depth == 0
                at.publisher.stop()
                (goodbye,) = await received(client, 1)
                assert (payload(goodbye)["state"], payload(goodbye)["reason"]) == ("offline", "stopped")
            assert at.of(Connected) == [Connected("5", False)]
            assert [event.topic for event in at.of(Published)] == [TOPIC, TOPIC]
            async with subscriber(mosquitto.port, STATUS_TOPIC) as client:
                (retained,) = await received(client, 1)
                assert retained.retain
                assert payload(retained)["reason"] == "stopped"

        asyncio.run(run())

    def test_birth_is_retained(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            async with station(tmp_path, mosquitto.port) as at:
                await at.until(lambda: bool(at.of(Connected)))
                assert await at.publisher.flush(PATIENCE_S)
                async with subscriber(mosquitto.port, STATUS_TOPIC) as client:
                    (retained,) = await received(client, 1)
                    assert retained.retain
                    assert payload(retained)["state"] == "online"
                    at.publisher.set_status(msgspec.structs.replace(STATUS, stations=["XX.A", "XX.B"]))
                    (changed,) = await received(client, 1)
                    assert payload(changed)["stations"] == ["XX.A", "XX.B"]
                    assert payload(changed)["since"] == payload(retained)["since"]

        asyncio.run(run())

    @pytest.mark.parametrize("version", ["5", "3.1.1"])
    def test_will(self, mosquitto: Mosquitto, tmp_path: Path, version: str) -> None:
        """A publishing process is killed; a subscriber is told."""
        code = f"""
            import asyncio, sys, time
            from pathlib import Path
            from monitor.messages import Status
            from monitor.outbox_message import OutboxMessage
            from monitor.outbox_thread import OutboxThread
            from monitor.publisher import Publisher
            from monitor.settings import MqttSettings, OutboxSettings
            from monitor.topics import Topics

            async def run():
                outbox = OutboxThread(Path(sys.argv[1]), OutboxSettings(), clock=time.time_ns, on_notice=print)
                await outbox.open()
                publisher = Publisher(
                    MqttSettings(host="127.0.0.1", port={mosquitto.port}, version={version!r}, will_delay_s=0),
                    topics=Topics("monitor/v1", "monitor-test"),
                    outbox=outbox,
                    status=Status(state="online", reason=None, client="monitor-test", version="1", model=None,
                                  stations=[], since=None, started="2024-01-01T00:00:00Z"),
                    on_event=lambda event: None,
                    lateness_s=60,
                )
                await publisher.put([OutboxMessage(topic={TOPIC!r}, payload=b"1", created_ns=time.time_ns())])
                await publisher.run()

            asyncio.run(run())
        """

        async def run() -> None:
            async with subscriber(mosquitto.port) as client, contextlib.AsyncExitStack() as left:
                command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "outbox.sqlite")]
                process = await asyncio.create_subprocess_exec(*command)
                left.callback(process.kill)
                birth, first = sorted(await received(client, 2), key=lambda m: m.topic.value, reverse=True)
                assert payload(birth)["state"] == "online"
                assert first.payload == b"1"
                process.send_signal(signal.SIGKILL)
                (will,) = await received(client, 1)
                assert (will.topic.value, payload(will)["state"]) == (STATUS_TOPIC, "offline")
                assert (payload(will)["reason"], payload(will)["since"]) == ("lost", None)
                left.pop_all()
                await process.wait()
            async with subscriber(mosquitto.port, STATUS_TOPIC) as client:
                (retained,) = await received(client, 1)
                assert payload(retained)["reason"] == "lost"

        asyncio.run(run())

    def test_a_flapping_link_does_not_alarm(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            async with subscriber(mosquitto.port) as client:
                async with station(tmp_path, mosquitto.port, stop=False, will_delay_s=60) as at:
                    await at.publisher.put([message(1)])
                    await received(client, 2)
                async with station(tmp_path, mosquitto.port, will_delay_s=60) as at:
                    await at.publisher.put([message(2)])
                    again = await received(client, 2)
                assert at.of(Connected) == [Connected("5", True)]
                states = [payload(m)["state"] for m in again if m.topic.value == STATUS_TOPIC]
                assert states == ["online"]

        asyncio.run(run())

    def test_old_protocol(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            async with subscriber(mosquitto.port, TOPIC) as client:
                async with station(tmp_path, mosquitto.port, version="3.1.1") as at:
                    await at.publisher.put([message(n) for n in range(50)])
                    assert [m.payload for m in await received(client, 50)] == [b"%d" % n for n in range(50)]
                    assert await at.publisher.flush(PATIENCE_S)
                assert at.of(Connected) == [Connected("3.1.1", False)]

        asyncio.run(run())
        assert "as monitor-test (p2, c0" in mosquitto.log

    def test_live_overtakes_backfill(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            async with subscriber(mosquitto.port, TOPIC) as client, station(tmp_path, mosquitto.port) as at:
                await at.publisher.put([message(n, lane="backfill") for n in range(200)] + [message(999)])
                order = [int(payload(m)) for m in await received(client, 201)]
                assert order.index(999) <= 20
                assert [n for n in order if n != 999] == list(range(200))

        asyncio.run(run())

    def test_broker_is_killed_while_it_is_drained(self, tmp_path: Path) -> None:
        """Nothing is lost, each arrives at least once, and the first arrivals are in order."""
        count = 600
        # mosquitto forgets what it has not yet saved: what it acknowledges has to be on its way to the subscriber, who
        # therefore listens each time before it is killed again.
        unlimited = "allow_anonymous true\nqueue_qos0_messages true\nmax_queued_messages 0\n"
        broker = Mosquitto(tmp_path / "mosquitto", settings=unlimited, persistent=True)
        seen: list[int] = []
        listening = asyncio.Event()

        async def listen() -> None:
            """As a subscriber with a session of its own, which comes back."""
            session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            session.SessionExpiryInterval = 3600
            options: dict[str, Any] = {
                "identifier": "listener",
                "clean_start": False,
                "properties": session,
                "protocol": aiomqtt.ProtocolVersion.V5,
            }
            while len(set(seen)) < count:
                with contextlib.suppress(aiomqtt.MqttError):
                    async with aiomqtt.Client("127.0.0.1", broker.port, **options) as client:
                        await client.subscribe(TOPIC, qos=0)
                        listening.set()
                        async for m in client.messages:
                            seen.append(int(payload(m)))
                            if len(set(seen)) == count:
                                return
                listening.clear()
                await asyncio.sleep(0.01)

        async def run() -> None:
            listener = asyncio.create_task(listen())
            await listening.wait()
            async with station(tmp_path, broker.port) as at:
                for first in range(0, count, 150):
                    await listening.wait()
                    await at.publisher.put([message(n) for n in range(first, first + 150)])
                    if first + 150 == count:
                        break
                    await until(lambda some=first + 50: len(set(seen)) >= some)  # type: ignore[misc]
                    broker.kill()
                    await at.until(lambda: not at.publisher.is_connected)
                    await until(lambda: not listening.is_set())
                    broker.start()
                async with asyncio.timeout(PATIENCE_S):
                    await listener
                assert await at.publisher.flush(PATIENCE_S)
            assert len(at.of(Published)) == count
            assert {event.reason for event in at.of(Disconnected)} <= {"closed", "refused"}
            assert not at.of(Rejected)

        with broker:
            asyncio.run(run())
        firsts = list(dict.fromkeys(seen))
        assert firsts == list(range(count))

    def test_sends_what_waited_after_a_restart(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            mosquitto.kill()
            async with station(tmp_path, mosquitto.port) as at:
                await at.publisher.put([message(n) for n in range(5)])
                await at.until(lambda: len(at.of(Disconnected)) >= 3)
                assert {event.reason for event in at.of(Disconnected)} == {"refused"}
                assert [event.repeated for event in at.of(Disconnected)][:3] == [False, True, True]
                assert not await at.publisher.flush(0.01)
            mosquitto.start()
            async with subscriber(mosquitto.port, TOPIC) as client, station(tmp_path, mosquitto.port):
                assert [int(payload(m)) for m in await received(client, 5)] == list(range(5))

        asyncio.run(run())

    def test_what_is_late_is_marked_and_goes_after_what_is_live(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            old_ns = time.time_ns() - 120 * 10**9
            made = [msgspec.json.encode(detection(id=name, origin="live")) for name in ("old", "now")]
            mosquitto.kill()
            async with station(tmp_path, mosquitto.port) as at:
                await at.publisher.put(
                    [message(0, payload=made[0], created_ns=old_ns), message(0, payload=made[1]), message(7)]
                )
            mosquitto.start()
            async with subscriber(mosquitto.port, TOPIC) as client, station(tmp_path, mosquitto.port):
                now, seven, old = map(payload, await received(client, 3))
                assert (now["id"], now["origin"], seven) == ("now", "live", 7)
                assert old == json.loads(made[0]) | {"origin": "backfill"}

        asyncio.run(run())

    def test_login(self, tmp_path: Path) -> None:
        folder = tmp_path / "mosquitto"
        folder.mkdir()
        passwords = folder / "passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "monitor", "good"], check=True)
        secret = tmp_path / "password"
        secret.write_text("bad\n")
        settings: dict[str, Any] = {"user": "monitor", "password_file": str(secret)}

        async def run(port: int, version: str) -> None:
            secret.write_text("bad\n")
            async with station(tmp_path, port, version=version, **settings) as at:
                await at.until(lambda: len(at.of(Disconnected)) >= 2)
                assert {event.reason for event in at.of(Disconnected)} == {"auth"}
                assert [event.repeated for event in at.of(Disconnected)][:2] == [False, True]
                assert {event.retry_in_s for event in at.of(Disconnected)} == {0.01}
                secret.write_text("good\n")
                at.publisher.retry_now()
                await at.until(lambda: bool(at.of(Connected)))

        with Mosquitto(folder, settings=f"allow_anonymous false\npassword_file {passwords}\n") as broker:
            for version in ("auto", "3.1.1"):
                asyncio.run(run(broker.port, version))

    def test_missing_password_file(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            missing = str(tmp_path / "missing")
            async with station(tmp_path, mosquitto.port, user="monitor", password_file=missing) as at:
                await at.until(lambda: bool(at.of(Disconnected)))
                assert (at.of(Disconnected)[0].reason, "missing" in at.of(Disconnected)[0].detail) == ("auth", True)

        asyncio.run(run())

    @pytest.mark.needs("openssl")
    # Paho leaves the socket of a failed handshake to the garbage collector.
    @pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
    def test_tls(self, tmp_path: Path) -> None:
        make_certificates(tmp_path)
        files = {name: str(tmp_path / name) for name in ("ca.pem", "stranger.pem", "client.pem", "client.key")}
        own = {"cert_file": files["client.pem"], "key_file": files["client.key"]}

        async def attempt(port: int, **settings: Any) -> tuple[str, str]:
            options: dict[str, Any] = {"host": "localhost", "tls": True} | settings
            async with station(tmp_path, port, **options) as at:
                await at.until(lambda: bool(at.of(Connected) or at.of(Disconnected)))
                if at.of(Connected):
                    await at.publisher.put([message(1)])
                    assert await at.publisher.flush(PATIENCE_S)
                    return "connected", ""
                return at.of(Disconnected)[0].reason, at.of(Disconnected)[0].detail

        server = "allow_anonymous true\n" + "".join(
            f"{key} {tmp_path}/{name}\n"
            for key, name in (("cafile", "ca.pem"), ("certfile", "localhost.pem"), ("keyfile", "localhost.key"))
        )
        with Mosquitto(tmp_path / "mosquitto", settings=server + "require_certificate true\n") as broker:
            reason, _ = asyncio.run(attempt(broker.port, ca_file=files["ca.pem"], **own))
            assert reason == "connected"
            reason, detail = asyncio.run(attempt(broker.port, ca_file=files["stranger.pem"], **own))
            assert (reason, "self-signed" in detail or "verify" in detail) == ("tls", True)
            # Not the name in the certificate.
            reason, detail = asyncio.run(attempt(broker.port, ca_file=files["ca.pem"], host="127.0.0.1", **own))
            assert (reason, "127.0.0.1" in detail) == ("tls", True)
            reason, detail = asyncio.run(attempt(broker.port, ca_file=files["ca.pem"]))
            assert (reason, "CERTIFICATE_REQUIRED" in detail) == ("auth", True)
            reason, detail = asyncio.run(attempt(broker.port, ca_file=str(tmp_path / "none.pem")))
            assert (reason, "none.pem" in detail) == ("tls", True)
            reason, detail = asyncio.run(attempt(broker.port, ca_file=files["client.key"]))
            assert (reason, "PEM" in detail) == ("tls", True)
            # A broker that wants TLS and gets none.
            reason, _ = asyncio.run(attempt(broker.port, tls=False))
            assert reason == "closed"

    def test_not_authorized_for_one_topic(self, tmp_path: Path) -> None:
        """One topic is refused: the others go on, and it comes through when the rights are put right."""
        folder = tmp_path / "mosquitto"
        folder.mkdir()
        rights = folder / "rights"
        rights.write_text(f"topic readwrite {TOPIC}\ntopic readwrite {STATUS_TOPIC}\n")

        async def run(broker: Mosquitto) -> None:
            async with subscriber(broker.port, TOPIC) as client, station(tmp_path, broker.port) as at:
                await at.publisher.put([message(1, topic="monitor/v1/XX/A/pick"), message(2), message(3)])
                assert [int(payload(m)) for m in await received(client, 2)] == [2, 3]
                await at.until(lambda: bool(at.of(Rejected)))
                assert at.of(Rejected) == [Rejected("monitor/v1/XX/A/pick", "not_authorized", set_aside=True)]
                assert await at.publisher.flush(PATIENCE_S)
                assert (at.outbox.stats.depth, at.outbox.stats.held) == (0, 1)
            rights.write_text("topic readwrite #\n")
            broker.reload()
            async with subscriber(broker.port, "monitor/v1/XX/A/pick") as client, station(tmp_path, broker.port):
                (late,) = await received(client, 1)
                assert payload(late) == 1

        with Mosquitto(folder, settings=f"allow_anonymous true\nacl_file {rights}\n") as broker:
            asyncio.run(run(broker))

    def test_too_large(self, tmp_path: Path) -> None:
        """The broker says beforehand what it does not take."""

        async def run(broker: Mosquitto) -> None:
            async with subscriber(broker.port, TOPIC) as client, station(tmp_path, broker.port) as at:
                await at.publisher.put([message(1, payload=bytes(3000)), message(2)])
                assert [int(payload(m)) for m in await received(client, 1)] == [2]
                await at.until(lambda: bool(at.of(Rejected)))
                assert at.of(Rejected) == [Rejected(TOPIC, "too_large", set_aside=True)]
                assert not at.of(Disconnected)

        with Mosquitto(tmp_path / "mosquitto", settings="allow_anonymous true\nmax_packet_size 1000\n") as broker:
            asyncio.run(run(broker))

    @pytest.mark.parametrize(
        ("version", "limit"),
        [
            ("3.1.1", "max_packet_size"),
            # mosquitto 2.0 answers with a code that MQTT 5 does not know there, and Paho gives up the connection.
            ("5", "message_size_limit"),
        ],
    )
    def test_too_large_without_a_word(self, tmp_path: Path, version: str, limit: str) -> None:
        """The connection ends on one message again and again; the others come through all the same."""

        async def run(broker: Mosquitto) -> None:
            async with (
                subscriber(broker.port, TOPIC) as client,
                station(tmp_path, broker.port, version=version) as at,
            ):
                await at.publisher.put([message(1), message(2, payload=bytes(3000)), message(3), message(4)])
                await at.until(lambda: bool(at.of(Rejected)))
                assert at.of(Rejected) == [Rejected(TOPIC, "closes_connection", set_aside=True)]
                numbers = [int(payload(m)) for m in await received(client, 3)]
                while 4 not in numbers:
                    numbers += [int(payload(m)) for m in await received(client, 1)]
                assert list(dict.fromkeys(numbers)) == [1, 3, 4]
                assert at.outbox.stats.held == 1

        with Mosquitto(tmp_path / "mosquitto", settings=f"allow_anonymous true\n{limit} 1000\n") as broker:
            asyncio.run(run(broker))

    def test_latest_wins(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            mosquitto.kill()
            quality = "monitor/v1/XX/A/quality"
            async with station(tmp_path, mosquitto.port) as at:
                await at.until(lambda: bool(at.of(Disconnected)))
                for number in range(5):
                    at.publisher.put_latest(message(number, topic=quality, retain=True, qos=0))
                at.publisher.put_latest(message(9, topic="monitor/v1/XX/B/quality", retain=True))
                mosquitto.start()
                async with subscriber(mosquitto.port, "monitor/v1/XX/+/quality") as client:
                    assert {int(payload(m)) for m in await received(client, 2)} == {4, 9}
                    at.publisher.put_latest(message(5, topic=quality, qos=0))
                    assert [int(payload(m)) for m in await received(client, 1)] == [5]

        asyncio.run(run())

    def test_announced_again_to_a_broker_without_memory_and_to_home_assistant(
        self, mosquitto: Mosquitto, tmp_path: Path
    ) -> None:
        async def run() -> None:
            async with station(tmp_path, mosquitto.port, home_assistant=True) as at:
                at.publisher.announce("homeassistant/device/a/config", b"{}")
                at.publisher.announce("homeassistant/device/b/config", b"{}")
                assert await at.publisher.flush(PATIENCE_S)
                at.publisher.announce("homeassistant/device/b/config", b"")
                assert await at.publisher.flush(PATIENCE_S)
                mosquitto.kill()
                await at.until(lambda: not at.publisher.is_connected)
                mosquitto.start()
                async with subscriber(mosquitto.port, "homeassistant/device/+/config") as client:
                    (again,) = await received(client, 1)
                    assert again.topic.value == "homeassistant/device/a/config"
                    assert await at.publisher.flush(PATIENCE_S)
                    await until(lambda: "homeassistant/status" in mosquitto.log)
                    await client.publish("homeassistant/status", "offline")
                    await client.publish("homeassistant/status", "online")
                    (third,) = await received(client, 1)
                    assert third.topic.value == "homeassistant/device/a/config"

        asyncio.run(run())

    def test_hanging_broker(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        async def run() -> None:
            with frozen(mosquitto):
                async with station(tmp_path, mosquitto.port, connect_timeout_s=0.2) as at:
                    await at.until(lambda: bool(at.of(Disconnected)))
                    assert at.of(Disconnected)[0].reason == "timeout"

        asyncio.run(run())


class TestWithScriptedBroker:
    @pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"", b"\x20\x02\x00\x01\x99", None])
    def test_falls_back_to_the_old_protocol(self, tmp_path: Path, answer: bytes | None) -> None:
        """A broker without MQTT 5 says so, or closes the connection without a word, or waits for more."""

        async def run() -> None:
            async with (
                broker(connacks=deque([answer])) as old,
                station(tmp_path, old.port, connect_timeout_s=2.0 if answer is None else PATIENCE_S) as at,
            ):
                await at.publisher.put([message(1)])
                assert await at.publisher.flush(PATIENCE_S)
                assert old.versions == [5, 4]
                assert at.of(Connected) == [Connected("3.1.1", False)]
                assert not at.of(Disconnected)

        asyncio.run(run())

    def test_does_not_fall_back_when_told_not_to(self, tmp_path: Path) -> None:
        async def run() -> None:
            refusal = packet(CONNACK, b"\0\x84\0")
            async with broker(connacks=deque([refusal] * 2)) as old, station(tmp_path, old.port, version="5") as at:
                await at.until(lambda: len(at.of(Disconnected)) >= 2)
                assert at.of(Disconnected)[0].reason == "protocol"
                assert set(old.versions) == {5}

        asyncio.run(run())

    def test_no_mqtt_at_all(self, tmp_path: Path) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async def run() -> None:
            web = await asyncio.start_server(answer, "127.0.0.1", 0)
            async with web, station(tmp_path, web.sockets[0].getsockname()[1]) as at:
                await at.until(lambda: bool(at.of(Disconnected)))
                assert at.of(Disconnected)[0].reason in {"protocol", "closed"}

        asyncio.run(run())

    def test_what_was_not_acknowledged_is_sent_again(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with broker(pubacks=deque([0, None])) as forgetful, station(tmp_path, forgetful.port) as at:
                await at.publisher.put([message(n) for n in range(5)])
                assert await at.publisher.flush(PATIENCE_S)
                told = [int(m) for topic, m in forgetful.published if topic == TOPIC]
                assert list(dict.fromkeys(told)) == list(range(5))
                assert (told.count(0), told.count(1)) == (1, 2)

        asyncio.run(run())

    def test_what_was_not_acknowledged_is_sent_again_after_a_crash(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with broker(pubacks=deque([0, -1])) as forgetful:
                async with station(tmp_path, forgetful.port, stop=False) as at:
                    await at.publisher.put([message(n) for n in range(2)])
                    await until(lambda: len(forgetful.published) == 3)
                    await at.until(lambda: len(at.of(Published)) == 1)
                async with station(tmp_path, forgetful.port) as at:
                    assert await at.publisher.flush(PATIENCE_S)
                told = [int(m) for topic, m in forgetful.published if topic == TOPIC]
                assert told[:2] == [0, 1]
                assert told[-1] == 1

        asyncio.run(run())

    def test_quota_is_waited_for(self, tmp_path: Path) -> None:
        async def run() -> None:
            pubacks = deque([0x97] * 12)
            async with broker(pubacks=pubacks) as full, station(tmp_path, full.port) as at:
                await at.publisher.put([message(n, key=Key("a", n)) for n in range(3)])
                assert await at.publisher.flush(PATIENCE_S)
                assert set(at.of(Rejected)) == {Rejected(TOPIC, "quota", set_aside=False)}
                assert len(at.of(Rejected)) == 12
                assert len(at.of(Published)) == 3
                # Never a later revision before an earlier one has been taken.
                told = [m for topic, m in full.published if topic == TOPIC]
                assert told == sorted(told)
                assert len(told) == 15

        asyncio.run(run())

    def test_unspecified_error_is_not_tried_for_ever(self, tmp_path: Path) -> None:
        async def run() -> None:
            pubacks = deque([0x80] * MAX_TRIES)
            async with broker(pubacks=pubacks) as odd, station(tmp_path, odd.port) as at:
                await at.publisher.put([message(1, key=Key("a", 0)), message(2, key=Key("a", 1))])
                assert await at.publisher.flush(PATIENCE_S)
                assert at.of(Rejected)[-1] == Rejected(TOPIC, "unspecified", set_aside=True)
                assert [m for topic, m in odd.published if topic == TOPIC] == [b"1"] * 5 + [b"2"]
                assert at.outbox.stats.held == 1

        asyncio.run(run())

    def test_message_that_makes_the_broker_hang_up(self, tmp_path: Path) -> None:
        async def run() -> None:
            pubacks = deque([None] * (MAX_TRIES + 1))
            async with broker(pubacks=pubacks) as touchy, station(tmp_path, touchy.port) as at:
                await at.publisher.put([message(n) for n in range(3)])
                assert await at.publisher.flush(PATIENCE_S)
                assert at.of(Rejected) == [Rejected(TOPIC, "closes_connection", set_aside=True)]
                assert len(at.of(Published)) == 2

        asyncio.run(run())

    @pytest.mark.parametrize(
        ("code", "reason"),
        [(0x8E, "taken_over"), (0x8B, "closed"), (0x8D, "timeout"), (0x97, "quota"), (0x82, "protocol")],
    )
    def test_broker_says_why_it_ends_the_connection(self, tmp_path: Path, code: int, reason: str) -> None:
        async def run() -> None:
            async with broker(pubacks=deque([256 + code])) as strict, station(tmp_path, strict.port) as at:
                await at.publisher.put([message(n) for n in range(3)])
                assert await at.publisher.flush(PATIENCE_S)
                (event,) = at.of(Disconnected)
                assert (event.reason, event.was_connected) == (reason, True)
                assert not at.of(Rejected)

        asyncio.run(run())

    def test_broker_calls_a_message_too_large(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with broker(pubacks=deque([256 + 0x95] * 2)) as strict, station(tmp_path, strict.port) as at:
                await at.publisher.put([message(n) for n in range(3)])
                assert await at.publisher.flush(PATIENCE_S)
                assert at.of(Rejected) == [Rejected(TOPIC, "too_large", set_aside=True)]

        asyncio.run(run())

    @pytest.mark.parametrize(("maximum", "expected"), [(None, 20), (3, 3)])
    def test_window(self, tmp_path: Path, maximum: int | None, expected: int) -> None:
        async def run() -> None:
            properties = b"" if maximum is None else b"\x21" + maximum.to_bytes(2)
            async with broker(lazy=True, properties=properties) as slow, station(tmp_path, slow.port) as at:
                await at.publisher.put([message(n) for n in range(100)])
                at.publisher.put_latest(message(1, topic="monitor/v1/XX/A/quality"))
                assert await at.publisher.flush(PATIENCE_S)
                assert expected - 1 <= slow.most_open <= expected

        asyncio.run(run())

    def test_no_acknowledgement(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A broker that answers pings but not messages."""
        monkeypatch.setattr(Drain, "_ack_timeout_s", 0.05)

        async def run() -> None:
            async with broker(pubacks=deque([-1])) as deaf, station(tmp_path, deaf.port) as at:
                await at.publisher.put([message(1)])
                assert await at.publisher.flush(PATIENCE_S)
                assert [event.reason for event in at.of(Disconnected)] == ["timeout"]
                assert len(at.of(Published)) == 1

        asyncio.run(run())

    def test_stop_while_connecting(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with broker(connacks=deque([None])) as silent, station(tmp_path, silent.port) as at:
                await until(lambda: bool(silent.versions))
                at.publisher.stop()
            assert at.events == []

        asyncio.run(run())

    def test_new_message_does_not_wait(self, tmp_path: Path) -> None:
        """It is on its way when `put` has returned, without a timer between."""

        async def run() -> None:
            async with broker() as quick, station(tmp_path, quick.port) as at:
                await at.until(lambda: bool(at.of(Connected)))
                assert await at.publisher.flush(PATIENCE_S)
                for number in range(20):
                    await at.publisher.put([message(number)])
                    await at.until(lambda n=number: len(at.of(Published)) == n + 1)  # type: ignore[misc]
                latencies = sorted(event.latency_s for event in at.of(Published))
                # Half a second would be a timer; a slow disk is not.
                assert latencies[0] < 0.5

        asyncio.run(run())


class TestClassify:
    @pytest.mark.parametrize(
        ("cause", "reason"),
        [
            (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "refused"),
            (ConnectionResetError(errno.ECONNRESET, "reset"), "closed"),
            (OSError(errno.EHOSTUNREACH, "no route"), "network"),
            (TimeoutError("timed out"), "timeout"),
            (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "dns"),
            (ssl.SSLCertVerificationError(1, "certificate verify failed"), "tls"),
            (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "tls"),
        ],
    )
    def test_socket(self, cause: Exception, reason: str) -> None:
        assert classify(cause).reason == reason
        wrapped = aiomqtt.MqttError(str(cause))
        wrapped.__context__ = cause  # as aiomqtt raises it: from None, out of an `except`
        assert classify(wrapped).reason == reason

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("Bad user name or password", "auth"),
            ("Not authorized", "auth"),
            ("Server busy", "refused"),
            ("Quota exceeded", "quota"),
            ("Unsupported protocol version", "protocol"),
            ("Unspecified error", "closed"),
        ],
    )
    def test_code(self, name: str, reason: str) -> None:
        assert classify(MqttConnectError(ReasonCode(PacketTypes.CONNACK, name))).reason == reason

    def test_every_reason_is_known(self) -> None:
        assert classify(ValueError("odd bytes")).reason == "protocol"
        assert classify(aiomqtt.MqttError()).reason == "closed"
        assert classify(LinkError("tls", "x")).reason == "tls"
        assert {classify(OSError()).reason, "taken_over"} <= set(LINK_REASONS)
        assert all(re.fullmatch("[a-z_]+", reason) for reason in LINK_REASONS)


def test_it_ends_when_cancelled_though_the_connection_is_lost_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        connected, again = asyncio.Event(), asyncio.Event()

        class Lost:
            """A connection that is gone just when nobody wants it any more."""

            version, session_present, window = "5", True, 1

            def is_too_large(self, _: OutboxMessage) -> bool:
                return True

            async def lost(self) -> None:
                connected.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if again.is_set():
                        raise
                    raise LinkError("closed", "the connection ended") from None

        @contextlib.asynccontextmanager
        async def connect(*_: object, **__: object) -> AsyncIterator[Lost]:
            if connected.is_set():
                again.set()
            yield Lost()

        monkeypatch.setattr("monitor.publisher.mqtt.connect", connect)
        outbox = OutboxThread(tmp_path / "outbox.sqlite", OutboxSettings(), clock=time.time_ns, on_notice=print)
        await outbox.open()
        topics = Topics("monitor/v1", "monitor-test")
        publisher = Publisher(
            MqttSettings(**QUICK), topics=topics, outbox=outbox, status=STATUS, on_event=print, lateness_s=60
        )
        running, trying = asyncio.create_task(publisher.run()), asyncio.create_task(again.wait())
        await connected.wait()
        running.cancel()
        await asyncio.wait([running, trying], return_when=asyncio.FIRST_COMPLETED)
        assert running.cancelled()
        trying.cancel()
        await outbox.close()

    asyncio.run(run())
