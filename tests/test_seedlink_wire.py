import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from pymseed import DataEncoding, MS3Record

from monitor.sources.seedlink_wire import (
    DataFrame,
    EndFrame,
    InfoFrame,
    Reply,
    ServerFrame,
    WireError,
    WireReader,
    parse_info,
    read_hello,
    read_reply,
)
from tests.seedlink_source import T0


def record(*, text: str | None = None, seed: int = 0) -> bytes:
    made = MS3Record(reclen=512)
    made.sourceid, made.starttime, made.formatversion = "FDSN:XX_ABC__H_H_Z", T0, 2
    if text is not None:
        made.samprate, made.encoding = 0, DataEncoding.TEXT
        return next(iter(made.generate(text, "t")))
    made.samprate, made.encoding = 100.0, DataEncoding.STEIM2
    samples = np.random.default_rng(seed).integers(-500, 500, 100).astype(np.int32)
    return next(iter(made.generate(samples, "i")))


def frame_4(payload: bytes, *, kind: bytes = b"2D", sequence: int = 1, station: bytes = b"XX_ABC") -> bytes:
    return struct.pack("<2s2sIQB", b"SE", kind, len(payload), sequence, len(station)) + station + payload


RECORDS = [record(seed=seed) for seed in range(4)]
STREAM_3 = b"".join(
    [
        b"SL000001" + RECORDS[0],
        b"SLINFO *" + record(text="<seedlink software='a'>"),
        b"SLINFO  " + record(text="</seedlink>"),
        b"SLFFFFFF" + RECORDS[1],
        b"SL000000" + RECORDS[2],
        b"ERROR\rAUTH log in first\r\n",
        b"END",
    ]
)
FRAMES_3: list[ServerFrame] = [
    DataFrame(1, None, RECORDS[0]),
    InfoFrame("<seedlink software='a'>", more=True),
    InfoFrame("</seedlink>"),
    DataFrame(0xFFFFFF, None, RECORDS[1]),
    DataFrame(0, None, RECORDS[2]),
    Reply(False, "AUTH", "log in first"),
    EndFrame(),
]
STREAM_4 = b"".join(
    [
        frame_4(RECORDS[0], sequence=2**40),
        frame_4(b'{"a": 1}', kind=b"JI", sequence=0, station=b""),
        frame_4(b"{}", kind=b"JE", sequence=0, station=b""),
        frame_4(b"what", kind=b"9D", sequence=7),
        frame_4(RECORDS[1], sequence=2**64 - 1, station=b"IU_A_B"),
        b"ERROR LIMIT too much\r\n",
        frame_4(b"", sequence=8),
    ]
)
FRAMES_4: list[ServerFrame] = [
    DataFrame(2**40, "XX.ABC", RECORDS[0]),
    InfoFrame('{"a": 1}'),
    InfoFrame("{}", is_error=True),
    DataFrame(7, "XX.ABC", b"what", "payload format '9'; accepted: '2' and '3'"),
    DataFrame(2**64 - 1, "IU.A_B", RECORDS[1]),
    Reply(False, "LIMIT", "too much"),
    DataFrame(8, "XX.ABC", b""),
]


def read(reader: WireReader, pieces: Iterator[bytes]) -> list[ServerFrame]:
    frames = []
    for piece in pieces:
        reader.feed(piece)
        while (frame := reader.next_frame()) is not None:
            frames.append(frame)
    return frames


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    """Pieces of a size; of random sizes for 0."""
    rng, at = random.Random(3), 0
    while at < len(stream):
        step = size or rng.randint(1, 700)
        yield stream[at : at + step]
        at += step


@pytest.mark.parametrize("size", [100_000, 1, 0, 7])
@pytest.mark.parametrize(("protocol", "stream", "frames"), [("3", STREAM_3, FRAMES_3), ("4", STREAM_4, FRAMES_4)])
def test_frames_in_any_pieces(protocol: str, stream: bytes, frames: list[ServerFrame], size: int) -> None:
    reader = WireReader()
    reader.protocol = "3" if protocol == "3" else "4"
    assert read(reader, cut(stream, size)) == frames
    assert reader.pending == 0


@pytest.mark.parametrize("size", [100_000, 1, 0])
def test_lines_then_frames(size: int) -> None:
    reader = WireReader()
    lines: list[str] = []
    frames: list[ServerFrame] = []
    for piece in cut(b"first\r\nsecond\r\n" + STREAM_3, size):
        reader.feed(piece)
        while len(lines) < 2 and (line := reader.next_line()) is not None:
            lines.append(line)
        while len(lines) == 2 and (frame := reader.next_frame()) is not None:
            frames.append(frame)
    assert lines == ["first", "second"]
    assert frames == FRAMES_3


