import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymseed import DataEncoding, MS3Record

from monitor.records import ChannelId
from monitor.sources.seedlink_payload import PayloadDecoder
from monitor.sources.timing import timing_quality
from tests.seedlink_source import T0

Z = ChannelId("XX", "ABC", "", "HHZ")


def record(
    *, version: int = 2, second: float = 0, quality: float | None = None, sid: str = "FDSN:XX_ABC__H_H_Z", seed: int = 0
) -> bytes:
    made = MS3Record(reclen=512)
    made.sourceid, made.starttime, made.samprate = sid, T0 + round(second * 1e9), 100.0
    made.encoding, made.formatversion = DataEncoding.STEIM2, version
    if quality is not None:
        made.set_extra_header("/FDSN/Time/Quality", quality)
    samples = np.random.default_rng(seed).integers(-500, 500, 100).astype(np.int32)
    return next(iter(made.generate(samples, "i")))


def decoder() -> PayloadDecoder:
    return PayloadDecoder(lambda channel: channel.channel != "LDO")


@pytest.mark.parametrize("version", [2, 3])
def test_one_record(version: int) -> None:
    payload = decoder().decode(record(version=version))
    (segment,) = payload.segments
    assert (segment.channel_id, segment.starttime_ns, segment.sampling_rate) == (Z, T0, 100.0)
    assert np.array_equal(segment.samples, np.random.default_rng(0).integers(-500, 500, 100))
    assert (payload.station_id, payload.timing_quality, payload.faults) == ("XX.ABC", None, ())


def test_several_records() -> None:
    parts = [record(version=2), record(version=3, second=1, quality=80), record(version=2, second=2, quality=60)]
    payload = decoder().decode(b"".join(parts))
    assert [segment.starttime_ns - T0 for segment in payload.segments] == [0, 10**9, 2 * 10**9]
    assert payload.timing_quality == 60


def test_channels_that_are_not_wanted_still_tell_the_station() -> None:
    payload = decoder().decode(record(sid="FDSN:XX_DEF__L_D_O"))
    assert (payload.segments, payload.station_id, payload.faults) == ((), "XX.DEF", ())


@pytest.mark.parametrize("damage", [slice(200, 300), slice(0, 8)])
@pytest.mark.parametrize("version", [2, 3])
def test_a_damaged_record_is_told_and_the_others_are_kept(version: int, damage: slice) -> None:
    bad = bytearray(record(version=version, second=1))
    bad[damage] = bytes(255 - byte for byte in bad[damage])
    payload = decoder().decode(record() + bytes(bad) + record(second=2))
    assert [segment.starttime_ns - T0 for segment in payload.segments] == [0, 2 * 10**9]
    assert len(payload.faults) == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"<html>" * 100, b"MS\x03" + b"\xff" * 500])
def test_what_is_no_record(content: bytes) -> None:
    payload = decoder().decode(content)
    assert payload.segments == ()
    assert payload.station_id is None
    assert len(payload.faults) == (1 if content else 0)


@given(st.binary(max_size=700))
def test_anything_at_all_is_survived(content: bytes) -> None:
    decoder().decode(content)
    decoder().decode(record()[:48] + content)
    decoder().decode(record(version=3)[:40] + content)
    timing_quality(content)
    timing_quality(record()[:48] + content)
    timing_quality(record(version=3)[:40] + content)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("quality", [0, 1, 55, 100])
def test_timing_quality(version: int, quality: int) -> None:
    assert timing_quality(record(version=version, quality=quality)) == quality
    assert timing_quality(record(version=version)) in {None, 0}


def test_timing_quality_in_little_endian() -> None:
    made = bytearray(record(quality=77))
    for at in (20, 22, 44, 46):
        made[at : at + 2] = made[at : at + 2][::-1]
    at = struct.unpack_from("<H", made, 46)[0]
    while at:
        made[at : at + 2], made[at + 2 : at + 4] = made[at : at + 2][::-1], made[at + 2 : at + 4][::-1]
        at = struct.unpack_from("<H", made, at + 2)[0]
    assert timing_quality(bytes(made)) == 77


@pytest.mark.parametrize(
    "text", [b"[", b"{}", b'{"FDSN": 1}', b'{"FDSN": {"Time": {"Quality": "x"}}}', b"NaN", b"[" * 9999]
)
def test_extra_headers_that_do_not_tell(text: bytes) -> None:
    whole = bytearray(record(version=3)[:40])
    struct.pack_into("<BH", whole, 33, 0, len(text))
    assert timing_quality(bytes(whole) + text) is None


@pytest.mark.parametrize("value", ["NaN", "Infinity", "101", "-1", "true"])
def test_a_timing_quality_that_cannot_be(value: str) -> None:
    text = f'{{"FDSN": {{"Time": {{"Quality": {value}}}}}}}'.encode()
    whole = bytearray(record(version=3)[:40])
    struct.pack_into("<BH", whole, 33, 0, len(text))
    assert timing_quality(bytes(whole) + text) is None
