"""Answers to INFO: XML inside miniSEED log records for SeedLink 3, JSON for SeedLink 4."""

import json
import time
from fnmatch import fnmatchcase
from typing import Any
from xml.sax.saxutils import quoteattr

from pymseed import DataEncoding, MS3Record

from monitor.playback.packets import RECORD_BYTES, stream_id
from monitor.playback.protocol import SOFTWARE, Access, Info
from monitor.playback.ring import V3_SEQUENCES, StreamSpan
from monitor.timebase import format_time

_FORMATS = {
    "2": {"mimetype": "application/vnd.fdsn.mseed", "subformat": {"D": "data"}},
    "3": {"mimetype": "application/vnd.fdsn.mseed3", "subformat": {"D": "data"}},
    "J": {"mimetype": "application/json", "subformat": {"I": "info", "E": "error"}},
}
_FILTERS = {"native": "as recorded", "3": "miniSEED 3"}
_ITEMS = ("ID", "CAPABILITIES", "FORMATS", "STATIONS", "STREAMS", "CONNECTIONS")
# miniSEED 2 records of text: 48 bytes of header, a blockette 1000, then the text.
_TEXT_BYTES = RECORD_BYTES - 64


class Inventory:
    """What the answers are made of.

    Args:
        organization: As in HELLO.
        spans: What the ring holds.
        started_ns: When the server was started.
        native: Version of miniSEED that SeedLink 4 clients get without a filter.
        access: Who may have data.
        clients: Who is connected: address, port, and the packets sent.
    """

    def __init__(
        self,
        *,
        organization: str,
        spans: list[StreamSpan],
        started_ns: int,
        native: int,
        access: Access,
        clients: list[tuple[str, int, int]],
    ) -> None:
        self._organization, self._started_ns, self._native = organization, started_ns, native
        self._access, self._clients = access, clients
        self._stations: dict[tuple[str, str], list[StreamSpan]] = {}
        for span in spans:
            self._stations.setdefault((span.channel_id.network, span.channel_id.station), []).append(span)

    def frames_v3(self, info: Info) -> list[bytes]:
        """The answer in SeedLink 3: packets of 8 + 512 bytes."""
        known = info.item in _ITEMS and info.item != "FORMATS"
        text = self.xml(info.item)
        record = MS3Record(reclen=RECORD_BYTES, encoding=DataEncoding.TEXT)
        record.formatversion = 2
        record.sourceid = f"FDSN:XX_INFO__{'I_N_F' if known else 'E_R_R'}"
        record.starttime, record.samprate = time.time_ns(), 0
        data = text.encode()
        parts = [data[first : first + _TEXT_BYTES] for first in range(0, len(data), _TEXT_BYTES)]
        frames = []
        for number, part in enumerate(parts, 1):
            (packed,) = record.generate(part, "t")
            frames.append((b"SLINFO  " if number == len(parts) else b"SLINFO *") + packed)
        return frames

    def xml(self, item: str) -> str:
        """The document of an item, as SeisComP writes it."""
        head = _tag(
            "seedlink",
            software=SOFTWARE,
            organization=self._organization,
            started=_v3_time(self._started_ns),
        )
        body = ""
        if item == "CAPABILITIES":
            names = ("dialup", "multistation", "window-extraction", "info:id", "info:capabilities", "info:stations")
            body = "".join(
                _tag("capability", name=name) + "</capability>" for name in (*names, "info:streams", "info:connections")
            )
        elif item in {"STATIONS", "STREAMS"}:
            for (network, station), spans in self._stations.items():
                body += _tag(
                    "station",
                    name=station,
                    network=network,
                    description=f"Station {network}_{station}",
                    begin_seq=f"{min(span.first_sequence for span in spans) % V3_SEQUENCES:06X}",
                    end_seq=f"{max(span.last_sequence for span in spans) % V3_SEQUENCES:06X}",
                    stream_check="enabled",
                )
                body += "".join(_stream_xml(span) for span in spans) if item == "STREAMS" else ""
                body += "</station>"
        elif item == "CONNECTIONS":
            for host, port, sent in self._clients:
                body += _tag(
                    "station", name="CLIENT", network="SL", description="client", begin_seq="0", end_seq="0",
                    stream_check="enabled",
                )  # fmt: skip
                body += _tag("connection", host=host, port=str(port), txcount=str(sent)) + "</connection></station>"
        return f'<?xml version="1.0"?>\n{head}{body}</seedlink>\n'

    def json(self, info: Info) -> tuple[bytes, bool]:
        """The document of an item for SeedLink 4, and whether the item is known."""
        document: dict[str, Any] = {"software": SOFTWARE, "organization": self._organization}
        known = info.item in _ITEMS
        if not known:
            document["error"] = {"code": "ARGUMENTS", "message": f"accepted: {', '.join(_ITEMS)}"}
        if info.item == "CAPABILITIES":
            kinds = (("USERPASS", self._access.users), ("JWT", self._access.tokens))
            auth = [f"AUTH:{kind}" for kind, entries in kinds if entries]
            document["capability"] = ["SLPROTO:4.0", "SLPROTO:3.1", "TIME", "SEQWILDCARD", *auth]
        if info.item in {"FORMATS", "STATIONS", "STREAMS"}:
            document |= {"format": _FORMATS, "filter": _FILTERS}
        if info.item in {"STATIONS", "STREAMS"}:
            document["station"] = self._stations_json(info)
        if info.item == "CONNECTIONS":
            clients = [
                {
                    "host": host,
                    "ip_address": host,
                    "client_port": str(port),
                    "type": "SeedLink",
                    "transmit_packets": sent,
                }
                for host, port, sent in self._clients
            ]
            document["connections"] = {"client_count": len(clients), "client": clients}
        return json.dumps(document).encode(), known

    def _stations_json(self, info: Info) -> list[dict[str, Any]]:
        found = []
        pattern, _, formats = info.streams.partition(".")
        for (network, station), spans in self._stations.items():
            station_id = f"{network}_{station}"
            if not fnmatchcase(station_id, info.stations):
                continue
            streams = [
                {
                    "id": stream_id(span.channel_id),
                    "format": str(self._native),
                    "subformat": "D",
                    "start_time": format_time(span.start_ns),
                    "end_time": format_time(span.end_ns),
                }
                for span in spans
                if fnmatchcase(stream_id(span.channel_id), pattern) and fnmatchcase(f"{self._native}D", formats + "*")
            ]
            if not streams:
                continue
            found.append(
                {
                    "id": station_id,
                    "description": f"Station {station_id}",
                    "start_seq": min(span.first_sequence for span in spans),
                    "end_seq": max(span.last_sequence for span in spans) + 1,
                    **({"stream": streams} if info.item == "STREAMS" else {}),
                }
            )
        return found

    def catalogue(self) -> bytes:
        """The answer to CAT."""
        lines = [f"{network:<2} {station:<5} Station {network}_{station}" for network, station in self._stations]
        return "".join(f"{line}\r\n" for line in lines).encode() + b"END"


def _tag(element: str, /, **attributes: str) -> str:
    return f"<{element} {' '.join(f'{key}={quoteattr(value)}' for key, value in attributes.items())}>"


def _stream_xml(span: StreamSpan) -> str:
    return (
        _tag(
            "stream",
            location=span.channel_id.location,
            seedname=span.channel_id.channel,
            type="D",
            begin_time=_v3_time(span.start_ns),
            end_time=_v3_time(span.end_ns),
        )
        + "</stream>"
    )


def _v3_time(time_ns: int) -> str:
    """`2024/05/06 07:08:09.1234`, as SeisComP writes it."""
    return format_time(time_ns, digits=4).replace("-", "/").replace("T", " ").removesuffix("Z")
