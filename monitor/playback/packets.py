"""One packet as it goes over the wire: a miniSEED 2 record, or the same samples as miniSEED 3."""

import random
from dataclasses import dataclass, field

import numpy as np
from pymseed import DataEncoding, MiniSEEDError, MS3Record, nslc2sourceid

from monitor.records import ChannelId, Segment

# SeedLink 3 has no length on the wire: clients older than libslink 3 read records of this size.
RECORD_BYTES = 512
# Recorders that fill larger ones send these (SEED manual: a power of two from 256 on; 4096 is what archives have).
RECORD_SIZES = (512, 1024, 2048, 4096)
# miniSEED 3 takes what it needs; extra headers may make it a little more than miniSEED 2.
_MAX_V3_RECORD_BYTES = 8192
# Where the samples of a record without more than two blockettes begin.
_DATA_OFFSET = 64

_ENCODINGS = {
    np.dtype(np.int32): (DataEncoding.STEIM2, "i"),
    np.dtype(np.float32): (DataEncoding.FLOAT32, "f"),
    np.dtype(np.float64): (DataEncoding.FLOAT64, "d"),
}


@dataclass(slots=True, eq=False)
class WirePacket:
    """The samples of one record.

    Attributes:
        channel_id: Whose samples they are.
        starttime_ns: Time of the first sample, nanoseconds since the epoch.
        next_ns: When the next record would start.
        record: The samples as a miniSEED 2 record.
    """

    channel_id: ChannelId
    starttime_ns: int
    next_ns: int
    record: bytes
    _record3: bytes | None = field(default=None, repr=False)

    @property
    def station_id(self) -> str:
        """As SeedLink 4 writes it: `NET_STA`."""
        return f"{self.channel_id.network}_{self.channel_id.station}"

    @property
    def stream_id(self) -> str:
        """As SeedLink 4 writes it: `LOC_B_S_SS`."""
        return stream_id(self.channel_id)

    def payload(self, version: int) -> bytes:
        """The record in miniSEED 2 or 3; the latter is made when it is first asked for, with nanoseconds."""
        if version == 2:
            return self.record
        if self._record3 is None:
            copy = MS3Record.parse(self.record, unpack_data=True)
            copy.formatversion = 3
            copy.starttime = self.starttime_ns
            copy.reclen = _MAX_V3_RECORD_BYTES
            (self._record3,) = copy.generate()
        return self._record3

    def moved(self, by_ns: int) -> "WirePacket":
        """Return the same samples at another time."""
        copy = MS3Record.parse(self.record, unpack_data=True)
        copy.starttime = self.starttime_ns + by_ns
        copy.reclen = len(self.record)
        (record,) = copy.generate()
        return WirePacket(self.channel_id, self.starttime_ns + by_ns, self.next_ns + by_ns, record)

    def corrupted(self, rng: random.Random) -> "WirePacket":
        """Return a packet with the same headers whose samples cannot be right."""
        record3 = bytearray(self.payload(3))
        record3[-rng.randint(1, 8)] ^= rng.randint(1, 255)  # the checksum of miniSEED 3 covers it
        noise = bytes(rng.randint(1, 255) for _ in range(len(self.record) - _DATA_OFFSET))
        record = self.record[:_DATA_OFFSET] + bytes(
            old ^ new for old, new in zip(self.record[_DATA_OFFSET:], noise, strict=True)
        )
        return WirePacket(self.channel_id, self.starttime_ns, self.next_ns, record, bytes(record3))


def stream_id(channel_id: ChannelId) -> str:
    """`LOC_B_S_SS` of a channel."""
    return "_".join((channel_id.location, *channel_id.channel))


def encode(piece: Segment, *, record_bytes: int = RECORD_BYTES) -> list[WirePacket]:
    """Encode samples as miniSEED 2 records: Steim 2 for integers, where differences fit it.

    Args:
        piece: A second or so of samples; of more than fit one record, several are made.
        record_bytes: Size of a record.

    Returns:
        In order of time; empty when there are no samples.

    Raises:
        ValueError: The codes of the channel, or its rate, do not fit miniSEED 2.
    """
    if not piece.npts:
        return []
    encoding, sample_type = _ENCODINGS[piece.samples.dtype]
    record = MS3Record(reclen=record_bytes, encoding=encoding)
    record.formatversion, record.pubversion = 2, 1
    try:
        record.sourceid = nslc2sourceid(*piece.channel_id)
        record.starttime, record.samprate = piece.starttime_ns, piece.sampling_rate
        try:
            records = list(record.generate(piece.samples, sample_type))
        except MiniSEEDError:
            if encoding is not DataEncoding.STEIM2:
                raise
            record.encoding = DataEncoding.INT32  # a difference needs more than 30 bits
            records = list(record.generate(piece.samples, sample_type))
    except (MiniSEEDError, ValueError) as error:
        raise ValueError(f"{piece.channel_id.seed_id}: cannot be sent as miniSEED 2: {error}") from error
    packets, first = [], 0
    for data in records:
        npts = MS3Record.parse(data).samplecnt
        part = Segment(
            piece.channel_id,
            piece.starttime_ns + round(first * 1e9 / piece.sampling_rate),
            piece.sampling_rate,
            piece.samples[first : first + npts],
        )
        packets.append(WirePacket(piece.channel_id, part.starttime_ns, part.next_ns, data))
        first += npts
    return packets
