"""What a miniSEED record says of the recorder's clock."""

import struct

from monitor.sources.shallow import read_json

_FIXED_BYTES_2 = 48
_FIXED_BYTES_3 = 40
_MAX_BLOCKETTES = 32
_YEARS = range(1900, 2101)


def timing_quality(record: bytes) -> int | None:
    """Read the timing quality of one record.

    Args:
        record: A miniSEED 2 record, whose blockette 1001 may tell (SEED 2.4, chapter 8), or a miniSEED 3 record, whose
            extra header `FDSN.Time.Quality` may.

    Returns:
        Percent, 0 to 100; None where the record does not tell.
    """
    value = _quality_3(record) if record[:3] == b"MS\x03" else _quality_2(record)
    return round(value) if value is not None and 0 <= value <= 100 else None


def _quality_2(record: bytes) -> int | None:
    if len(record) < _FIXED_BYTES_2:
        return None
    # The byte order of the header is nowhere written; only one of them gives a year that can be.
    order = ">" if struct.unpack_from(">H", record, 20)[0] in _YEARS else "<"
    at: int = struct.unpack_from(f"{order}H", record, 46)[0]
    for _ in range(_MAX_BLOCKETTES):
        if not _FIXED_BYTES_2 <= at <= len(record) - 8:
            return None
        kind, following = struct.unpack_from(f"{order}HH", record, at)
        if kind == 1001:
            return record[at + 4]
        if following <= at:
            return None
        at = following
    return None


def _quality_3(record: bytes) -> float | None:
    if len(record) < _FIXED_BYTES_3:
        return None
    id_bytes, extra_bytes = struct.unpack_from("<BH", record, 33)
    if not extra_bytes:
        return None
    start = _FIXED_BYTES_3 + id_bytes
    try:
        value = read_json(record[start : start + extra_bytes].decode())["FDSN"]["Time"]["Quality"]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
