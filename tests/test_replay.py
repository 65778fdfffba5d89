"""From bytes to detections: how the samples are cut into records, and the records laid into files, changes nothing."""

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymseed import DataEncoding, MS3Record

from monitor.detector import DetectorSettings
from monitor.model import Model
from monitor.records import Detection
from monitor.replay import Envelope, Replay
from monitor.sources.files import FileSource
from monitor.stations import station_filter
from monitor.timebase import NS_PER_SECOND
from tests.waveforms import T0, earthquake, segments

MODEL = Model()
WAVE = earthquake(rate=100.0, p_s=30.0, s_minus_p=3.0, seconds=55.0, snr=10.0, seed=11)


def records(*, length: int, version: int, encoding: DataEncoding) -> list[bytes]:
    packed = []
    for segment in segments(WAVE, rate=100.0):
        record = MS3Record()
        _, station, _, channel = segment.channel_id
        record.sourceid = f"FDSN:XX_{station}__{'_'.join(channel)}"
        # The resolution of a miniSEED 2 header.
        record.starttime = T0 // 1_000_000 * 1_000_000
        record.samprate, record.reclen, record.formatversion, record.encoding = 100.0, length, version, encoding
        packed += [bytes(piece) for piece in record.generate(segment.samples, "i")]
    return packed


def replay(*files: Path) -> list[Detection]:
    problems: list[object] = []
    source = FileSource([str(file) for file in files], on_problem=problems.append)
    found = [d for d in Replay(source, MODEL, DetectorSettings(), on_notice=problems.append) if d is not None]
    assert problems == []
    return found


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_records_and_files_change_nothing(tmp_path: Path, data: st.DataObject) -> None:
    plain = tmp_path / "plain.mseed"
    plain.write_bytes(b"".join(records(length=512, version=2, encoding=DataEncoding.STEIM2)))
    packed = records(
        length=data.draw(st.sampled_from([256, 512, 1024, 4096])),
        version=data.draw(st.sampled_from([2, 3])),
        encoding=data.draw(st.sampled_from([DataEncoding.STEIM1, DataEncoding.STEIM2, DataEncoding.INT32])),
    )
    packed = data.draw(st.permutations(packed))
    cut = data.draw(st.integers(0, len(packed)))
    files = [tmp_path / "a.mseed", tmp_path / "b.mseed"]
    files[0].write_bytes(b"".join(packed[:cut]))
    files[1].write_bytes(b"".join(packed[cut:]))
    expected = replay(plain)
    assert [d.state for d in expected][-1] == "final"
    assert replay(*(file for file in files if file.stat().st_size)) == expected


def test_a_paced_replay_tells_the_same(tmp_path: Path) -> None:
    file = tmp_path / "quake.mseed"
    file.write_bytes(b"".join(records(length=4096, version=3, encoding=DataEncoding.STEIM2)))
    source = FileSource([str(file)], on_problem=print)
    paced = Replay(source, MODEL, DetectorSettings(), speed=1e6, on_notice=print)
    assert [d for d in paced if d is not None] == replay(file)


def test_station_filter() -> None:
    (z, n, _) = (segment.channel_id for segment in segments(WAVE, rate=100.0))
    assert station_filter([])(z)
    for pattern in ("ABC", "XX.*", "XX.A?C", "XX.ABC..HHZ", "*Z"):
        assert station_filter([pattern])(z), pattern
    for pattern in ("abc", "XX.ABC..HHN", "AB", "YY.*"):
        assert not station_filter([pattern])(z), pattern
    assert station_filter(["nothing", "*N"])(n)


def test_envelope() -> None:
    (segment,) = segments(np.array([[1.0, -5.0, 3.0, 8.0, 2.0, 2.0]]), rate=100.0)
    envelope = Envelope("XX.ABC..HHZ", T0, NS_PER_SECOND // 50, np.full(4, np.nan), np.full(4, np.nan))
    envelope.add(segment)
    np.testing.assert_array_equal(envelope.minimum, [-5, 3, 2, np.nan])
    np.testing.assert_array_equal(envelope.maximum, [1, 8, 2, np.nan])
