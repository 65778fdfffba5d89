"""A station's computer: a Debian root that systemd boots in a container, without any network but loopback."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Result = subprocess.CompletedProcess[str]

# What a login as root sees; nothing of this computer's own environment.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}

# In a mount namespace of its own with a /run of its own: systemd-nspawn then needs no systemd on this computer.
_BOOT = 'mount -t tmpfs tmpfs /run && exec systemd-nspawn "$@"'
_POWER_OFF = signal.SIGRTMIN + 4  # systemd(1), signals


def wait_for(what: Callable[[], Any], *, why: str, seconds: float = 60.0, every_s: float = 0.25) -> Any:
    """Poll until `what` gives something true; fail with `why` after so many seconds."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"{why} (waited {seconds:g} s)"
        time.sleep(every_s)
    return found


class Machine:
    """One container; boots on entry, is powered off on exit.

    Args:
        root: Its root file system, a folder.
        name: What it is called.
        arguments: Further arguments of systemd-nspawn, such as `--read-only`.
    """

    def __init__(self, root: Path, *, name: str, arguments: tuple[str, ...] = ()) -> None:
        self.root, self.name = root, name
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> "Machine":
        nspawn = [f"--directory={self.root}", "--boot", f"--machine={self.name}", "--register=no", "--keep-unit"]
        nspawn += ["--console=pipe", "--private-network", *self._arguments]
        # Whatever happens to the tests, the container ends with them.
        outer = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private"]
        self._process = subprocess.Popen(
            [*outer, "sh", "-c", _BOOT, "sh", *nspawn],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self._leader = int(wait_for(self._first_child, why="systemd-nspawn starts no container"))
        wait_for(lambda: self("test", "-S", "/run/systemd/private", check=False).returncode == 0, why="no systemd")
        state = self("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        assert state in {"running", "degraded"}, f"the container is {state!r}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            os.kill(self._leader, _POWER_OFF)
            try:
                self._process.wait(90)
            except subprocess.TimeoutExpired:
                os.kill(self._leader, signal.SIGKILL)
                self._process.wait()
        self._process = None

    def __call__(
        self, *command: str | Path, check: bool = True, stdin: str | None = None, more: dict[str, str] | None = None
    ) -> Result:
        """Run a command in the container as root; both outputs are kept.

        Args:
            command: Program and arguments.
            check: Fail where its exit code is not 0.
            stdin: What it reads; nothing unless given.
            more: Further environment variables.
        """
        inside = [f"{key}={value}" for key, value in {**ENVIRONMENT, **(more or {})}.items()]
        result = subprocess.run(
            ["nsenter", "--target", str(self._leader), "--all", "env", "-i", *inside, *map(str, command)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert not check or result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def out(self, *command: str | Path) -> str:
        """What a command says, without the end of its last line."""
        return self(*command).stdout.strip()

    def path(self, name: str) -> Path:
        """Where a file of the container is on this computer."""
        return self.root / name.lstrip("/")

    def property(self, unit: str, name: str) -> str:
        """A property of a unit as systemctl shows it."""
        return self.out("systemctl", "show", f"--property={name}", "--value", unit)

    def journal(self, unit: str) -> str:
        """All that a unit has logged."""
        return self.out("journalctl", "--unit", unit, "--no-pager", "--output=cat")

    def _first_child(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, f"systemd-nspawn ended with {self._process.returncode}"
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return children[0] if children else ""
