"""What every part of the suite stands on: a server that plays, a subscriber, the service, and a comparison."""

import asyncio
import contextlib
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from monitor.playback.faults import Faults
from monitor.playback.server import PlaybackServer, PlaybackSettings
from monitor.records import Detection, Segment
from tests.chaos.recording import Key, plain
from tests.service import Hearer, Monitor, wait_for

# Where nothing more has been heard for so long, nothing will be.
PATIENCE_S = 120.0
_RING_BYTES = 512 << 20


@contextlib.contextmanager
def playing(
    source: list[Segment],
    *,
    speed: float | None = None,
    preload: bool = True,
    faults: Faults | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[PlaybackServer]:
    """Play in a thread of its own.

    Args:
        source: The recording.
        speed: Multiple of real time; None: as fast as the clients take it.
        preload: Without a speed, everything is in the ring from the start.
        faults: What goes wrong.
        tls: Certificate and key.
    """
    settings = PlaybackSettings(
        preload_s=float("inf") if speed is None and preload else 0.0, packet_s=2.0, ring_bytes=_RING_BYTES, tls=tls
    )
    ready, done = threading.Event(), threading.Event()
    servers: list[PlaybackServer] = []

    async def serve() -> None:
        play = PlaybackServer.play(source, settings=settings, speed=speed, faults=faults)
        # Paced, it is not waited for: nothing is played before there is a client.
        async with play as server:
            servers.append(server)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        if not ready.wait(PATIENCE_S):
            raise AssertionError("the server did not start")
        yield servers[0]
    finally:
        done.set()
        thread.join()


def settings(monitor: Monitor, *, seedlink: int, mqtt: int, server: str = "", broker: str = "", more: str = "") -> str:
    """Write settings as `Monitor` does, with more in each table."""
    return (
        f'[[seedlink]]\nhost = "127.0.0.1"\nport = {seedlink}\nstations = ["*.*"]\nbacklog_s = 604800\n'
        f"backoff_s = 0.05\nbackoff_max_s = 0.1\n{server}\n{more}\n"
        f'[mqtt]\nhost = "127.0.0.1"\nport = {mqtt}\nclient_id = "test"\nbackoff_s = 0.05\nbackoff_max_s = 0.1\n'
        f'{broker}\n[http]\nport = {monitor.http}\n[state]\ndirectory = "state"\nsave_interval_s = 0.1\n'
        '[log]\nformat = "text"\n'
    )


class Listener(Hearer):
    """The subscriber, which counts as it hears."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._seen = 0
        self._final: set[str] = set()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    @property
    def final_count(self) -> int:
        """How many detections are final."""
        while self._seen < len(self.messages):
            topic, body = self.messages[self._seen]
            self._seen += 1
            if topic.endswith("/detection") and body["state"] == "final":
                self._final.add(body["id"])
        return len(self._final)


@dataclass(frozen=True)
class Difference:
    """What was heard against what was to be heard.

    Attributes:
        missing: Ids that were never heard, or never to the end.
        strange: Ids that nobody expected.
        other: Ids whose last word is another.
        unsaid: Revisions before the last that were not heard.
        repeated: Messages heard again.
    """

    missing: list[str]
    strange: list[str]
    other: list[str]
    unsaid: list[Key]
    repeated: int

    def __bool__(self) -> bool:
        return bool(self.missing or self.strange or self.other or self.unsaid)

    def __str__(self) -> str:
        parts = [
            f"{name}: {value}" for name in ("missing", "strange", "other", "unsaid") if (value := getattr(self, name))
        ]
        return "; ".join(parts) or "alike"


def compare(heard: list[dict[str, Any]], expected: dict[Key, Detection]) -> Difference:
    """Compare everything that was heard with what an undisturbed run says."""
    times = Counter((body["id"], body["revision"]) for body in heard)
    last = {body["id"]: body for body in heard if body["state"] == "final"}
    wanted = {d.id: d for d in expected.values() if d.state == "final"}
    return Difference(
        missing=sorted(wanted.keys() - last.keys()),
        strange=sorted({body["id"] for body in heard} - wanted.keys()),
        other=sorted(one for one in wanted.keys() & last.keys() if plain(last[one]) != plain(wanted[one])),
        unsaid=sorted(expected.keys() - times.keys()),
        repeated=sum(times.values()) - len(times),
    )


def finals(expected: dict[Key, Detection]) -> int:
    """How many detections are expected."""
    return sum(detection.state == "final" for detection in expected.values())


def unexpected(log: str) -> bool:
    """Tell whether an exception was not foreseen.

    Warnings are errors here; that Paho leaves the socket of a failed TLS handshake to the garbage collector is not.
    """
    return log.count("Traceback") > log.count("ResourceWarning: unclosed <ssl.SSLSocket")


def start(monitor: Monitor) -> None:
    """Start the service and wait until it listens."""
    before = monitor.log.count("listening")
    monitor.start()
    try:
        wait_for(lambda: monitor.log.count("listening") > before, why="it does not start", or_if=monitor.has_ended)
    except AssertionError as error:
        if not monitor.has_ended():
            # Under PYTHONFAULTHANDLER it says where it hangs.
            monitor.signal(signal.SIGABRT)
            assert monitor.process is not None
            monitor.process.wait()
        raise AssertionError(monitor.log[-4000:]) from error


def finish(monitor: Monitor, listener: Listener, enough: int) -> str:
    """Let the service come to its end, and stop it; say what went wrong."""
    heard, until = -1, 0.0
    while listener.final_count < enough:
        if monitor.has_ended():
            return f"ended by itself: {monitor.log[-500:]}; "
        if listener.final_count > heard:
            heard, until = listener.final_count, time.monotonic() + PATIENCE_S
        if time.monotonic() > until:
            return f"{listener.final_count} of {enough}, and nothing more for {PATIENCE_S:.0f} s; "
        time.sleep(0.05)
    # Nothing is to come after that; what would be too much has its chance.
    code = monitor.stop()
    return "" if code == 0 else f"exit code {code}; "