@pytest.mark.parametrize("size", [100_000, 1, 0])
def test_version_3_finds_the_next_packet_after_something_else(size: int) -> None:
    stream = b"SL00000A" + RECORDS[0] + b"something else" + b"SL00000B" + RECORDS[1] + b"SL00000C" + RECORDS[2]
    frames = read(WireReader(), cut(stream, size))
    assert [frame.sequence for frame in frames if isinstance(frame, DataFrame)] == [10, None, 11, 12]
    assert isinstance(frames[1], DataFrame)
    assert frames[1].payload == b"something else"
    assert frames[1].fault is not None
    assert "skipped 14 bytes" in frames[1].fault


@pytest.mark.parametrize("size", [100_000, 1, 0])
def test_version_3_steps_over_a_payload_that_is_no_record(size: int) -> None:
    stream = b"SL00000A" + b"\x01" * 512 + b"SL00000B" + RECORDS[1]
    assert read(WireReader(), cut(stream, size)) == [
        DataFrame(10, None, b"\x01" * 512, "payload is not miniSEED"),
        DataFrame(11, None, RECORDS[1]),
    ]


@pytest.mark.parametrize(
    ("protocol", "stream", "message"),
    [
        ("3", b"no packets here, ever. " * 5000, "no other begins within"),
        ("4", b"HTTP/1.1 200 OK\r\n" + b" " * 20, "where a packet should begin"),
        ("4", struct.pack("<2s2sIQB", b"SE", b"2D", 2**31, 1, 6), "exceeds sanity limit"),
        ("4", struct.pack("<2s2sIQB", b"SE", b"2D", 512, 1, 200), "exceeds sanity limit"),
        ("4", struct.pack("<2s2sIQB", b"SE", b"\xff\xff", 512, 1, 6), "unusable packet header"),
        ("3", b"SLINFO  " + RECORDS[0], "unusable answer to INFO"),
    ],
)
def test_what_is_no_stream_of_packets(protocol: str, stream: bytes, message: str) -> None:
    reader = WireReader()
    reader.protocol = "3" if protocol == "3" else "4"
    with pytest.raises(WireError, match=message):
        read(reader, cut(stream, 4096))


def test_a_line_without_end() -> None:
    reader = WireReader()
    reader.feed(b"x" * 10_000)
    with pytest.raises(WireError, match="without the end of a line"):
        reader.next_line()


def test_a_line_that_is_no_text() -> None:
    reader = WireReader()
    reader.feed(b"\xff\xfe\r\n")
    with pytest.raises(WireError, match="not text"):
        reader.next_line()


@pytest.mark.parametrize(
    ("first", "protocol", "shares"),
    [
        ("SeedLink v4.0 (RingServer/4.5.3) :: SLPROTO:4.0 SLPROTO:3.1 CAP WS:13", "4", True),
        ("SeedLink v3.3 (2021.250) :: SLPROTO:3.1 CAP EXTREPLY NSWILDCARD BATCH", "3", False),
        ("SeedLink v3.1 (2012.123)", "3", False),
    ],
)
def test_hello(first: str, protocol: str, shares: bool) -> None:
    hello = read_hello(first, "GEOFON", "auto")
    assert (hello.protocol, hello.shares_sequence, hello.organization) == (protocol, shares, "GEOFON")


@pytest.mark.parametrize("wanted", ["3", "4"])
def test_hello_without_the_wanted_version(wanted: str) -> None:
    other = "4" if wanted == "3" else "3"
    with pytest.raises(WireError, match=f"does not support SeedLink v{wanted}"):
        read_hello(f"S :: SLPROTO:{other}.0", "x", "3" if wanted == "3" else "4")


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("OK", Reply(True, "", "")),
        ("ERROR", Reply(False, "", "")),
        ("ERROR AUTH no such user", Reply(False, "AUTH", "no such user")),
        ("ERROR\rUNAUTHORIZED go away", Reply(False, "UNAUTHORIZED", "go away")),
        ("ERROR\runknown station", Reply(False, "", "unknown station")),
    ],
)
def test_replies(line: str, reply: Reply) -> None:
    assert read_reply(line) == reply
    assert reply.is_auth == ("AUTH" in line)


def test_a_reply_that_is_none() -> None:
    with pytest.raises(WireError, match="expected OK or ERROR"):
        read_reply("Welcome")


def test_info() -> None:
    assert parse_info("<seedlink software='x'><station name='A'/></seedlink>", "3") == {
        "software": "x",
        "station": [{"name": "A"}],
    }
    assert parse_info('{"software": "x"}', "4") == {"software": "x"}


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("<a>", "3"),
        ("", "3"),
        ("<a>" * 99999 + "</a>" * 99999, "3"),
        ("{", "4"),
        ("[1]", "4"),
        ("[" * 99999, "4"),
        ("{" + '"a": {' * 99999, "4"),
    ],
)
def test_info_that_is_none(text: str, protocol: str) -> None:
    with pytest.raises(WireError, match="unusable answer to INFO"):
        parse_info(text, "3" if protocol == "3" else "4")
