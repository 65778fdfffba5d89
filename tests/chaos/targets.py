"""What reads bytes that others made: each target takes any bytes, and raises nothing but what is not documented."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from monitor import mqtt
from monitor.config import ConfigError, read_settings
from monitor.http_messages import BadRequestError, parse_head
from monitor.model import default_model_path
from monitor.modelfile import ModelError, read_metadata
from monitor.playback.packets import encode
from monitor.records import ChannelId, Segment
from monitor.reference import reference
from monitor.settings import MqttSettings
from monitor.sources.seedlink_payload import PayloadDecoder
from monitor.sources.seedlink_wire import (
    DataFrame,
    InfoFrame,
    Reply,
    WireError,
    WireReader,
    parse_info,
    read_hello,
    read_reply,
)
from monitor.state import STATE_FILE, StateError, read_state
from tests.chaos.talks import answering, listened, read_files, requested, requests, served

# What one packet can make: 16 MiB of the largest frame, four bytes a sample, Steim-2 at seven samples in four bytes.
_MOST_SAMPLES = 32 << 20


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: Takes any bytes.
        seeds: What is right, to begin with.
        promise: What comes of it.
    """

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    promise: str


@lru_cache(maxsize=1)
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="chaos-fuzz-"))


def _records() -> list[bytes]:
    samples = np.arange(300, dtype=np.int32) ** 2 % 1000
    segment = Segment(ChannelId("XX", "ABC", "00", "HHZ"), 1_700_000_000 * 10**9, 100.0, samples)
    return [packet.payload(form) for packet in encode(segment) for form in (2, 3)]


def _stream(protocol: Literal["3", "4"]) -> list[bytes]:
    if protocol == "3":
        return [b"".join(b"SL%06X" % n + r for n, r in enumerate(_records()[::2])), b"ERROR\r\n", b"END"]
    frames = []
    for number, record in enumerate(_records()):
        form = b"32"[number % 2 == 0]
        station = b"XX_ABC"
        head = b"SE" + bytes([form]) + b"D" + len(record).to_bytes(4, "little") + number.to_bytes(8, "little")
        frames.append(head + bytes([len(station)]) + station + record)
    info = b'{"software":"x","stations":[{"id":"XX_ABC"}]}'
    frames.append(b"SEJI" + len(info).to_bytes(4, "little") + bytes(8) + b"\0" + info)
    return [b"".join(frames), frames[0], frames[-1]]


def _wire(data: bytes, protocol: Literal["3", "4"]) -> None:
    reader, decoder = WireReader(), PayloadDecoder(lambda _: True)
    reader.protocol = protocol
    with contextlib.suppress(WireError):
        for first in range(0, len(data), 700):
            reader.feed(data[first : first + 700])
            while (frame := reader.next_frame()) is not None:
                match frame:
                    case DataFrame(fault=None):
                        _decoded(decoder, frame.payload)
                    case InfoFrame():
                        with contextlib.suppress(WireError):
                            parse_info(frame.text, protocol)
                    case Reply():
                        _ = frame.text, frame.is_auth
                    case _:
                        pass


def _decoded(decoder: PayloadDecoder, payload: bytes) -> None:
    made = decoder.decode(payload)
    if sum(segment.npts for segment in made.segments) > _MOST_SAMPLES:
        raise AssertionError("more samples than fit a packet")


def _payload(data: bytes) -> None:
    _decoded(PayloadDecoder(lambda _: True), data)


def _lines(data: bytes) -> None:
    text = data.decode("latin-1")
    first, _, second = text.partition("\n")
    with contextlib.suppress(WireError):
        read_hello(first, second, "auto")
    with contextlib.suppress(WireError):
        read_reply(first)
    for protocol in ("3", "4"):
        with contextlib.suppress(WireError):
            parse_info(text, protocol)


def _settings(data: bytes) -> None:
    path = _folder() / "monitor.toml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        read_settings(path, environment={})


def _state(data: bytes) -> None:
    (_folder() / STATE_FILE).write_bytes(data)
    with contextlib.suppress(StateError):
        read_state(_folder())


def _request(data: bytes) -> None:
    with contextlib.suppress(BadRequestError):
        parse_head(data)


