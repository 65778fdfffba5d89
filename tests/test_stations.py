"""Which channels belong together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.records import ChannelId
from monitor.stations import group_channels, measures_ground_motion


def ids(text: str, *, network: str = "XX", station: str = "ABC", location: str = "") -> list[ChannelId]:
    return [ChannelId(network, station, location, code) for code in text.split()]


def codes(text: str) -> dict[str, list[str | None]]:
    return {
        group.band_instrument: [None if channel is None else channel.channel for channel in group.channels]
        for group in group_channels(ids(text))
    }


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        ("HHE HHN HHZ", {"HH": ["HHZ", "HHN", "HHE"]}),
        ("EHZ", {"EH": ["EHZ", None, None]}),
        ("BH1 BH2 BHZ", {"BH": ["BHZ", "BH1", "BH2"]}),
        ("BH1 BH2 BH3", {"BH": ["BH3", "BH1", "BH2"]}),
        ("HNX HNY HNZ", {"HN": ["HNZ", "HNY", "HNX"]}),
        ("HHZ HNZ", {"HH": ["HHZ", None, None], "HN": ["HNZ", None, None]}),
        (
            "HHZ HHN HHE HH1 HH2",
            {"HH": ["HHZ", "HHN", "HHE"], "HH1": [None, "HH1", None], "HH2": [None, None, "HH2"]},
        ),
        ("HHZ HH3", {"HH": ["HHZ", None, None], "HH3": ["HH3", None, None]}),
        ("HHU HHV", {"HHU": ["HHU", None, None], "HHV": ["HHV", None, None]}),
        ("geophone", {"geophone": ["geophone", None, None]}),
        ("", {}),
    ],
)
def test_components(channels: str, groups: dict[str, list[str | None]]) -> None:
    assert codes(channels) == groups


def test_networks_stations_and_locations_are_apart() -> None:
    channels = [
        *ids("HHZ HHN", location="00"),
        *ids("HHZ", location="10"),
        *ids("HHZ", station="ABD"),
        *ids("HHZ", network="XY"),
    ]
    groups = group_channels(channels)
    assert [group.name for group in groups] == ["XX.ABC.00.HH", "XX.ABC.10.HH", "XX.ABD..HH", "XY.ABC..HH"]
    assert groups[0].station_id == "XX.ABC"
    assert groups[0].seed_ids == ["XX.ABC.00.HHZ", "XX.ABC.00.HHN"]


@settings(max_examples=80)
@given(
    channels=st.lists(
        st.builds(
            ChannelId,
            st.sampled_from(["XX", "YY"]),
            st.sampled_from(["A", "B"]),
            st.sampled_from(["", "00"]),
            st.one_of(
                st.builds(
                    "".join, st.tuples(st.sampled_from("HB"), st.sampled_from("HN"), st.sampled_from("ZNE123XYU"))
                ),
                st.sampled_from(["", "B", "BH", "BHZZ"]),
            ),
        ),
        max_size=30,
    ),
    data=st.data(),
)
def test_each_channel_is_in_one_group_whatever_the_order(channels: list[ChannelId], data: st.DataObject) -> None:
    groups = group_channels(channels)
    found = [channel for group in groups for channel in group.channels if channel is not None]
    assert sorted(found) == sorted(set(channels))
    assert group_channels(data.draw(st.permutations(channels))) == groups
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        members = [channel for channel in group.channels if channel is not None]
        assert {channel[:3] for channel in members} == {(group.network, group.station, group.location)}


@pytest.mark.parametrize("code", ["HHZ", "ENE", "SHN", "EP1", "BL2", "HGZ", "", "Z", "geophone", "BHZZ"])
def test_ground_motion(code: str) -> None:
    assert measures_ground_motion(ids(code)[0] if code else ChannelId("XX", "ABC", "", ""))


@pytest.mark.parametrize("code", ["LOG", "ACE", "BDF", "LKO", "VMZ", "HHU", "BHT", "LCQ"])
def test_no_ground_motion(code: str) -> None:
    assert not measures_ground_motion(ids(code)[0])
