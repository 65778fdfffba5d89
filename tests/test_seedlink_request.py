import pytest

from monitor.records import ChannelId
from monitor.sources.seedlink_request import Protocol, Selection, Start, data_command, matches, station_command
from monitor.timebase import parse_time

T = parse_time("2024-05-06T07:08:09.123456789Z")


@pytest.mark.parametrize(
    ("start", "three", "four"),
    [
        (Start(), "DATA", "DATA"),
        (Start(26, None), "DATA 00001A", "DATA 26"),
        (Start(26, T), "DATA 00001A 2024,5,6,7,8,9", "DATA 26 2024-05-06T07:08:09.123456Z"),
        (Start(None, T), "TIME 2024,5,6,7,8,9", "DATA ALL 2024-05-06T07:08:09.123456Z"),
    ],
)
def test_where_to_begin(start: Start, three: str, four: str) -> None:
    assert data_command(start, "3") == three
    assert data_command(start, "4") == four


def test_stations() -> None:
    assert station_command("XX.ABC", "3") == "STATION ABC XX"
    assert station_command("X*.A?", "4") == "STATION X*_A?"


@pytest.mark.parametrize(
    ("pattern", "three", "four"),
    [
        ("XX.ABC", (), ()),
        ("XX.ABC.*.*", (), ()),
        ("XX.ABC.*.???", (), ()),
        ("XX.ABC.*.HH?", ("HH?",), ("*_H_H_?",)),
        ("XX.ABC.*.HH*", ("HH?",), ("*_H_H_?",)),
        ("XX.ABC.*.*Z", ("??Z",), ("*_?_?_Z",)),
        ("XX.ABC.*.H*Z", ("H?Z",), ("*_H_?_Z",)),
        ("XX.ABC..EHZ", ("--EHZ",), ("_E_H_Z",)),
        ("XX.ABC.--.EHZ", ("--EHZ",), ("_E_H_Z",)),
        ("XX.ABC.00.*", ("00???",), ("00_?_?_?",)),
        ("XX.ABC.1*.BHZ", ("1?BHZ",), ("1*_B_H_Z",)),
        ("XX.ABC.?0.BHZ", ("?0BHZ",), ("?0_B_H_Z",)),
        ("XX.ABC.*.*H*", (), ()),  # no selector says that: everything comes, and is looked at again
    ],
)
def test_selectors(pattern: str, three: tuple[str, ...], four: tuple[str, ...]) -> None:
    selection = Selection([pattern])
    protocols: list[tuple[Protocol, tuple[str, ...]]] = [("3", three), ("4", four)]
    for protocol, expected in protocols:
        assert selection.selectors("XX.ABC", protocol) == expected


def test_patterns_of_one_station_are_asked_for_together() -> None:
    selection = Selection(["XX.A*", "XX.ABC..HHZ", "XX.ABC..HHN", "XX.AB?", "XX.ABC..HHZ"])
    assert selection.stations == ("XX.ABC", "XX.AB?", "XX.A*")
    assert selection.selectors("XX.ABC", "4") == ("_H_H_Z", "_H_H_N")
    assert Selection(["XX.ABC..HHZ", "XX.ABC"]).selectors("XX.ABC", "4") == ()


@pytest.mark.parametrize(
    ("pattern", "wanted", "unwanted"),
    [
        ("XX.ABC", "XX.ABC..HHZ XX.ABC.00.ENE XX.ABC.10.EH1", "XX.ABD..HHZ YX.ABC..HHZ XX.ABC..LDO XX.ABC..LOG"),
        ("*.AB?.00.HH[ZN]", "", "XX.ABC.00.HHZ XX.ABC.00.HHN"),
        ("*.AB?.00.?HZ", "XX.ABC.00.HHZ YY.ABD.00.EHZ", "XX.ABC..HHZ XX.ABC.00.HHN XX.ABCD.00.HHZ"),
        ("XX.ABC.--.HH?", "XX.ABC..HHZ", "XX.ABC.00.HHZ"),
    ],
)
def test_what_is_wanted(pattern: str, wanted: str, unwanted: str) -> None:
    selection = Selection([pattern])
    for name, expected in [(n, True) for n in wanted.split()] + [(n, False) for n in unwanted.split()]:
        assert selection.wants(ChannelId(*name.split("."))) == expected, name


def test_nothing_but_star_and_question_mark_is_special() -> None:
    assert matches("A.B", "A.B")
    assert not matches("AxB", "A.B")
    assert not matches("A", "[A]")
    assert matches("", "*")
    assert not matches("", "?")


def test_what_is_named_without_wildcards() -> None:
    selection = Selection(["XX.A", "XX.B.00.HHZ", "XX.B.--.HH?", "XX.C*.00.HHZ", "XX.D.00.LOG"])
    assert selection.named_stations == ("XX.A", "XX.B", "XX.D")
    assert selection.named_channels == (ChannelId("XX", "B", "00", "HHZ"),)
