"""Topics: the contract's, and codes that would be wildcards."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.topics import Topics, default_client_id, escape, split_station, unescape, word

TOPICS = Topics("monitor/v1", "monitor-pi")


def test_the_contract() -> None:
    assert TOPICS.status == "monitor/v1/monitor-pi/status"
    assert TOPICS.detection("BW.UH1") == "monitor/v1/BW/UH1/detection"
    assert TOPICS.quality("BW.UH1") == "monitor/v1/BW/UH1/quality"
    assert TOPICS.pick("BW.UH1") == "monitor/v1/BW/UH1/pick"
    assert TOPICS.discovery("BW.UH1") == "homeassistant/device/monitor-pi__BW__UH1/config"
    assert TOPICS.home_assistant_status == "homeassistant/status"
    assert Topics("a/b", "c", "ha").discovery("X.Y") == "ha/device/c__X__Y/config"


@pytest.mark.parametrize(
    ("code", "level"),
    [
        *(("UH1", "UH1"), ("", "--"), ("--", "%2D-"), ("A/B", "A%2FB"), ("#", "%23"), ("+", "%2B"), ("$SYS", "%24SYS")),
        *(("É", "%C3%89"), ("a b", "a%20b"), ("%2F", "%252F"), ("\0", "%00"), ("\ud800", "%ED%A0%80")),
    ],
)
def test_escape(code: str, level: str) -> None:
    assert escape(code) == level
    assert unescape(level) == code


@given(st.text())
@example("--")
@example("%2D-")
def test_escape_is_reversible_and_harmless(code: str) -> None:
    level = escape(code)
    assert unescape(level) == code
    assert re.fullmatch(r"[A-Za-z0-9._~%-]+", level)


@given(*[st.tuples(st.text(max_size=3), st.text(max_size=3))] * 2)
def test_different_stations_have_different_topics(one: tuple[str, str], other: tuple[str, str]) -> None:
    ids = [".".join(codes) for codes in (one, other)]
    same = split_station(ids[0]) == split_station(ids[1])
    for topics in ([TOPICS.detection(i) for i in ids], [TOPICS.discovery(i) for i in ids]):
        assert (topics[0] == topics[1]) == same
        # What Home Assistant's discovery accepts.
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", TOPICS.discovery(ids[0]))


@pytest.mark.parametrize(("text", "expected"), [("UH1", "UH1"), ("a_b", "a_5fb"), ("é", "_c3_a9"), ("x.y", "x_2ey")])
def test_word(text: str, expected: str) -> None:
    assert word(text) == expected


@pytest.mark.parametrize(
    ("station", "codes"), [("BW.UH1", ("BW", "UH1")), ("UH1", ("", "UH1")), (".A", ("", "A")), ("A.B.C", ("A", "B.C"))]
)
def test_split_station(station: str, codes: tuple[str, str]) -> None:
    assert split_station(station) == codes


@pytest.mark.parametrize(
    ("host", "expected"), [("pi", "monitor-pi"), ("a/b#c.d", "monitor-a-b-c.d"), ("", "monitor-unnamed")]
)
def test_default_client_id(host: str, expected: str) -> None:
    assert default_client_id(host) == expected
