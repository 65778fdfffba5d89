"""The network and whoever is behind it: each fault alone, then several at once."""

import shutil
import socket
import subprocess
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from monitor.playback.server import tls_context
from monitor.records import Detection, Segment
from tests.broker import broker as scripted
from tests.chaos import outage, recording
from tests.chaos.outcome import Options, Outcome
from tests.chaos.proxy import Proxy, in_thread, unanswering
from tests.chaos.scenarios import ALL, Scenario, scenarios
from tests.chaos.scenarios import kind as kind_of
from tests.chaos.service import PATIENCE_S, Listener, compare, finals, finish, playing, settings, start, unexpected
from tests.mosquitto import Mosquitto, free_port, make_certificates
from tests.programs import find_program
from tests.service import Monitor, wait_for

# Scenarios side by side.
_AT_ONCE = 4
PROMISE = "nothing is lost, nothing gets a new id, the service does not end"
# Short, so that what hangs is found out soon.
PATIENT = "connect_timeout_s = 2.0\nstall_timeout_s = 3.0\nkeepalive_s = 1.0"
BROKER = "connect_timeout_s = 2.0\nkeepalive_s = 5"


def run(options: Options) -> list[Outcome]:
    """All of it."""
    whole = recording.make(1, end_ns=time.time_ns() - 600 * 10**9)
    expected = recording.replayed(whole)
    chosen = scenarios(np.random.default_rng(options.seed))
    together = [scenario for scenario in chosen if kind_of(scenario) == ALL]
    chosen = chosen[: len(chosen) - len(together)] + together[: options.combinations]
    if options.short:
        wanted = ("SeedLink reset", "MQTT reset", "server: hang, SeedLink 3")
        chosen = [scenario for scenario in chosen if scenario.name in wanted]
    outcomes: dict[str, Outcome] = {}

    def one(numbered: tuple[int, Scenario]) -> None:
        number, scenario = numbered
        outcome = outcomes[kind_of(scenario)]
        _scenario(options.room(f"network{number}"), scenario, outcome, whole, expected)

    for scenario in chosen:
        kind = kind_of(scenario)
        outcome = outcomes.setdefault(kind, Outcome("network", kind, PROMISE, unit="scenarios"))
        alone = scenario.name.split(": ")[-1].split(", ")[0].removeprefix("SeedLink ").removeprefix("MQTT ")
        if kind != ALL and alone not in outcome.note.split(", "):
            outcome.note = ", ".join(filter(None, (outcome.note, alone)))
    if ALL in outcomes and options.combinations < len(together):
        outcomes[ALL].note = f"{options.combinations} of {len(together)} in which each pair is"
    # They wait for time-outs most of the time.
    with ThreadPoolExecutor(1 if options.short else _AT_ONCE) as pool:
        list(pool.map(one, enumerate(chosen)))
    found = list(outcomes.values())
    if not options.short:
        found += others(options, whole, expected)
    return found


def others(options: Options, whole: list[Segment], expected: dict[recording.Key, Detection]) -> list[Outcome]:
    """What is no fault of a connection."""
    found = [*certificates(options, whole, expected), names(options, whole, expected)]
    return [*found, answers(options, whole, expected), restarts(options, whole, expected), outage.run(options)]


def _scenario(
    folder: Path, scenario: Scenario, outcome: Outcome, whole: list[Segment], expected: dict[recording.Key, Detection]
) -> None:
    with (
        # What was on its way when numbers begin again is still there to be asked for.
        patch("monitor.playback.server._KEPT_AT_RESET_NS", 10**18),
        Mosquitto(folder / "broker", persistent=True) as broker,
        Listener(broker.port) as listener,
        playing(whole, faults=scenario.faults, preload=False) as server,
        in_thread(lambda: Proxy(server.port, scenario.seedlink)) as seedlink,
        in_thread(lambda: Proxy(broker.port, scenario.mqtt)) as mqtt,
    ):
        monitor = Monitor(folder, seedlink=seedlink.port, mqtt=mqtt.port)
        server_settings = f'version = "{scenario.version}"\n{PATIENT}'
        monitor.config.write_text(
            settings(monitor, seedlink=seedlink.port, mqtt=mqtt.port, server=server_settings, broker=BROKER)
        )  # fmt: skip
        judge(monitor, listener, expected, outcome, name=scenario.name)


