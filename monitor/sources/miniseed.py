"""miniSEED records in a byte range: where they are, what their headers say, and their samples.

libmseed's parser is called through the interface that pymseed exports (`clibmseed`, `ffi`): an `MS3Record` object per
record would take two thirds of the time of a scan, and its iterators end at the first fault, where we go on.
"""

import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from pymseed import NSTUNSET, clear_error_messages, get_error_messages
from pymseed.clib import clibmseed, ffi
from pymseed.logging import ensure_thread_logging

from monitor.records import ChannelId
from monitor.sources.alike import FEWEST, Alike, find_alike
from monitor.timebase import NS_PER_SECOND

ReadAt = Callable[[int, int], bytes]
"""`read_at(offset, size)`: bytes of one input."""

Report = Callable[[int, str], None]
"""`report(offset, message)`: tell of something wrong at a byte of one input."""

MAX_SAMPLING_RATE_HZ = 1e6
MIN_SAMPLING_RATE_HZ = 1e-4

BLOCK_BYTES = 1 << 20

# Steim-2 holds at most 7 samples in 4 bytes; a header that claims more is damaged, and would have libmseed allocate it.
MAX_SAMPLES_PER_BYTE = 2

_PARSE_FLAGS = clibmseed.MSF_VALIDATECRC
_AT_END = clibmseed.MSF_ATENDOFFILE
_WRONG_CRC = -7  # libmseed's MS_INVALIDCRC
_STEIM = (10, 11)
_TEXT = 0
_MAX_TIME_NS = 2**63 - 1
_NEAR_BYTES = 16384
_HEAD_BYTES = 4096  # holds any header with its blockettes

# Start of a fixed header: miniSEED 3 "MS" 3; miniSEED 2 sequence number, quality and a reserved byte (SEED 2.4, ch. 8).
_HEADER = re.compile(rb"MS\x03|[0-9 \0]{6}[DRQM][ \0]")

DTYPES: dict[bytes, "np.dtype[Any]"] = {
    b"i": np.dtype(np.int32),
    b"f": np.dtype(np.float32),
    b"d": np.dtype(np.float64),
}
# What the usual encodings decode to: 16 and 32-bit integers, floats, Steim-1 and Steim-2.
_DTYPE_OF = {1: DTYPES[b"i"], 3: DTYPES[b"i"], 4: DTYPES[b"f"], 5: DTYPES[b"d"], 10: DTYPES[b"i"], 11: DTYPES[b"i"]}


class RecordHeader(NamedTuple):
    """What a record says of itself.

    Attributes:
        offset: Where it begins, bytes.
        length: Bytes.
        sourceid: FDSN source identifier, as stored.
        starttime_ns: Time of the first sample, nanoseconds since the epoch.
        sampling_rate: Hertz; 0 for a log.
        npts: Number of samples it claims to hold.
        encoding: SEED encoding; 0 is text.
        alike: This record and those that follow it and are like it, where they were asked for and are many.
    """

    offset: int
    length: int
    sourceid: bytes
    starttime_ns: int
    sampling_rate: float
    npts: int
    encoding: int
    alike: Alike | None = None


class DecodedRecord(NamedTuple):
    """A record's channel, header and samples (native byte order); of those alike, the samples of all."""

    channel_id: ChannelId
    header: RecordHeader
    dtype: "np.dtype[Any]"
    content: bytes | memoryview


def is_log(header: RecordHeader) -> bool:
    """Tell whether a record holds no waveform: text, no sampling rate, or no samples."""
    return header.encoding == _TEXT or header.sampling_rate == 0 or header.npts <= 0


def fault_of_times(starttime_ns: int, npts: int, sampling_rate: float) -> str | None:
    """Say why a time and a sampling rate (hertz) cannot be true, or None when they can."""
    if not MIN_SAMPLING_RATE_HZ <= sampling_rate <= MAX_SAMPLING_RATE_HZ:
        return f"sampling rate {sampling_rate:g} Hz; accepted: {MIN_SAMPLING_RATE_HZ:g} to {MAX_SAMPLING_RATE_HZ:g}"
    if starttime_ns <= NSTUNSET or starttime_ns + npts * NS_PER_SECOND / sampling_rate >= _MAX_TIME_NS:
        return "no valid time; accepted: years 1902 to 2261"
    return None


def fault_of(header: RecordHeader) -> str | None:
    """Say why a record's header cannot be true, or None when it can."""
    if header.npts > MAX_SAMPLES_PER_BYTE * header.length:
        return f"claims {header.npts} samples in {header.length} bytes; accepted: at most {MAX_SAMPLES_PER_BYTE} a byte"
    return fault_of_times(header.starttime_ns, header.npts, header.sampling_rate)


