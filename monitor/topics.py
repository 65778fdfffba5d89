"""The MQTT topics, as DESIGN.md promises them.

SEED codes are letters and digits, and stand in a topic as they are. What else a recorder may put into one (`/`, `+`
and `#` mean something in topics) is percent-encoded as in a URL, so that two codes never share a level, and `unescape`
gives the code back. An empty code is `--`.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

_EMPTY = "--"


def escape(code: str) -> str:
    """Make one topic level of a code.

    Args:
        code: From outside; any text, also none.

    Returns:
        ASCII letters, digits and `-._~%`: `UH1`, `A%2FB`, `--`. MQTT 5.0 section 4.7 takes it as one plain level.
    """
    if code == "":
        return _EMPTY
    # A code that is written as the empty one is, must not be mistaken for it.
    return "%2D-" if code == _EMPTY else quote(code, safe="", errors="surrogatepass")


def unescape(level: str) -> str:
    """Undo `escape`."""
    return "" if level == _EMPTY else unquote(level, errors="surrogatepass")


def split_station(station_id: str) -> tuple[str, str]:
    """Split `NET.STA` at its first dot; the network is empty where there is none."""
    network, dot, station = station_id.partition(".")
    return (network, station) if dot else ("", network)


def default_client_id(host_name: str) -> str:
    """Name a monitor after its computer: `monitor-` and the host's name, without what topics give a meaning to."""
    return "monitor-" + (re.sub(r"[^A-Za-z0-9._-]", "-", host_name) or "unnamed")


@dataclass(frozen=True, slots=True)
class Topics:
    """Where everything is published.

    Attributes:
        root: First levels of all topics of ours, such as `monitor/v1`.
        client_id: Name of this monitor.
        home_assistant_prefix: First levels of what Home Assistant listens to.
    """

    root: str
    client_id: str
    home_assistant_prefix: str = "homeassistant"

    @property
    def status(self) -> str:
        """`<root>/<client>/status`: whether this monitor runs; retained."""
        return f"{self.root}/{escape(self.client_id)}/status"

    def detection(self, station_id: str) -> str:
        """`<root>/<NET>/<STA>/detection`: `monitor.detection/1`."""
        return self._of_station(station_id, "detection")

    def quality(self, station_id: str) -> str:
        """`<root>/<NET>/<STA>/quality`: `monitor.station_quality/1`; retained."""
        return self._of_station(station_id, "quality")

    def pick(self, station_id: str) -> str:
        """`<root>/<NET>/<STA>/pick`: USGS Picks."""
        return self._of_station(station_id, "pick")

    def _of_station(self, station_id: str, what: str) -> str:
        network, station = split_station(station_id)
        return f"{self.root}/{escape(network)}/{escape(station)}/{what}"

    @property
    def home_assistant_status(self) -> str:
        """Where Home Assistant says that it has been started (its birth message)."""
        return f"{self.home_assistant_prefix}/status"

    def device_id(self, station_id: str) -> str:
        """Name a station as this monitor sees it, in the letters that Home Assistant allows: `monitor-pi__BW__UH1`."""
        return "__".join(map(word, (self.client_id, *split_station(station_id))))

    def discovery(self, station_id: str) -> str:
        """Where a station is announced to Home Assistant; retained."""
        return f"{self.home_assistant_prefix}/device/{self.device_id(station_id)}/config"


def word(text: str) -> str:
    """Write a text in letters, digits and `-` as far as it has them, the rest as `_` and two hexadecimal digits.

    `__` cannot come from within such a word: it may stand between two.
    """
    data = text.encode("utf-8", "surrogatepass")
    return "".join(chr(b) if chr(b).isascii() and (chr(b).isalnum() or b == ord("-")) else f"_{b:02x}" for b in data)
