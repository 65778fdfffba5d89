"""Records that differ in nothing but their time and number of samples, told by comparing bytes, many at once.

Most of a file is such records, and to parse each would take most of the time of reading it. Only miniSEED 2 whose
blockettes are 1000 alone, or 1000 and 1001, is compared; whatever is unusual in a record ends the run before it, so
that the parser sees it.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.timebase import NS_PER_SECOND

if TYPE_CHECKING:
    from monitor.sources.miniseed import RecordHeader

I64 = npt.NDArray[np.int64]

# Fewer are parsed one by one in less time.
FEWEST = 8
# A run that ends early has cost no more than comparing these.
_AT_ONCE = 256
# What blockettes 1000 and 1001 and the fixed header take (SEED 2.4, ch. 8).
_HEAD_BYTES = 64
# libmseed tells the byte order from the year; in these there is no doubt.
_FIRST_YEAR, _END_YEAR = 1970, 2050
_NEW_YEARS_DAY: I64 = (
    np.arange(f"{_FIRST_YEAR}", f"{_END_YEAR}", dtype="datetime64[Y]").astype("datetime64[D]").astype(np.int64)
)
# Year and day, and hour, minute and second, are at least and less than this; day 366 and leap seconds are the parser's.
_DATE_FROM, _DATE_BEFORE = np.array([_FIRST_YEAR, 1]), np.array([_END_YEAR, 366])
_CLOCK_BEFORE, _CLOCK_SECONDS = np.array([24, 60, 60]), np.array([3600, 60, 1])
_FRACTION_BEFORE = 10_000
_BLOCKETTE_1000 = {b"\x03\xe8": ">", b"\xe8\x03": "<"}


class Alike(NamedTuple):
    """Records that lie one after another, in order of time.

    Attributes:
        starttimes_ns: Time of each one's first sample, nanoseconds since the epoch [shape=(n,), dtype=int64].
        npts: Number of samples of each [shape=(n,), dtype=int64].
    """

    starttimes_ns: I64
    npts: I64


def find_alike(block: bytes, offset: int, header: "RecordHeader", *, most_per_byte: int) -> Alike | None:
    """Find the records that follow one another from a given one on and are like it.

    Args:
        block: Bytes.
        offset: Where in them the given record begins.
        header: What it says of itself: no log, nothing wrong.
        most_per_byte: Samples that a byte of a record can hold at most.

    Returns:
        The given record and those like it; None when they are too few to be worth it.
    """
    length = header.length
    probe = offset + (FEWEST - 1) * length
    if block[offset + 8 : offset + 20] != block[probe + 8 : probe + 20] or length % 8 or block[offset] == ord("M"):
        return None
    head = block[offset : offset + _HEAD_BYTES]
    order = _BLOCKETTE_1000.get(head[48:50])
    if order is None:
        return None
    known = _layout(order, length)
    with_1001 = head[50:60] == known.one_more[:2] + head[52:56] + known.one_more[2:]
    if head[46:48] != known.first_blockette or head[40:44] != bytes(4) or not (with_1001 or head[50:52] == bytes(2)):
        return None
    n = min((len(block) - offset) // length, _AT_ONCE)
    words = np.frombuffer(block, np.uint64, n * length // 8, offset).reshape(n, length // 8)[:, : _HEAD_BYTES // 8]
    same = ((words ^ words[0]) & (_FIXED_1001 if with_1001 else _FIXED)) == 0
    fields = np.frombuffer(block, known.fields, n, offset)
    starttimes_ns, npts, good = _times(fields, with_1001=with_1001)
    good &= same.all(axis=1) & (npts > 0) & (npts <= most_per_byte * length)
    good &= _SEQUENCE[fields["sequence"]].all(axis=1)
    good[1:] &= starttimes_ns[1:] >= starttimes_ns[:-1]
    count = n if good.all() else int(good.argmin())
    if count < FEWEST or (starttimes_ns[0], npts[0]) != (header.starttime_ns, header.npts):
        return None
    return Alike(starttimes_ns[:count], npts[:count])


class _Layout(NamedTuple):
    fields: "np.dtype[Any]"
    first_blockette: bytes
    one_more: bytes


@lru_cache(maxsize=16)
def _layout(order: str, length: int) -> _Layout:
    """Where fields lie in a record [SEED 2.4, ch. 8], and the bytes of a chain of blockettes 1000 and 1001."""
    fields = {
        "sequence": ("(6,)u1", 0),
        "date": (f"(2,){order}u2", 20),  # year, day of the year
        "clock": ("(3,)u1", 24),  # hour, minute, second
        "counts": (f"(2,){order}u2", 28),  # tenths of milliseconds, samples
        "microseconds": ("i1", 61),
    }
    names = list(fields)
    formats, offsets = zip(*fields.values(), strict=True)
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": length})
    # Blockette 1000 at byte 48; its next one at 56: of type 1001, with none after it.
    first, second, kind = (np.array([n], f"{order}u2").tobytes() for n in (48, 56, 1001))
    return _Layout(dtype, first, second + kind + bytes(2))


def _mask(*free: tuple[int, int]) -> npt.NDArray[np.uint64]:
    """Ones where records must not differ, in words."""
    mask = np.full(_HEAD_BYTES, 255, np.uint8)
    for first, stop in free:
        mask[first:stop] = 0
    return mask.view(np.uint64)


# Sequence number; time and number of samples; flags, which decide nothing here; then what follows the blockettes.
_FREE = ((0, 6), (20, 32), (36, 39))
_FIXED = _mask(*_FREE, (56, 64))
_FIXED_1001 = _mask(*_FREE, (60, 64))
# What libmseed takes for a sequence number: digits, spaces, zero bytes.
_SEQUENCE = np.isin(np.arange(256), [0, 32, *range(48, 58)])


def _times(fields: npt.NDArray[Any], *, with_1001: bool) -> tuple[I64, I64, npt.NDArray[np.bool_]]:
    """Start time and number of samples of each record, and whether its time is a usual one."""
    # Converted first: numpy 1 would compute in as few bits as a field has.
    date, clock, counts = (fields[name].astype(np.int64) for name in ("date", "clock", "counts"))
    good = ((date >= _DATE_FROM) & (date < _DATE_BEFORE)).all(axis=1)
    good &= (clock < _CLOCK_BEFORE).all(axis=1) & (counts[:, 0] < _FRACTION_BEFORE)
    days = _NEW_YEARS_DAY.take(date[:, 0] - _DATE_FROM[0], mode="wrap") + date[:, 1] - 1
    seconds = days * 86_400 + clock @ _CLOCK_SECONDS
    starttimes_ns = seconds * NS_PER_SECOND + counts[:, 0] * 100_000
    if with_1001:
        starttimes_ns += fields["microseconds"].astype(np.int64) * 1000
    return starttimes_ns, counts[:, 1], good
