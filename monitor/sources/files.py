"""Files to segments: what `monitor replay` reads, in order of time, whatever the files look like.

A scan reads record headers and notes byte ranges ("chunks", see `monitor.sources.index`); iteration decodes each chunk
when its time comes. So one multiplexed file, one file per channel and a channel-after-channel file give the same
samples in the same order, in constant memory.
"""

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from monitor.records import ChannelId, Segment
from monitor.sources.foreign import MAX_FOREIGN_BYTES, ForeignFormatError, read_foreign
from monitor.sources.index import ChannelContents, ChannelFilter, Chunk, Contents, Index
from monitor.sources.inputs import Input, InputReader, find_inputs, unpack
from monitor.sources.miniseed import RecordHeader, RecordParser, fault_of, is_log
from monitor.sources.problems import Problem, ProblemLog
from monitor.sources.runs import Run, clip, cut, join_records, sample_time_ns

__all__ = ["ChannelContents", "Contents", "FileSource", "Problem", "every_channel"]

# How far into a file the first record may be before the file is taken for another format.
SNIFF_BYTES = 1 << 20


def every_channel(channel_id: ChannelId) -> bool:
    """Select all channels."""
    return True


class _Piece(NamedTuple):
    """Samples from another format, kept in the spool."""

    channel_id: ChannelId
    starttime_ns: int
    sampling_rate: float
    dtype: str