def judge(
    monitor: Monitor, listener: Listener, expected: dict[recording.Key, Detection], outcome: Outcome, *, name: str
) -> None:
    """Run the service to its end and note what was heard."""
    try:
        start(monitor)
        problem = finish(monitor, listener, finals(expected))
    finally:
        monitor.kill()
    difference = compare(listener.detections, expected)
    outcome.runs += 1
    outcome.losses += len(difference.missing) + len(difference.unsaid)
    outcome.duplicates += difference.repeated
    if problem or difference or unexpected(monitor.log):
        outcome.fail(f"{name}: {problem}{difference}")
    print(f"   {name}: {problem}{difference}", flush=True)


def certificates(options: Options, whole: list[Segment], expected: dict[recording.Key, Detection]) -> list[Outcome]:
    """A broker and a server whose certificate has expired or is for another name; then they get a good one."""
    outcomes = []
    for what in ("expired", "wrong name"):
        folder = options.room(f"tls {what}")
        outcome = Outcome("network", f"TLS: certificate {what}", "refused, told, and all is sent when it is good again")
        outcomes.append(outcome)
        if find_program("openssl") is None:
            outcome.note = "left out: openssl is not installed"
            continue
        make_certificates(folder)
        good = folder / "good.pem"
        shutil.copy(folder / "localhost.pem", good)
        _bad_certificate(folder, what)
        tls = f"cafile {folder}/ca.pem\ncertfile {folder}/localhost.pem\nkeyfile {folder}/localhost.key\n"
        broker = Mosquitto(folder / "broker", settings=f"allow_anonymous true\n{tls}", persistent=True)
        plain_port = free_port()
        broker._settings += f"listener {plain_port} 127.0.0.1\nallow_anonymous true\n"
        bad = tls_context(folder / "localhost.pem", folder / "localhost.key")
        with broker, _listener(plain_port) as listener, playing(whole, tls=bad) as refused, playing(whole) as server:
            monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
            trust = f'tls = true\nca_file = "{folder}/ca.pem"'
            second = f'[[seedlink]]\nhost = "localhost"\nport = {refused.port}\nstations = ["*.*"]\n{trust}\n'
            text = settings(monitor, seedlink=server.port, mqtt=broker.port, broker=trust, more=second)
            monitor.config.write_text(text.replace('[mqtt]\nhost = "127.0.0.1"', '[mqtt]\nhost = "localhost"'))
            monitor.start()
            try:
                _wait_told(monitor)
                if monitor.metric("monitor_broker_connected") or listener.final_count:
                    outcome.fail("the certificate was taken")
                broker.stop()
                shutil.copy(good, folder / "localhost.pem")
                broker.start()
                problem = finish(monitor, listener, finals(expected))
            finally:
                monitor.kill()
            difference = compare(listener.detections, expected)
        outcome.runs += 1
        outcome.losses += len(difference.missing)
        outcome.duplicates += difference.repeated
        if problem or difference or unexpected(monitor.log):
            outcome.fail(f"{problem}{difference}")
    return outcomes


def _wait_told(monitor: Monitor) -> None:
    wait_for(
        lambda: "broker: tls:" in monitor.log and monitor.log.count(": tls:") > 1,
        why="not told",
        or_if=monitor.has_ended,
    )


