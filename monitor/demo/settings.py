"""The settings file that the demo gives to the daemon: addresses, and nothing that a station could not have."""

import json
import math

MQTT_ROOT = "monitor/v1"
CLIENT = "monitor-demo"
# Between the sample and the packet, and for a slow start.
_LATENESS_MARGIN_S = 300


def settings_text(
    *, seedlink: int, mqtt: int, metrics: int, page: int, listen: str, span_s: float, pictures: bool
) -> str:
    """Write the settings.

    Args:
        seedlink: Port on 127.0.0.1, as the others.
        mqtt: The broker's.
        metrics: To listen on.
        page: To listen on.
        listen: Address of the page.
        span_s: Length of the recording, seconds: so old are its first packets when it is played in no time.
        pictures: Let the daemon draw each event.

    Returns:
        TOML.
    """
    oldest_s = math.ceil(span_s) + _LATENESS_MARGIN_S
    return f"""\
# What `monitor demo` ran `monitor run` with.

[[seedlink]]
host = "127.0.0.1"
port = {seedlink}
stations = ["*.*"]
backlog_s = {oldest_s}
backoff_max_s = 2

[live]
# The recording is played faster than it happened and moved in time so that it ends now: its first packets are as old
# as it is long. They are to count as live.
lateness_s = {oldest_s}

[state]
directory = "state"

[mqtt]
host = "127.0.0.1"
port = {mqtt}
version = "3.1.1"  # all that the demo's broker speaks
client_id = "{CLIENT}"
root = "{MQTT_ROOT}"

[http]
port = {metrics}

[page]
listen = {json.dumps(listen)}
port = {page}

[archive]
pictures = {"true" if pictures else "false"}

[log]
format = "text"
"""