class RecordParser:
    """Parses records one after another, reusing one C structure.

    Not thread-safe: one parser to a thread at a time.
    """

    def __init__(self) -> None:
        self._record = ffi.new("MS3Record **")
        self._version = ffi.new("uint8_t *")
        self._bounds = ffi.new("uint32_t[2]")
        self._sample_type = ffi.new("char *")
        weakref.finalize(self, _free_record, self._record)

    def is_record_start(self, content: bytes) -> bool:
        """Tell whether bytes begin with a record, complete or not."""
        if not _HEADER.match(content):
            return False
        # Length 0 is not known yet: a version 2 record without blockette 1000.
        return bool(clibmseed.ms3_detect(ffi.from_buffer(content), len(content), self._version) >= 0)

    def find_record(self, content: bytes, *, at_end: bool) -> int | None:
        """Find the first complete, intact record in some bytes.

        Args:
            content: The bytes.
            at_end: Whether the input ends with them.

        Returns:
            Where it begins, or None if there is none.
        """
        ensure_thread_logging()
        pointer, flags, start = ffi.from_buffer(content), _PARSE_FLAGS | (_AT_END if at_end else 0), 0
        while match := _HEADER.search(content, start):
            start = match.start()
            if clibmseed.msr3_parse(pointer + start, len(content) - start, self._record, flags, 0) == 0:
                return start
            start += 1
        clear_error_messages()
        return None

    def headers(self, read_at: ReadAt, size: int, report: Report, *, alike: bool = False) -> Iterator[RecordHeader]:
        """Read the headers of all records; step over what is not a record and say so.

        Args:
            read_at: Gives the bytes.
            size: How many there are.
            report: Told of bytes that are no records, of unusable headers, wrong checksums and a cut-off end.
            alike: Give many records that are alike as one header.

        Yields:
            The headers, in file order; miniSEED 3 checksums have been verified.
        """
        ensure_thread_logging()
        position, wanted = 0, BLOCK_BYTES
        while position < size:
            block = read_at(position, wanted)
            if len(block) < min(wanted, size - position):
                report(position + len(block), "file became shorter while it was read")
                size = position + len(block)
            at_end = position + len(block) >= size
            flags = _PARSE_FLAGS | (_AT_END if at_end else 0)
            offset, missing, one_by_one = 0, 0, 0 if alike else len(block)
            pointer, end = ffi.from_buffer(block), len(block)
            while offset < end:
                status = clibmseed.msr3_parse(pointer + offset, end - offset, self._record, flags, 0)
                if status == 0:
                    header = self._header(position + offset)
                    found = _find_alike(block, offset, header) if offset >= one_by_one else None
                    if found is not None:
                        header = header._replace(alike=found)
                    elif offset >= one_by_one:
                        one_by_one = offset + FEWEST * header.length
                    offset += header.length * (1 if found is None else len(found.npts))
                    yield header
                elif status > 0 and not at_end and end - offset < clibmseed.MAXRECLEN:
                    missing = status
                    break
                else:
                    # Once more, so that what libmseed says is said of these bytes alone.
                    clear_error_messages()
                    clibmseed.msr3_parse(pointer + offset, end - offset, self._record, flags, 0)
                    offset = self._step_over(read_at, size, position + offset, status, report) - position
            # A record that no block holds yet: a larger one, growing fast where the length is not known.
            wanted = BLOCK_BYTES if offset else max(2 * wanted, end + missing)
            position += offset

    def decode(
        self,
        block: bytes,
        position: int,
        select: Callable[[RecordHeader], ChannelId | None],
        report: Report,
        *,
        alike: bool = False,
    ) -> Iterator[DecodedRecord]:
        """Decode the records that fill a block.

        Args:
            block: Whole records, one after another.
            position: Where the block begins in its input, bytes.
            select: A record's channel, or None when it is not wanted and need not be decoded.
            report: Told of records whose samples do not decode.
            alike: Give many records that are alike as one.

        Yields:
            The wanted records, in file order, without those that do not decode.
        """
        ensure_thread_logging()
        clear_error_messages()
        pointer, offset, end = ffi.from_buffer(block), 0, len(block)
        one_by_one = 0 if alike else end
        while offset < end:
            if clibmseed.msr3_parse(pointer + offset, end - offset, self._record, _AT_END, 0) != 0:
                clear_error_messages()
                report(position + offset, "file changed while it was read")
                return
            header = self._header(position + offset)
            channel_id = select(header)
            if channel_id is not None and offset >= one_by_one:
                found = _find_alike(block, offset, header)
                content = None if found is None else self._unpack_alike(pointer + offset, header, found)
                if found is not None and content is not None:
                    offset += header.length * len(found.npts)
                    yield DecodedRecord(channel_id, header._replace(alike=found), _DTYPE_OF[header.encoding], content)
                    continue
                one_by_one = offset + header.length * (FEWEST if found is None else len(found.npts))
            offset += header.length
            if channel_id is None:
                continue
            fault = self._unpack(header)
            if fault is None:
                record = self._record[0]
                dtype = DTYPES[record.sampletype]
                content = ffi.buffer(record.datasamples, record.numsamples * dtype.itemsize)[:]
                yield DecodedRecord(channel_id, header, dtype, content)
            else:
                report(header.offset, f"samples do not decode ({fault}); record skipped")

    def _header(self, offset: int) -> RecordHeader:
        record = self._record[0]
        rate = record.samprate
        # libmseed keeps rates below 1 Hz as a negative period in seconds.
        return RecordHeader(
            offset,
            record.reclen,
            ffi.string(record.sid),
            record.starttime,
            rate if rate >= 0 else -1 / rate,
            record.samplecnt,
            record.encoding,
        )

    def _unpack_alike(self, start: Any, header: RecordHeader, alike: Alike) -> memoryview | None:
        """Decode records like the one just parsed; None when not all of them decode without a word."""
        clear_error_messages()
        record, dtype = self._record[0], _DTYPE_OF.get(header.encoding)
        if dtype is None or clibmseed.msr3_data_bounds(record, self._bounds, self._bounds + 1) != 0:
            return None
        first, bound = self._bounds[0], header.length - self._bounds[0]
        if (int(ffi.cast("uintptr_t", start)) + first) % dtype.itemsize:
            return None
        samples = np.empty(int(alike.npts.sum()), dtype)
        source, target = start + first, ffi.cast("char *", ffi.from_buffer(samples))
        decode, encoding, length, swap = clibmseed.ms_decode_data, header.encoding, header.length, record.swapflag & 2
        for npts in alike.npts.tolist():
            size = npts * dtype.itemsize
            if decode(source, bound, encoding, npts, target, size, self._sample_type, swap, record.sid, 0) != npts:
                return None
            source += length
            target += size
        return None if clear_error_messages() else memoryview(samples.data).cast("B")

    def _unpack(self, header: RecordHeader) -> str | None:
        clear_error_messages()  # what was said of the header is not said of the samples
        record = self._record[0]
        npts = clibmseed.msr3_unpack_data(record, 0)
        if npts != header.npts:
            return "; ".join(_messages()) or f"{npts} samples instead of {header.npts}"
        if record.sampletype not in DTYPES:
            return f"encoding {header.encoding} holds no numbers"
        if header.encoding in _STEIM and clear_error_messages():
            # libmseed only warns when the last sample is not the one that the encoder noted: some of the samples are
            # wrong, and a step like that could be taken for an event. A note of 0 is of an encoder that notes nothing.
            payload = header.length - record.datalength
            if ffi.buffer(record.record + payload + 8, 4)[:] != b"\0\0\0\0":
                return "the last sample is not the one noted in the record"
        return None

    def _step_over(self, read_at: ReadAt, size: int, start: int, status: int, report: Report) -> int:
        """Tell what is wrong at `start`, where parsing gave `status`; return where to go on."""
        said = "; ".join(_messages())
        head = read_at(start, _HEAD_BYTES)
        looks_like_record = self.is_record_start(head)
        length = clibmseed.ms3_detect(ffi.from_buffer(head), len(head), self._version) if looks_like_record else -1
        follower = start + length
        if status < 0 < length and (
            follower == size or (follower < size and self.is_record_start(read_at(follower, _HEAD_BYTES)))
        ):
            what = "checksum (CRC) is wrong" if status == _WRONG_CRC else f"header is unusable ({said or status})"
            report(start, f"record skipped: {what}")
            return follower
        # A near look first. Then overlapping windows: a record that begins at the end of one is whole in the other.
        windows = [(start + 1, _NEAR_BYTES), *((far, 2 * BLOCK_BYTES) for far in range(start + 1, size, BLOCK_BYTES))]
        for window, wanted in windows:
            content = read_at(window, wanted)
            found = self.find_record(content, at_end=window + len(content) >= size)
            if found is not None:
                report(start, f"skipped {window + found - start} bytes that are not intact miniSEED records")
                return window + found
        if (status > 0 or len(head) < clibmseed.MINRECLEN) and _HEADER.match(head):
            report(start, f"last record is cut off after {size - start} bytes; record skipped")
        else:
            report(start, f"skipped {size - start} bytes that are not intact miniSEED records")
        return size


def _find_alike(block: bytes, offset: int, header: RecordHeader) -> Alike | None:
    if is_log(header) or fault_of(header) is not None:
        return None
    return find_alike(block, offset, header, most_per_byte=MAX_SAMPLES_PER_BYTE)


def _messages() -> list[str]:
    """Take libmseed's messages of the last call, without its prefix and source identifier."""
    return [re.sub(r"^(Error: |Warning: )?(\S+:\S*_\S+: )?", "", text) for text in get_error_messages()]


def _free_record(record: Any) -> None:
    clibmseed.msr3_free(record)
