"""Where the archives keep what: names on disk, made only of what cannot leave the folder."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from monitor.records import ChannelId
from monitor.timebase import NS_PER_SECOND

EVENTS = "events"
SDS = "sds"

DETECTION_FILE = "detection.json"
WAVEFORM_FILE = "waveforms.mseed"
PICTURE_FILE = "event.png"
EXPLANATION_FILE = "explanation.json"
EXPLANATION_PICTURE_FILE = "explanation.png"
OPEN_FILE = "open.json"
"""Is there while data still come in."""
UNDRAWN_FILE = "undrawn.json"
"""What `OPEN_FILE` becomes: is there until the pictures have been tried."""

# What Linux file systems take; codes are 15 characters at most and stay far below it.
_MOST_NAME_BYTES = 255
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def component(text: str) -> str:
    """Make one path component of a SEED code or a detection's id.

    Args:
        text: From outside; any text.

    Returns:
        ASCII letters, digits and `._~-%`, percent-encoded as in a URL; never `.`, `..`, hidden or empty.

    Raises:
        ValueError: It is too long for a file system.
    """
    name = quote(text, safe="", errors="surrogatepass") or "--"
    if name[0] == ".":
        name = "%2E" + name[1:]
    if len(name) > _MOST_NAME_BYTES:
        raise ValueError(f"a name of {len(name)} bytes; accepted: {_MOST_NAME_BYTES}")
    return name


def event_directory(root: Path, event_id: str, onset_ns: int) -> Path:
    """`<root>/YYYY/MM/DD/<id>`, by the date of the onset.

    Raises:
        ValueError: There is no such date, or the id is too long.
    """
    return root / _moment(onset_ns).strftime("%Y/%m/%d") / component(event_id)


def find_event(root: Path, event_id: str) -> Path | None:
    """Find an event by its id; None where it is not kept.

    Args:
        root: The `events` folder.
        event_id: From outside; any text.
    """
    try:
        name = component(event_id)
    except ValueError:
        return None
    return next((day / name for day in _days(root) if (day / name).is_dir()), None)


def event_directories(root: Path) -> Iterator[Path]:
    """Give the events that are kept, the newest day first, in a day by their names backwards."""
    for day in _days(root):
        yield from sorted((path for path in day.iterdir() if path.name[0] != "." and path.is_dir()), reverse=True)


def _days(root: Path) -> Iterator[Path]:
    yield from sorted(root.glob("[0-9]*/[0-9]*/[0-9]*"), reverse=True)


def sds_path(root: Path, channel: ChannelId, start_ns: int) -> Path:
    """`<root>/YEAR/NET/STA/CHAN.D/NET.STA.LOC.CHAN.D.YEAR.DAY`, as SeisComP defines SDS.

    Raises:
        ValueError: There is no such date.
    """
    # A point within a code would be taken for one between two.
    codes = [quote(code, safe="", errors="surrogatepass").replace(".", "%2E") for code in channel]
    network, station, _, code = (name or "--" for name in codes)
    moment = _moment(start_ns)
    folder = root / f"{moment:%Y}" / network / station / f"{code}.D"
    return folder / f"{'.'.join(codes)}.D.{moment:%Y.%j}"


def sds_day(path: Path) -> tuple[int, int] | None:
    """Read year and day of the year off a file's name; None where it is none of SDS."""
    parts = path.name.split(".")
    if len(parts) != 7 or not (parts[5].isdecimal() and parts[6].isdecimal()):
        return None
    return int(parts[5]), int(parts[6])


def year_and_day(time_ns: int) -> tuple[int, int]:
    """Year and day of the year of a moment."""
    moment = _moment(time_ns).timetuple()
    return moment.tm_year, moment.tm_yday


def _moment(time_ns: int) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=time_ns // NS_PER_SECOND)
    except OverflowError as error:
        raise ValueError(f"time {time_ns} ns is outside the years 1 to 9999") from error