class FileSource:
    """Waveform files as one sequence of segments.

    Args:
        paths: Files, directories, or `-` for standard input.
        select: Whether a channel is wanted.
        start_ns: Samples before it are left out, nanoseconds since the epoch; None: open.
        end_ns: Samples from it on are left out; None: open.
        on_problem: Called with each thing wrong in the input, at most 20 a file and then their number.
        stdin: What `-` means; None: standard input.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        select: Callable[[ChannelId], bool] = every_channel,
        start_ns: int | None = None,
        end_ns: int | None = None,
        on_problem: Callable[[Problem], None],
        stdin: BinaryIO | None = None,
    ) -> None:
        self._paths = tuple(paths)
        self._start_ns = start_ns
        self._end_ns = end_ns
        self._stdin = stdin
        self._select = select
        self._filter = ChannelFilter(select)
        self._log = ProblemLog(on_problem)
        self._reader = InputReader()
        self._inputs: list[Input] = []
        self._index = Index(start_ns=start_ns, end_ns=end_ns)
        self._pieces: dict[int, _Piece] = {}  # by number of the chunk
        self._contents: Contents | None = None

    def scan(self) -> Contents:
        """Read the headers of all records, once; later calls return the same.

        Returns:
            What the inputs hold of the selected channels and time span.
        """
        if self._contents is None:
            parser = RecordParser()
            # Path.is_dir raises where a directory on the way may not be searched.
            directories = [path for path in self._paths if path not in ("", "-") and os.path.isdir(path)]  # noqa: PTH112
            barren = dict.fromkeys(directories, True)
            accounted: set[str] = set()
            for source in find_inputs(
                self._paths, reader=self._reader, log=self._log, stdin=self._stdin, accounted=accounted
            ):
                holds_waveforms = self._scan_input(source, parser)
                self._index.close_chunk()
                if holds_waveforms and source.directory is not None:
                    barren[source.directory] = False
            for path, is_barren in barren.items():
                if is_barren and path not in accounted:
                    self._log.report(path, None, "no waveform files in this directory")
            self._reader.close_files()
            self._log.summarise()
            self._contents = self._index.contents()
        return self._contents

    def __iter__(self) -> Iterator[Segment]:
        """Yield the selected samples of all inputs, sorted by start time (ties: by input, then by offset).

        Records of a channel that continue one another come joined, up to two minutes; samples may be read-only.
        """
        self.scan()
        parser = RecordParser()
        waiting: list[tuple[int, int, int, Segment]] = []
        try:
            for chunk in self._index.chunks():
                while waiting and waiting[0][:3] < (chunk.first_ns, chunk.source, chunk.offset):
                    yield heapq.heappop(waiting)[3]
                for segment, offset in self._open(chunk, parser):
                    heapq.heappush(waiting, (segment.starttime_ns, chunk.source, offset, segment))
            while waiting:
                yield heapq.heappop(waiting)[3]
        finally:
            self._reader.close_files()
            self._log.summarise()

    def _scan_input(self, source: Input, parser: RecordParser) -> bool:
        """Index one input; return whether it holds waveforms."""
        try:
            if source.size == 0:
                if not source.is_side_file:
                    self._log.report(source.name, None, "is empty")
                return False
            source, fault = unpack(self._reader, source)
            if fault is not None:
                self._log.report(source.name, source.size, fault)
            head = self._reader.read_at(source, 0, SNIFF_BYTES)
            at_end = len(head) == source.size
            self._inputs.append(source)
            if parser.is_record_start(head) or parser.find_record(head, at_end=at_end) is not None:
                return self._scan_miniseed(source, parser)
            if source.is_side_file:
                return False
            return self._scan_foreign(source)
        except OSError as error:
            self._log.report(source.name, None, f"cannot be read: {error.strerror or error}")
            return False

    def _scan_miniseed(self, source: Input, parser: RecordParser) -> bool:
        number = len(self._inputs) - 1
        logs = waveforms = 0
        invalid: set[bytes] = set()
        add, add_alike, channel_of = self._index.add, self._index.add_alike, self._filter.channel_of

        def read_at(offset: int, size: int) -> bytes:
            return self._reader.read_at(source, offset, size)

        def report(offset: int, message: str) -> None:
            self._index.close_chunk()  # what is decoded at once must be whole records, one after another
            self._log.report(source.name, offset, message)

        for header in parser.headers(read_at, source.size, report, alike=True):
            if is_log(header):
                logs += 1
                continue
            fault = fault_of(header)
            if fault is not None:
                report(header.offset, f"record skipped: {fault}")
                continue
            waveforms += 1
            channel_id = channel_of(header)
            if channel_id is not None and header.alike is not None:
                add_alike(
                    channel_id,
                    header.alike,
                    header.sampling_rate,
                    source=number,
                    offset=header.offset,
                    length=header.length,
                )
            elif channel_id is not None:
                add(
                    channel_id,
                    header.starttime_ns,
                    header.sampling_rate,
                    header.npts,
                    source=number,
                    offset=header.offset,
                    length=header.length,
                )
            elif header.sourceid not in invalid and not self._filter.is_valid(header):
                invalid.add(header.sourceid)
                shown = ascii(header.sourceid.decode("latin-1"))
                report(header.offset, f"records of {shown} skipped; accepted: identifiers such as FDSN:BW_UH1__E_H_Z")
        # Archives keep logs beside waveforms; only a file that was asked for is worth a word.
        if logs and not waveforms and source.directory is None:
            self._log.report(source.name, None, "holds only log records, no waveform")
        return waveforms > 0

    def _scan_foreign(self, source: Input) -> bool:
        if source.size > MAX_FOREIGN_BYTES:
            message = f"is not miniSEED and has {source.size} bytes; other formats: at most {MAX_FOREIGN_BYTES}"
            self._log.report(source.name, None, message)
            return False
        try:
            with self._reader.as_path(source) as path:
                segments = read_foreign(path)
        except ForeignFormatError as error:
            self._log.report(source.name, None, str(error))
            return False
        number = len(self._inputs) - 1
        for segment in segments:
            if self._select(segment.channel_id):
                for piece in cut(segment):
                    self._keep(piece, number)
        return bool(segments)

    def _keep(self, piece: Segment, number: int) -> None:
        """Put samples of another format into the spool and the index."""
        first, stop = self._clip(piece.starttime_ns, piece.npts, piece.sampling_rate)
        if first == stop:
            return
        starttime_ns = sample_time_ns(piece.starttime_ns, first, piece.sampling_rate)
        content = piece.samples[first:stop].tobytes()
        chunk = self._index.next_chunk
        self._index.add(
            piece.channel_id,
            starttime_ns,
            piece.sampling_rate,
            stop - first,
            source=number,
            offset=self._reader.spool_bytes(content),
            length=len(content),
        )
        self._index.close_chunk()
        dtype = piece.samples.dtype.str
        self._pieces[chunk] = _Piece(piece.channel_id, starttime_ns, piece.sampling_rate, dtype)

    def _open(self, chunk: Chunk, parser: RecordParser) -> list[Run]:
        """Decode a chunk."""
        source, piece = self._inputs[chunk.source], self._pieces.get(chunk.number)
        if piece is not None:
            content = self._reader.read_spool(chunk.offset, chunk.length)
            samples = np.frombuffer(content, piece.dtype)
            return [Run(Segment(piece.channel_id, piece.starttime_ns, piece.sampling_rate, samples), chunk.offset)]
        try:
            block = self._reader.read_at(source, chunk.offset, chunk.length)
        except OSError as error:
            self._log.report(source.name, chunk.offset, f"cannot be read: {error.strerror or error}")
            return []

        def report(offset: int, message: str) -> None:
            self._log.report(source.name, offset, message)

        if not block:
            report(chunk.offset, "file became shorter while it was read")
        alike = chunk.coalesce and self._start_ns is None and self._end_ns is None
        records = parser.decode(block, chunk.offset, self._wanted_channel, report, alike=alike)
        return list(join_records(records, start_ns=self._start_ns, end_ns=self._end_ns, coalesce=chunk.coalesce))

    def _wanted_channel(self, header: RecordHeader) -> ChannelId | None:
        channel_id = self._filter.channel_of(header)
        if channel_id is None or is_log(header) or fault_of(header) is not None:
            return None
        if self._start_ns is not None or self._end_ns is not None:
            first, stop = self._clip(header.starttime_ns, header.npts, header.sampling_rate)
            return channel_id if first < stop else None
        return channel_id

    def _clip(self, starttime_ns: int, npts: int, sampling_rate: float) -> tuple[int, int]:
        return clip(starttime_ns, npts, sampling_rate, start_ns=self._start_ns, end_ns=self._end_ns)
