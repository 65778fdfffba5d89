"""Tell systemd how the service is (sd_notify(3)), and prove progress before saying that all is well."""

import os
import socket
from collections.abc import Mapping

from monitor.timebase import NS_PER_SECOND, seconds_to_ns

_NS_PER_US = 1000


class Notifier:
    """Speaks to the service manager; silent where there is none.

    Args:
        address: What `$NOTIFY_SOCKET` says: a path, or `@` and a name in the abstract namespace; None for silence.
        watchdog_ns: Within what time systemd wants each `watchdog()`, nanoseconds; None where it watches nothing.
    """

    def __init__(self, address: str | None, *, watchdog_ns: int | None = None) -> None:
        self.watchdog_ns = watchdog_ns
        self._address = None
        # vsock addresses are for whole virtual machines.
        if address is not None and address[:1] in {"/", "@"}:
            self._address = "\0" + address[1:] if address[0] == "@" else address

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, *, pid: int | None = None) -> "Notifier":
        """Read `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.

        Args:
            environment: Where to look.
            pid: This process; its real one where None.
        """
        text, meant_for = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        ours = meant_for in {"", str(os.getpid() if pid is None else pid)}
        wanted = ours and text.isascii() and text.isdigit() and int(text) > 0
        return cls(environment.get("NOTIFY_SOCKET"), watchdog_ns=int(text) * _NS_PER_US if wanted else None)

    @property
    def active(self) -> bool:
        """Is anyone listening?"""
        return self._address is not None

    def ready(self, status: str) -> bool:
        """The service is up, or again up after `reloading`."""
        return self.send("READY=1", f"STATUS={_one_line(status)}")

    def status(self, text: str) -> bool:
        """Say in one line how it goes; `systemctl status` shows it."""
        return self.send(f"STATUS={_one_line(text)}")

    def watchdog(self) -> bool:
        """Ask systemd to wait another interval before it restarts the service."""
        return self.send("WATCHDOG=1")

    def reloading(self, monotonic_ns: int) -> bool:
        """A reload begins; `ready` ends it.

        Args:
            monotonic_ns: CLOCK_MONOTONIC, nanoseconds; systemd tells by it which reload it was.
        """
        return self.send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns // _NS_PER_US}")

    def stopping(self, status: str) -> bool:
        """The service is about to end."""
        return self.send("STOPPING=1", f"STATUS={_one_line(status)}")

    def send(self, *assignments: str) -> bool:
        """Send one datagram of assignments.

        Returns:
            Whether someone took it. A service manager that has gone, or does not read, must not stop the service.
        """
        if self._address is None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            link.setblocking(False)
            try:
                link.sendto("\n".join(assignments).encode(), self._address)
            except OSError:
                return False
        return True


class Watchdog:
    """Knows of each task whether it gets on; pure.

    Args:
        interval_ns: Within what time the service manager wants a sign, nanoseconds; one is due after half of it.
        now_ns: Monotonic time, nanoseconds.
    """

    def __init__(self, interval_ns: int, *, now_ns: int) -> None:
        if interval_ns <= 0:
            raise ValueError(f"interval is {interval_ns} ns; accepted: more than 0")
        self._interval_ns = interval_ns
        self._sent_ns = now_ns
        self._limits_ns: dict[str, int] = {}
        self._beats_ns: dict[str, int] = {}

    def watch(self, name: str, *, limit_s: float, now_ns: int) -> None:
        """From now on `name` has to beat at least every `limit_s` seconds."""
        if not limit_s > 0:
            raise ValueError(f"limit of {name} is {limit_s} s; accepted: more than 0")
        self._limits_ns[name] = seconds_to_ns(limit_s)
        self._beats_ns[name] = now_ns

    def forget(self, name: str) -> None:
        """`name` has ended as it should."""
        del self._limits_ns[name], self._beats_ns[name]

    def beat(self, name: str, now_ns: int) -> None:
        """`name` got something done, or waits as it should.

        Raises:
            KeyError: It is not watched: a proof that nobody asks for is a slip of the pen.
        """
        if name not in self._limits_ns:
            raise KeyError(f"{name} is not watched; watched: {', '.join(sorted(self._limits_ns)) or 'none'}")
        self._beats_ns[name] = now_ns

    def late(self, now_ns: int) -> dict[str, float]:
        """Which tasks have not beaten within their limit, and for how many seconds."""
        ages = {name: now_ns - beat_ns for name, beat_ns in self._beats_ns.items()}
        return {name: age / NS_PER_SECOND for name, age in ages.items() if age > self._limits_ns[name]}

    def due(self, now_ns: int) -> bool:
        """Tell whether to send WATCHDOG=1 now; a true answer counts as sent.

        Never while a task is late: a service that looks alive and is not is what the watchdog is for.
        """
        if now_ns - self._sent_ns < self._interval_ns // 2 or self.late(now_ns):
            return False
        self._sent_ns = now_ns
        return True

    @property
    def check_interval_s(self) -> float:
        """How often to ask `due`: four times an interval, so that a sign is never later than three quarters of it."""
        return self._interval_ns / 4 / NS_PER_SECOND


def _one_line(text: str) -> str:
    return " ".join(text.split())
