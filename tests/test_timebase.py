"""Integer-nanosecond time, to text and back."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.timebase import NS_PER_SECOND, format_time, parse_time, seconds_to_ns

YEAR_1 = -62_135_596_800 * NS_PER_SECOND
YEAR_10000 = 253_402_300_800 * NS_PER_SECOND


@given(time_ns=st.integers(YEAR_1, YEAR_10000 - 1))
def test_nine_digits_round_trip(time_ns: int) -> None:
    assert parse_time(format_time(time_ns, digits=9)) == time_ns


@given(time_ns=st.integers(YEAR_1, YEAR_10000 - NS_PER_SECOND), digits=st.integers(0, 9))
def test_format_rounds_half_up_and_has_a_fixed_width(time_ns: int, digits: int) -> None:
    text = format_time(time_ns, digits=digits)
    assert len(text) == 20 + (digits + 1 if digits else 0)
    step = 10 ** (9 - digits)
    assert parse_time(text) == (2 * time_ns + step) // (2 * step) * step


@given(moment=st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))  # noqa: DTZ001
def test_agrees_with_datetime(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    expected = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert format_time(parse_time(moment.isoformat())) == expected


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2010-05-27", "2010-05-27T00:00:00.000000Z"),
        ("2010-147", "2010-05-27T00:00:00.000000Z"),
        ("2012-366", "2012-12-31T00:00:00.000000Z"),
        ("2010-147T16:24", "2010-05-27T16:24:00.000000Z"),
        (" 2010-05-27 16:24:33.5Z ", "2010-05-27T16:24:33.500000Z"),
        ("2010-05-27,16:24:33", "2010-05-27T16:24:33.000000Z"),
        ("2010-05-27T16:24:33+02:00", "2010-05-27T14:24:33.000000Z"),
        ("2010-05-27T16:24:33-0530", "2010-05-27T21:54:33.000000Z"),
        ("1969-12-31T23:59:59.999999999Z", "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_accepted_forms(text: str, same: str) -> None:
    assert format_time(parse_time(text)) == same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2010",
        "2010-13-01",
        "2010-02-29",
        "2010-366",
        "2010-000",
        "2010-05-27T",
        "2010-05-27T25:00",
        "2010-05-27T16:60",
        "2010-05-27T23:59:60",
        "2010-05-27T16:24.5",
        "2010-05-27T16:24:33.",
        "2010-05-27T16:24:33.0123456789",
        "2010-05-27T16:24:33+99:00",
        "2010-05-27T16:24:33 UTC",
        "٢٠١٠-05-27",
        "0001-01-01T00:00+02:00",
        "9999-12-31T23:00-02:00",
        "0000-01-01",
    ],
)
def test_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="not a time") as caught:
        parse_time(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("time_ns", [YEAR_1 - NS_PER_SECOND, YEAR_10000, 10**40])
def test_out_of_range_is_refused(time_ns: int) -> None:
    with pytest.raises(ValueError, match="outside the years"):
        format_time(time_ns)


@pytest.mark.parametrize("digits", [-1, 10])
def test_digits_out_of_range_are_refused(digits: int) -> None:
    with pytest.raises(ValueError, match=f"digits is {digits}"):
        format_time(0, digits=digits)


def test_seconds() -> None:
    assert seconds_to_ns(0.1) == 100_000_000
    assert seconds_to_ns(-1.5e-9) == -2
