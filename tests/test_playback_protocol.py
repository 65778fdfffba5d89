"""The server's side of SeedLink, without sockets."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.playback.protocol import (
    MAX_COMMAND_BYTES,
    MAX_STATIONS,
    Access,
    Catalogue,
    Close,
    Event,
    Info,
    Reply,
    ServerProtocol,
    Start,
)
from monitor.playback.ring import Ring
from monitor.playback.selection import (
    Request,
    Selection,
    Selector,
    parse_seedlink_time,
    parse_selector,
)
from monitor.records import ChannelId
from monitor.timebase import parse_time

OK = Reply(b"OK\r\n")
V3_HELLO = b"SLPROTO:4.0 SLPROTO:3.1 CAP EXTREPLY NSWILDCARD BATCH\r\nhere\r\n"
BHZ = Selector("*_B_H_Z", "", excluded=False, version=None, converts=False)
NOON = parse_time("2024-05-06T12:00:00Z")
ONE = parse_time("2024-05-06T13:00:00Z")


def protocol(**options: object) -> ServerProtocol:
    return ServerProtocol(organization="here", **options)  # type: ignore[arg-type]


def errors(events: list[Event]) -> list[bytes]:
    return [event.data.split(b" ")[1] for event in events if isinstance(event, Reply) and event.data[:5] == b"ERROR"]


def request(events: list[Event]) -> Request:
    (start,) = [event for event in events if isinstance(event, Start)]
    return start.request


DIALOGUES: dict[str, tuple[bytes, list[Event]]] = {
    "v3 uni-station": (
        b"SELECT BHZ\rDATA\r",
        [OK, Start(Request(3, False, (Selection("*", (BHZ,)),)))],
    ),
    "v3 uni-station resumes": (b"DATA 0000FF\r", [Start(Request(3, False, (Selection("*", sequence=255),)))]),
    "v3 as ObsPy writes it": (
        b"STATION  UH1 BW\rSELECT BHZ\rDATA 0x1a\rEND\r",
        [OK, OK, OK, Start(Request(3, False, (Selection("BW_UH1", (BHZ,), sequence=26),)))],
    ),
    "v3 multi-station": (
        b"STATION UH1 BW\r\nSELECT BHZ\r\nDATA 10 2024,5,6,12,0,0\r\n"
        b"STATION UH2\r\nTIME 2024,5,6,12,0,0 2024,5,6,13\r\nEND\r\n",
        [
            *[OK] * 5,
            Start(
                Request(
                    3,
                    False,
                    (
                        Selection("BW_UH1", (BHZ,), sequence=16, start_ns=NOON),
                        Selection("*_UH2", start_ns=NOON, end_ns=ONE),
                    ),
                )
            ),
        ],
    ),
    "v3 dial-up": (
        b"STATION UH1 BW\nFETCH 1\nEND\n",
        [OK, OK, Start(Request(3, True, (Selection("BW_UH1", sequence=1),)))],
    ),
    "v3 batch": (
        b"BATCH\rSTATION UH1 BW\rDATA\rEND\r",
        [OK, Start(Request(3, False, (Selection("BW_UH1"),)))],
    ),
    "v3 extended replies": (
        b"CAPABILITIES EXTREPLY\rSTATION BW/UH1\rFETCHING\rSLPROTO 5.0\r",
        [
            OK,
            Reply(b"ERROR\rARGUMENTS not a station: illegal characters in the station\r\n"),
            Reply(b"ERROR\rUNSUPPORTED unknown command: FETCHING\r\n"),
            Reply(b"ERROR\rUNSUPPORTED unsupported protocol version\r\n"),
        ],
    ),
    "v3 has no AUTH": (b"AUTH USERPASS a b\r", [Reply(b"ERROR\r\n")]),
    "v3 INFO and CAT": (
        b"INFO ID\rCAT\rDATA\rINFO STREAMS\rHELLO\rBYE\rHELLO\r",
        [Info(3, "ID"), Catalogue(), Start(Request(3, False, (Selection("*"),))), Info(3, "STREAMS"), Close()],
    ),
    "v3 SELECT without a pattern takes all again": (
        b"SELECT BHZ\rSELECT\rDATA\r",
        [OK, OK, Start(Request(3, False, (Selection("*"),)))],
    ),
    "v4": (
        b"SLPROTO 4.0\r\nUSERAGENT a/1 b/2\r\nSTATION BW_UH?\rSELECT *_B_H_Z !00_*.3:x\rSELECT *_B_H_Z\rDATA 7\r"
        b"STATION *\rDATA ALL 2024-05-06T12:00:00Z 2024-05-06T13:00:00Z\rINFO STREAMS BW_* *_Z\r\nEND\r\n",
        [
            *[OK] * 3,
            Reply(b"ERROR ARGUMENTS a filter cannot be used with !\r\n"),
            *[OK] * 4,
            Info(4, "STREAMS", "BW_*", "*_Z"),
            Start(
                Request(
                    4,
                    False,
                    (
                        Selection("BW_UH?", (BHZ,), sequence=7),
                        Selection("*", everything=True, start_ns=NOON, end_ns=ONE),
                    ),
                    "a/1 b/2",
                )
            ),
        ],
    ),
    "v4 dial-up": (
        b"SLPROTO 4.0\r\nSTATION *\rENDFETCH\r\nSTATION *\r\n",
        [OK, OK, Start(Request(4, True, (Selection("*"),)))],
    ),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue_whole_and_byte_by_byte(name: str) -> None:
    sent, expected = DIALOGUES[name]
    assert protocol().receive(sent) == expected
    server = protocol()
    assert [event for byte in sent for event in server.receive(bytes([byte]))] == expected


@given(name=st.sampled_from(sorted(DIALOGUES)), seed=st.integers(0, 1 << 32))
def test_dialogue_in_random_chunks(name: str, seed: int) -> None:
    rng = random.Random(seed)
    sent, expected = DIALOGUES[name]
    server, events, first = protocol(), [], 0
    while first < len(sent):
        size = rng.randint(1, 40)
        events += server.receive(sent[first : first + size])
        first += size
    assert events == expected


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_comes_is_answered(first: bytes, second: bytes) -> None:
    server = protocol()
    for data in (first, b"\rSLPROTO 4.0\rSTATION *\r", second, b"\rEND\r"):
        for event in server.receive(data):
            if isinstance(event, Reply):
                assert event.data.endswith(b"\r\n")


def test_hello_names_versions_and_place() -> None:
    (reply,) = protocol().receive(b"hello\r\n")
    assert isinstance(reply, Reply)
    assert reply.data.startswith(b"SeedLink v4.0 (seismic-monitor/")
    assert reply.data.endswith(V3_HELLO)
    assert len(reply.data.splitlines()[0]) <= 98  # what clients of libslink 1 take
    (old,) = protocol(versions=(3,)).receive(b"HELLO\r")
    assert isinstance(old, Reply)
    assert old.data.startswith(b"SeedLink v3.1 (")
    assert b"4.0" not in old.data


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"STATION *\r", b"UNEXPECTED"),
        (b"SLPROTO 4.0\rSLPROTO 4.0\r", b"UNEXPECTED"),
        (b"SLPROTO 4.0\rSELECT *\r", b"UNEXPECTED"),
        (b"SLPROTO 4.0\rDATA\r", b"UNEXPECTED"),
        (b"SLPROTO 4.0\rEND\r", b"UNEXPECTED"),
        (b"SLPROTO 4.0\rBATCH\r", b"UNSUPPORTED"),
        (b"SLPROTO 4.0\rTIME 2024,1,1\r", b"UNSUPPORTED"),
        (b"SLPROTO 4.1\r", b"UNSUPPORTED"),
        (b"SLPROTO 4.0\rAUTH USERPASS a b\r", b"UNSUPPORTED"),
        (b"SLPROTO 4.0\rNONSENSE\r", b"UNSUPPORTED"),
        (b"SLPROTO 4.0\rSTATION A B\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION [A]\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION XX_NO\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION *\rSELECT\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION *\rSELECT *:mp3\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION *\rSELECT [A]\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION *\rDATA x\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION *\rDATA -1\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION *\rDATA 1 yesterday\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\rSTATION *\rDATA 1 2024-01-01 2024-01-02 3\r", b"ARGUMENTS"),
        (b"SLPROTO 4.0\r" + b"".join(b"STATION A_%d\r" % n for n in range(MAX_STATIONS + 1)), b"LIMIT"),
        (b"SLPROTO 4.0\rSTATION *\rSELECT " + b"*_Z " * 101 + b"\r", b"LIMIT"),
    ],
)
def test_v4_errors_have_the_code_of_the_specification(sent: bytes, code: bytes) -> None:
    assert errors(protocol(versions=(4,), refused=("XX_N?",)).receive(sent)) == [code]


def test_a_command_that_never_ends_closes_the_connection() -> None:
    events = protocol().receive(b"A" * (MAX_COMMAND_BYTES + 1))
    assert events == [Reply(b"ERROR\r\n"), Close()]
    token = b"x" * 3000  # longer than the 255 bytes of the specification
    server = protocol(access=Access(tokens=(token.decode(),)))
    assert server.receive(b"SLPROTO 4.0\rAUTH JWT " + token + b"\r") == [OK, OK]


def test_refused_station_takes_its_select_and_data_with_it() -> None:
    server = protocol(refused=("XX_NO",))
    events = server.receive(b"STATION YES XX\rDATA 1\rSTATION NO XX\rSELECT BHZ\rDATA 2\rEND\r")
    assert events[:2] == [OK, OK]
    assert events[2:5] == [Reply(b"ERROR\r\n")] * 3
    assert request(events).selections == (Selection("XX_YES", sequence=1),)


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"AUTH USERPASS me secret\rSTATION *\rDATA\rEND\r", "OK OK OK start"),
        (b"AUTH JWT abc\rSTATION *\rDATA\rEND\r", "OK OK OK start"),
        (b"AUTH USERPASS me wrong\rSTATION *\rDATA\rEND\r", "AUTH OK OK AUTH close"),
        (b"AUTH JWT secret\r", "AUTH"),
        (b"AUTH USERPASS abc\r", "ARGUMENTS"),
        (b"AUTH KERBEROS abc\r", "UNSUPPORTED"),
        (b"STATION *\rDATA\rEND\r", "OK OK AUTH close"),
    ],
)
def test_authentication(sent: bytes, answers: str) -> None:
    server = protocol(access=Access(users=(("me", "secret"),), tokens=("abc",)))
    assert server.receive(b"SLPROTO 4.0\r") == [OK]

    def word(event: Event) -> str:
        if isinstance(event, Reply):
            return event.data.split()[0].decode() if event == OK else event.data.split()[1].decode()
        return type(event).__name__.lower()

    assert " ".join(word(event) for event in server.receive(sent)) == answers


def test_unanswered_commands_take_effect_in_silence() -> None:
    server = protocol(unanswered=("HELLO", "info"))
    assert server.receive(b"HELLO\rINFO ID\rSTATION UH1 BW\r") == [OK]


@pytest.mark.parametrize(
    ("text", "version", "channel", "matches"),
    [
        ("BHZ", 3, "XX.A..BHZ", True),
        ("BHZ", 3, "XX.A.00.BHZ", True),
        ("B?Z", 3, "XX.A.00.BHZ", True),
        ("--BHZ", 3, "XX.A.00.BHZ", False),
        ("--BHZ", 3, "XX.A..BHZ", True),
        ("00BHZ", 3, "XX.A..BHZ", False),
        ("00BHZ.D", 3, "XX.A.00.BHZ", True),
        ("BHZ.E", 3, "XX.A..BHZ", False),
        ("_B_H_Z", 4, "XX.A..BHZ", True),
        ("_B_H_Z", 4, "XX.A.00.BHZ", False),
        ("*_B*", 4, "XX.A.00.BHZ", True),
        ("_*Z", 4, "XX.A.00.BHZ", False),  # the pattern is anchored at both ends
        ("*.2D", 4, "XX.A..BHZ", True),
        ("*.2", 4, "XX.A..BHZ", True),
        ("*.3", 4, "XX.A..BHZ", False),
    ],
)
def test_selectors(text: str, version: int, channel: str, matches: bool) -> None:
    channel_id = ChannelId(*channel.split("."))
    selection = Selection("*", (parse_selector(text, version=version),))
    assert (selection.version_for(channel_id, 2) is not None) == matches


def test_excluding_and_converting() -> None:
    def version(channel: str, *texts: str) -> int | None:
        selectors = tuple(parse_selector(text, version=4) for text in texts)
        return Selection("*", selectors).version_for(ChannelId("XX", "A", "", channel), 2)

    assert version("BHZ") == 2
    assert version("BHZ", "!*_B_H_?") is None
    assert version("HHZ", "!*_B_H_?") == 2
    assert version("BHZ", "*_B_H_?", "!*_Z") is None
    assert version("BHN", "*_B_H_?", "!*_Z") == 2
    assert version("BHZ", "*:3") == 3
    assert version("BHZ", "*_B_*:native", "*:3") == 2
    assert version("HHZ", "*_B_*:native", "*:3") == 3


@pytest.mark.parametrize("text", ["BH", "BHZZ", "[HZ", "!!BHZ"])
def test_what_is_no_selector_of_version_3(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        parse_selector(text, version=3)


def test_times() -> None:
    assert parse_seedlink_time("2024,5,6,12,0,0") == NOON
    assert parse_seedlink_time("2024,05,06,12") == NOON
    assert parse_seedlink_time("2024,5,6,12,0,0.25") == NOON + 250_000_000
    assert parse_seedlink_time("2024-05-06T12:00:00Z") == NOON
    for text in ("2024,13,1", "2024,x", "today", "1,2,3,4,5,6,7,8", ""):
        with pytest.raises(ValueError, match=r"."):
            parse_seedlink_time(text)


def test_sequence_numbers_of_an_empty_ring() -> None:
    ring = Ring(1000, first_sequence=5)
    assert ring.index_of(5, version=4) == 0
    assert ring.index_of(6, version=4) is None
    assert ring.index_of(5, version=3) == 0
    assert ring.index_of(4, version=3) is None
