"""Is the monitor in this container well? What the image's HEALTHCHECK runs; nothing but the standard library.

    python healthcheck.py [SETTINGS.toml]

Exits with 0 where /healthz says that all is well, with 1 and the reason on standard output otherwise.
"""

import json
import os
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 8.0
# What `monitor run` has unless the settings say otherwise.
LISTEN, PORT = "127.0.0.1", "9464"
# Listening on all addresses is listening on loopback, too.
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def address(settings: Path) -> str | None:
    """The URL to ask; None where the settings want no listener.

    As in the monitor, the environment wins over the file. A file that cannot be read is the monitor's to complain of.
    """
    try:
        http = tomllib.loads(settings.read_text()).get("http", {})
    except (OSError, ValueError):
        http = {}
    listen = os.environ.get("MONITOR_HTTP__LISTEN") or str(http.get("listen", LISTEN))
    port = os.environ.get("MONITOR_HTTP__PORT") or str(http.get("port", PORT))
    if port == "none":
        return None
    host = ANY.get(listen, listen)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/healthz"


def say(text: str, status: int) -> int:
    """Tell why, for `docker inspect`; the exit status."""
    sys.stdout.write(f"{text}\n")
    return status


def main() -> int:
    """Ask, and say what was answered."""
    url = address(Path(sys.argv[1] if len(sys.argv) > 1 else "/etc/monitor/monitor.toml"))
    if url is None:
        return say("nothing to ask: [http] port is none", 0)
    try:
        # Not by the proxy that the container may have for other things.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            body = answer.read(65536)
        status = 0
    except urllib.error.HTTPError as error:
        body, status = error.read(65536), 1
    except OSError as error:
        return say(f"{url}: {error}", 1)
    try:
        checks = json.loads(body)["checks"]
        return say("; ".join(f"{name}: {check['reason']}" for name, check in checks.items()), status)
    except (ValueError, KeyError, TypeError, AttributeError):
        return say(f"{url}: answers something else than health", 1)


if __name__ == "__main__":
    sys.exit(main())
