"""A real broker for the tests: mosquitto on a free port of this computer, to be killed and started again."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tests.programs import find_program

# Below those that the kernel hands out by itself: no client is given one of these before its server listens, or after
# that was killed, and so comes to speak to itself.
_PORTS = range(20_000, 32_000)
_given: set[int] = set()
_dice = random.SystemRandom()


def free_port() -> int:
    """A port that nobody listens on; never the same twice."""
    while True:
        port = _dice.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class Mosquitto:
    """One broker; what it keeps is in `folder`, so that it survives a restart unless `persistent` is off."""

    def __init__(self, folder: Path, *, settings: str = "allow_anonymous true\n", persistent: bool = False) -> None:
        self.port = free_port()
        self._folder = folder
        self._settings = settings
        self._persistent = persistent
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Mosquitto":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it listens."""
        program = find_program("mosquitto")
        assert program is not None
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "mosquitto.conf"
        keep = (
            f"persistence true\npersistence_location {self._folder}/\nautosave_interval 1\nautosave_on_changes true\n"
        )
        # As root it would give up its rights and could no longer read its own files.
        config.write_text(
            f"per_listener_settings false\nuser {os.environ.get('USER') or 'root'}\n{keep if self._persistent else ''}"
            f"listener {self.port} 127.0.0.1\n{self._settings}"
        )
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([program, "-v", "-c", str(config)], stdout=log, stderr=log)
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert self._process.poll() is None, self.log
            time.sleep(0.005)

    def kill(self) -> None:
        """End it without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in order."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Let it hang: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def reload(self) -> None:
        """Let it read passwords and rights again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    @property
    def log(self) -> str:
        return (self._folder / "mosquitto.log").read_text()


def make_certificates(folder: Path) -> None:
    """Make an authority, a server's certificate for localhost, a client's, and an authority that nobody knows."""
    openssl = find_program("openssl")
    assert openssl is not None
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, cwd=folder, capture_output=True)

    for name in ("ca", "stranger"):
        run(
            "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "30", "-subj", f"/CN={name}"
        )
    for name in ("localhost", "client"):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}\n")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext", "-days", "30"]
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)


@contextlib.contextmanager
def frozen(broker: Mosquitto) -> Iterator[None]:
    """Let a broker hang; it is killed afterwards, since connections pile up."""
    broker.pause()
    try:
        yield
    finally:
        broker.kill()
