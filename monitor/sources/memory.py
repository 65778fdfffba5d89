"""miniSEED records that are in memory: what an event's archive holds, as segments."""

from monitor.records import ChannelId, Segment
from monitor.sources.index import ChannelFilter
from monitor.sources.miniseed import RecordHeader, RecordParser, fault_of, is_log
from monitor.sources.runs import join_records


def read_records(records: bytes) -> list[Segment]:
    """Decode concatenated miniSEED records.

    Args:
        records: In any order; what is no intact record is left out.

    Returns:
        Segments in order of time.
    """
    parser, channels = RecordParser(), ChannelFilter(lambda _: True)

    def ignore(_offset: int, _message: str) -> None:
        """What is damaged here was named when it was received."""

    def wanted(header: RecordHeader) -> ChannelId | None:
        return None if is_log(header) or fault_of(header) is not None else channels.channel_of(header)

    def read_at(offset: int, size: int) -> bytes:
        return records[offset : offset + size]

    intact = b"".join(
        records[header.offset : header.offset + header.length]
        for header in parser.headers(read_at, len(records), ignore)
    )
    decoded = parser.decode(intact, 0, wanted, ignore)
    runs = join_records(decoded, start_ns=None, end_ns=None, coalesce=True)
    return sorted((run.segment for run in runs), key=lambda segment: segment.starttime_ns)
