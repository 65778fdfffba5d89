"""A real browser for tests: headless Chromium, spoken to over its DevTools protocol (https://chromedevtools.github.io)."""

import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.programs import find_program

# A test that waits longer has failed.
PATIENCE_S = 120.0
_MOST_BYTES = 64 * 1024 * 1024


# What an answer says whose question fell into the change from one document to the next.
_CHANGING = ("Inspected target navigated or closed", "Execution context was destroyed", "Cannot find default execution")


class _ChangingError(AssertionError):
    """There is no document to be asked for a moment."""


class Tab:
    """One page, and what it complained of.

    Args:
        socket: To its DevTools.

    Attributes:
        complaints: Errors and warnings of its console, exceptions, resources that could not be loaded, and what its
            Content-Security-Policy refused.
    """

    def __init__(self, socket: Connection) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method; its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == self._number:
                fault = message.get("error", {}).get("message", "")
                if fault.startswith(_CHANGING):
                    raise _ChangingError(method)
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        match message.get("method"), message.get("params", {}):
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                thrown = details.get("exception", {}).get("description", "")
                self.complaints.append(f"{details['text']} {thrown}")
            case "Runtime.consoleAPICalled", {"type": "error" | "warning" | "assert", "args": said}:
                self.complaints.append(str([one.get("value", one.get("description")) for one in said]))
            case "Log.entryAdded", {"entry": {"level": "error" | "warning", "text": text, **rest}}:
                self.complaints.append(f"{text} {rest.get('url', '')}")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise's once it is kept."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, why: str = "") -> None:
        """Poll until an expression is true."""
        until = time.monotonic() + PATIENCE_S
        while not self._is(expression):
            assert time.monotonic() < until, f"{why or expression}; {self.complaints}; {self.text()[:500]}"
            time.sleep(0.05)

    def _is(self, expression: str) -> bool:
        try:
            # An element is true there, and an empty object here.
            return bool(self.evaluate(f"!!({expression})"))
        except _ChangingError:
            return False

    def go(self, url: str) -> None:
        """Open an address, in a document of its own, and wait until it is there."""
        for one in ("about:blank", url):
            assert "errorText" not in self.send("Page.navigate", url=one), url
            self.wait_for(f"location.href === {json.dumps(one)} && document.readyState === 'complete'")

    def back(self) -> None:
        """Go back to the document before."""
        history = self.send("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] - 1]
        self.send("Page.navigateToHistoryEntry", entryId=entry["id"])
        self.wait_for(f"location.href === {json.dumps(entry['url'])} && document.readyState === 'complete'")

    def look(self, *, width: int, height: int = 900, dark: bool = False, scale: float = 1.0) -> None:
        """Let the page be so large, in this theme."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])

    def picture(self, *, whole: bool = False) -> bytes:
        """A screenshot as PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def text(self) -> str:
        """What a person reads."""
        return str(self.evaluate("document.body.innerText"))


class Browser:
    """A running Chromium.

    Args:
        port: Of its DevTools.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    @contextlib.contextmanager
    def tab(self) -> Iterator[Tab]:
        """A fresh tab."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            target = json.loads(answer.read())
        with connect(
            target["webSocketDebuggerUrl"],
            open_timeout=PATIENCE_S,
            # Chromium on a busy machine may leave a ping unanswered for long.
            ping_interval=None,
            max_size=_MOST_BYTES,
            # In a bounded queue the farewell would stand behind what nobody reads any more, and be waited for.
            max_queue=None,
            compression=None,
        ) as socket:
            yield Tab(socket)
        url = f"http://127.0.0.1:{self._port}/json/close/{target['id']}"
        urllib.request.urlopen(url, timeout=PATIENCE_S).close()


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start Chromium with a profile in a folder; ended whatever happens."""
    program = find_program("chromium")
    assert program is not None
    arguments = (
        *("--headless=new", "--lang=en-US", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={folder}"),
        # No GPU, little shared memory, and nothing that it would fetch by itself.
        *("--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"),
        *("--no-first-run", "--disable-component-update", "--disable-extensions", "--mute-audio", "about:blank"),
    )
    with subprocess.Popen(
        [program, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": str(folder), "TZ": "Europe/Berlin", "LANGUAGE": "en_US"},
    ) as process:
        try:
            # Written when it listens: the port, and a path.
            note = folder / "DevToolsActivePort"
            until = time.monotonic() + PATIENCE_S
            while not (note.exists() and "\n" in (text := note.read_text())):
                assert process.poll() is None, "Chromium has ended"
                assert time.monotonic() < until, "Chromium does not start"
                time.sleep(0.05)
            yield Browser(int(text.splitlines()[0]))
        finally:
            process.kill()
