"""The live service as tests run it: a subprocess of `monitor run`, a broker to hear it, a server to feed it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.mosquitto import free_port

# A test that waits longer has failed; nothing here takes a tenth of it on a quiet machine.
PATIENCE_S = 120.0


def wait_for(what: Callable[[], Any], *, why: str, or_if: Callable[[], bool] = lambda: False) -> Any:
    """Poll until `what` gives something true."""
    until = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until, why
        assert not or_if(), why
        time.sleep(0.02)
    return found


class Hearer:
    """A subscriber of everything under `monitor/v1`, in a thread of its own, with a session that the broker keeps."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self._port = port
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="hearer", clean_session=False)
        self._client.on_message = self._heard
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("monitor/v1/#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]

    def _heard(self, _client: object, _data: object, message: Any) -> None:
        self.messages.append((message.topic, json.loads(message.payload)))

    def __enter__(self) -> "Hearer":
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def detections(self) -> list[dict[str, Any]]:
        """What was told of detections, in order."""
        return [body for topic, body in self.messages if topic.endswith("/detection")]

    def finals(self) -> dict[str, dict[str, Any]]:
        """By id, the final revisions."""
        return {d["id"]: d for d in self.detections if d["state"] == "final"}


class Monitor:
    """A folder with settings and state, and the process that runs on it."""

    def __init__(self, folder: Path, *, seedlink: int, mqtt: int, more: str = "") -> None:
        self.folder, self.http = folder, free_port()
        self.config = folder / "monitor.toml"
        self.write(seedlink=seedlink, mqtt=mqtt, more=more)
        self.process: subprocess.Popen[str] | None = None

    def write(self, *, seedlink: int, mqtt: int, more: str = "", server: str = "", broker: str = "") -> None:
        """Write the settings."""
        self.config.write_text(
            f'[[seedlink]]\nhost = "127.0.0.1"\nport = {seedlink}\nstations = ["*.*"]\nbacklog_s = 604800\n'
            f"backoff_s = 0.05\nbackoff_max_s = 0.1\n{server}\n"
            f'[mqtt]\nhost = "127.0.0.1"\nport = {mqtt}\nclient_id = "test"\n'
            f"backoff_s = 0.05\nbackoff_max_s = 0.1\n{broker}\n"
            f'[http]\nport = {self.http}\n[page]\nport = "none"\n'
            f'[state]\ndirectory = "state"\nsave_interval_s = 0.1\n'
            f'[log]\nformat = "text"\n{more}'
        )

    @property
    def log(self) -> str:
        """What it has logged so far."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        """Start it."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "monitor.cli", "run", "--config", str(self.config)],
                stderr=log,
                stdout=log,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "error"},
            )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it without warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """End it in order; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP listener."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, line_start: str) -> float:
        """The value of the first series whose line begins so."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(line_start):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no series {line_start}")


@contextlib.contextmanager
def running(monitor: Monitor) -> Iterator[Monitor]:
    """The process, ended whatever happens."""
    try:
        monitor.start()
        yield monitor
    finally:
        monitor.kill()
