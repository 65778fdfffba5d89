"""Integer-nanosecond time.

Inside the program a moment is an `int`: nanoseconds since 1970-01-01T00:00:00 UTC, leap seconds not counted
(POSIX time, as libmseed's `nstime_t`). Text exists only at the edges.
"""

import re
from datetime import UTC, datetime, timedelta

NS_PER_SECOND = 1_000_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2}|\d{4}-\d{3})"
    r"(?:[T ,](?P<hm>\d{2}:\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d{1,9}))?)?)?"
    r"(?P<zone>Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?",
    re.ASCII,
)


def parse_time(text: str) -> int:
    """Parse an ISO 8601 date-time to nanoseconds since the epoch.

    Args:
        text: `2010-05-27`, `2010-05-27T16:24:33.315Z`, `2010-147T16:24` or with an offset such as `+02:00`.
            Without an offset the time is UTC.

    Returns:
        Nanoseconds since the epoch.

    Raises:
        ValueError: The text is not such a date-time; the message names the text and an accepted form.
    """
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a time: {text!r}; expected ISO 8601 such as 2010-05-27T16:24:33.5Z")
    date, hms = match["date"], f"{match['hm'] or '00:00'}:{match['second'] or '00'}"
    layout = "%Y-%j %H:%M:%S" if len(date) == 8 else "%Y-%m-%d %H:%M:%S"
    try:
        moment = datetime.strptime(f"{date} {hms}", layout).replace(tzinfo=UTC)
        if f"{moment.year:04d}" != date[:4]:  # what strptime makes of day 366 of a common year
            raise ValueError(f"{date[:4]} has no day {date[5:]}")
        moment -= _offset(match["zone"])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a time: {text!r}; {error}") from error
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    return seconds * NS_PER_SECOND + int((match["fraction"] or "0").ljust(9, "0"))


def _offset(zone: str | None) -> timedelta:
    if zone is None or zone == "Z":
        return timedelta(0)
    digits = zone[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return offset if zone[0] == "+" else -offset


def format_time(time_ns: int, *, digits: int = 6) -> str:
    """Format nanoseconds since the epoch as ISO 8601 UTC with a trailing Z.

    Args:
        time_ns: Nanoseconds since the epoch.
        digits: Decimals of the second, 0 to 9; the value is rounded half up to them.

    Returns:
        For example `2010-05-27T16:24:33.315000Z`.

    Raises:
        ValueError: `digits` is not 0 to 9, or the year is not 1 to 9999.
    """
    if not 0 <= digits <= 9:
        raise ValueError(f"digits is {digits}; accepted: 0 to 9")
    step = 10 ** (9 - digits)
    seconds, rest = divmod((time_ns + step // 2) // step * step, NS_PER_SECOND)
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError(f"time {time_ns} ns is outside the years 1 to 9999") from error
    whole = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return f"{whole}.{rest:09d}"[: 20 + digits].rstrip(".") + "Z"


def seconds_to_ns(seconds: float) -> int:
    """Convert seconds to the nearest whole nanosecond."""
    return round(seconds * NS_PER_SECOND)