def _listener(port: int) -> Listener:
    """The broker opens its second port after the first."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens, why="the broker does not listen")
    return Listener(port)


def _bad_certificate(folder: Path, what: str) -> None:
    openssl = find_program("openssl")
    assert openssl is not None
    request, days = "localhost", "-1"
    if what == "wrong name":
        (folder / "localhost.ext").write_text("subjectAltName=DNS:elsewhere.example\n")
        days = "30"
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "localhost.ext", "-days", days]
    command = [openssl, "x509", "-req", "-in", f"{request}.csr", "-out", f"{request}.pem", *signing]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)


def names(options: Options, whole: list[Segment], expected: dict[recording.Key, Detection]) -> Outcome:
    """Names that have no address, and an address that never answers: the others are not disturbed."""
    outcome = Outcome("network", "no address for the name (DNS); SYN dropped", PROMISE, unit="scenarios")
    folder = options.room("names")
    with (
        Mosquitto(folder / "broker", persistent=True) as broker,
        Listener(broker.port) as listener,
        playing(whole) as server,
        unanswering() as hole,
    ):
        more = f'[[seedlink]]\nhost = "none.invalid"\nstations = ["*.*"]\n{QUICK}\n'
        more += f'[[seedlink]]\nhost = "127.0.0.1"\nport = {hole}\nstations = ["*.*"]\n{QUICK}\n'
        monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
        good = settings(monitor, seedlink=server.port, mqtt=broker.port, more=more)
        try:
            for said, wrong in (
                ("broker: dns:", good.replace('[mqtt]\nhost = "127.0.0.1"', '[mqtt]\nhost = "none.invalid"')),
                ("broker: timeout:", good.replace(f"port = {broker.port}", f"port = {hole}\nconnect_timeout_s = 1.0")),
            ):
                monitor.config.write_text(wrong)
                monitor.start()
                wait_for(
                    lambda said=said: said in monitor.log and "final earthquake" in monitor.log,  # type: ignore[misc]
                    why=f"{said} is not told",
                    or_if=monitor.has_ended,
                )
                monitor.stop()
                outcome.runs += 1
            monitor.config.write_text(good)
            judge(monitor, listener, expected, outcome, name="two servers without an address, then the right broker")
        finally:
            monitor.kill()
    return outcome


QUICK = "backoff_s = 0.2\nbackoff_max_s = 1.0\nconnect_timeout_s = 1.0"


def answers(options: Options, whole: list[Segment], expected: dict[recording.Key, Detection]) -> Outcome:
    """A broker that refuses, closes on each publish, is out of quota, says nothing, or is slow; then it behaves."""
    outcome = Outcome(
        "network",
        "broker that refuses, closes on each publish, is out of quota, silent or slow",
        PROMISE,
        unit="scenarios",
    )
    refused = b"\x20\x03\x00\x88\x00"
    cases: dict[str, dict[str, Any]] = {
        "refuses": {"connacks": [refused] * 6 + [b"", None, b"\xff\xff\xff"]},
        "closes on each publish": {"pubacks": [None] * 12},
        "out of quota": {"pubacks": [0x97] * 12},
        "unspecified error": {"pubacks": [0x80] * 4},
        "disconnects with quota": {"pubacks": [256 + 0x97] * 4},
        "silent": {"pubacks": [-1]},
        "slow": {"lazy": True},
    }
    wanted = {(d.id, d.revision) for d in expected.values()}
    for name, script in cases.items():
        folder = options.room(f"answers {name}")
        with in_thread(lambda script=script: scripted(**_deques(script))) as broker, playing(whole) as server:  # type: ignore[misc]
            monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
            monitor.config.write_text(settings(monitor, seedlink=server.port, mqtt=broker.port, broker=BROKER))
            heard: set[tuple[str, int]] = set()
            began = restarted = time.monotonic()
            monitor.start()
            try:
                while not wanted <= heard and time.monotonic() - began < 2 * PATIENCE_S and not monitor.has_ended():
                    time.sleep(0.1)
                    heard = outage.heard_of(broker.published)
                    # What it would not take is offered again by the next process.
                    if time.monotonic() - restarted > PATIENCE_S / 4 and not broker.pubacks:
                        restarted = time.monotonic()
                        monitor.stop()
                        monitor.start()
                code = monitor.stop()
            finally:
                monitor.kill()
        outcome.runs += 1
        outcome.losses += len(wanted - heard)
        outcome.duplicates += sum("/detection" in topic for topic, _ in broker.published) - len(heard)
        if code or wanted != heard or unexpected(monitor.log):
            outcome.fail(f"{name}: exit code {code}, lacks {wanted - heard}, strange {heard - wanted}")
        print(f"   broker {name}: {len(heard)} of {len(wanted)}", flush=True)
    return outcome


def _deques(script: dict[str, Any]) -> dict[str, Any]:
    return {name: deque(value) if isinstance(value, list) else value for name, value in script.items()}


def restarts(options: Options, whole: list[Segment], expected: dict[recording.Key, Detection]) -> Outcome:
    """The broker is killed and started again at random moments, with what it keeps on disk."""
    outcome = Outcome("network", "broker killed and started again, at random moments", PROMISE, unit="kills")
    rng = np.random.default_rng(options.seed)
    folder = options.room("restarts")
    with (
        Mosquitto(folder / "broker", persistent=True) as broker,
        Listener(broker.port) as listener,
        playing(whole) as server,
    ):
        monitor = Monitor(folder, seedlink=server.port, mqtt=broker.port)
        monitor.start()
        try:
            for _ in range(8):
                time.sleep(float(rng.uniform(0, 2)))
                broker.stop() if rng.random() < 0.5 else broker.kill()
                time.sleep(float(rng.uniform(0, 1)))
                broker.start()
                outcome.runs += 1
            problem = finish(monitor, listener, finals(expected))
        finally:
            monitor.kill()
        difference = compare(listener.detections, expected)
    outcome.losses += len(difference.missing)
    outcome.duplicates += difference.repeated
    if problem or difference:
        outcome.fail(f"{problem}{difference}")
    return outcome