def _model(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        read_metadata(data, source="model")


def _broker(data: bytes) -> None:
    async def talk() -> None:
        server = await answering(data, after_bytes=200)
        settings = MqttSettings(host="127.0.0.1", port=server.sockets[0].getsockname()[1], connect_timeout_s=2.0)
        will = mqtt.Will("monitor/v1/a/status", b"{}")
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            with contextlib.suppress(mqtt.LinkError):
                async with mqtt.connect(settings, client_id="a", will=will, stop=stop) as link:
                    await link.lost()
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(talk())


def _heard() -> list[bytes]:
    topic, payload = b"homeassistant/status", b"online"
    publish = len(topic).to_bytes(2) + topic + b"\0" + payload
    return [b"\x20\x03\0\0\0" + b"\x30" + bytes([len(publish)]) + publish, b"\x20\x03\0\x87\0", b"\x20\x02\0\0",
            b"\x20\x03\0\0\0\xe0\x02\x97\0"]  # fmt: skip


def _files() -> list[bytes]:
    records = _records()
    return [b"".join(records[::2]), b"".join(records[1::2]), records[0]]


def _commands() -> list[bytes]:
    of_4 = ("HELLO", "SLPROTO 4.0", "USERAGENT x/1", "AUTH USERPASS a b", "STATION XX_ABC", "SELECT 00_B_H_Z:3")
    of_3 = ("HELLO", "BATCH", "STATION ABC XX", "SELECT 00HHZ.D", "DATA 00000A 2024,01,01,00,00,00")
    return [
        "\r\n".join([*of_4, "DATA ALL", "END", ""]).encode(),
        "\r\n".join([*of_3, "TIME 2024,1,1,0,0,0", "END", ""]).encode(),
        b"INFO STREAMS\rINFO ID\rCAT\rBYE\r",
    ]


def _answers() -> list[bytes]:
    hello = b"SeedLink v4.0 (x) :: SLPROTO:4.0 SLPROTO:3.1\r\nsite\r\n"
    return [
        hello + b"OK\r\n" * 4 + _stream("4")[0],
        b"SeedLink v3.1 (x)\r\nsite\r\n" + b"OK\r\n" * 3 + _stream("3")[0],
        hello + b"OK\r\nERROR AUTH no\r\n",
    ]


TARGETS: dict[str, Target] = {
    "seedlink4": Target(lambda data: _wire(data, "4"), lambda: _stream("4"), "frames, or WireError"),
    "seedlink3": Target(lambda data: _wire(data, "3"), lambda: _stream("3"), "frames, or WireError"),
    "miniseed": Target(_payload, _records, "samples and faults in words"),
    "replies": Target(
        _lines,
        lambda: [
            b"SeedLink v4.0 (x) :: SLPROTO:4.0\nsite",
            b'{"a":[{}]}',
            b"<?xml version='1.0'?><a b='c'><d/></a>",
            b"<a b='c'><b/></a>",
            b"ERROR AUTH no",
        ],
        "an answer, or WireError",
    ),
    "settings": Target(_settings, lambda: [reference().encode(), b'[mqtt]\nhost = "a"\n'], "settings, or ConfigError"),
    "state": Target(
        _state,
        lambda: [b'{"schema":"monitor.state/1","step_s":0.1,"saved_ns":1,"instruments":[],"positions":[]}'],
        "a state, or StateError",
    ),
    "http": Target(
        _request, lambda: [b"GET /metrics?a=b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"], "a request, or an error 4xx"
    ),
    "model": Target(_model, lambda: [default_model_path().read_bytes()], "metadata, or ModelError"),
    "files": Target(read_files, _files, "samples, or what is wrong in words"),
    "commands": Target(served, _commands, "an answer in the protocol (the server that plays)"),
    "server": Target(listened, _answers, "a connection that ends, with its reason"),
    "page": Target(requested, requests, "an answer in HTTP; the page goes on"),
    "mqtt": Target(_broker, _heard, "a connection that ends, with LinkError"),
}
# These talk over a connection: some hundreds of inputs a second.
SLOW = ("server", "page", "mqtt")
