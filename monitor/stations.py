"""Which channels belong together: the components of one instrument at one station."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from monitor.records import ChannelId

# Orientation code -> row of the model's input. 1 and 2 are horizontals that do not point north and east, 3 a third
# axis; X, Y, Z are the axes of a sensor that is aligned with a building (SEED manual, appendix A).
_COMPONENT = {"Z": 0, "3": 0, "N": 1, "1": 1, "Y": 1, "E": 2, "2": 2, "X": 2}
# High-gain and low-gain seismometer, accelerometer, geophone, and G, the old code for an accelerometer.
_GROUND_MOTION = frozenset("HLNPG")

MIN_SAMPLING_RATE = 20.0
MAX_SAMPLING_RATE = 1000.0


class StationGroup(NamedTuple):
    """One instrument: its channels by component, Z N E; None for one that it lacks."""

    network: str
    station: str
    location: str
    band_instrument: str
    channels: tuple[ChannelId | None, ChannelId | None, ChannelId | None]

    @property
    def station_id(self) -> str:
        """`NET.STA`."""
        return f"{self.network}.{self.station}"

    @property
    def name(self) -> str:
        """`NET.STA.LOC.BI`, for example `BW.UH3..SH`."""
        return f"{self.station_id}.{self.location}.{self.band_instrument}"

    @property
    def seed_ids(self) -> list[str]:
        """The channels that it has, Z first."""
        return [channel.seed_id for channel in self.channels if channel is not None]


def measures_ground_motion(channel: ChannelId) -> bool:
    """Tell whether a channel is a seismometer's, geophone's or accelerometer's, by its SEED code.

    Codes that are not three letters long, as other formats may give, are taken for ground motion.
    """
    code = channel.channel
    return len(code) != 3 or (code[1] in _GROUND_MOTION and code[2] in _COMPONENT)


def group_channels(channels: Iterable[ChannelId]) -> list[StationGroup]:
    """Group channels into instruments, in order of their names.

    A second channel for the same component (both N and 1, say) becomes an instrument of its own, as does each channel
    whose code does not tell its orientation.
    """
    groups: dict[tuple[str, str, str, str], list[ChannelId | None]] = {}
    for channel in sorted(set(channels), key=_order):
        code = channel.channel
        known = len(code) == 3 and code[2] in _COMPONENT
        row = _COMPONENT[code[2]] if known else 0
        key = (*channel[:3], code[:2] if known else code)
        if key in groups and groups[key][row] is not None:
            key = (*channel[:3], code)
        groups.setdefault(key, [None, None, None])[row] = channel
    return [StationGroup(*key, (rows[0], rows[1], rows[2])) for key, rows in sorted(groups.items())]


def station_filter(patterns: list[str]) -> Callable[[ChannelId], bool]:
    """Make a filter of channels from shell patterns.

    Args:
        patterns: `UH1`, `BW.UH*` or `BW.UH1..EHZ`; upper and lower case differ. None given: every channel.
    """

    def wanted(channel: ChannelId) -> bool:
        names = (channel.seed_id, channel.station_id, channel.station)
        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns for name in names)

    return wanted


def _order(channel: ChannelId) -> tuple[str, str, str, str, int, str]:
    code = channel.channel
    return (*channel[:3], code[:2], "ZNE123XY".find(code[2:3]), code)
