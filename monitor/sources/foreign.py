"""Waveform formats other than miniSEED, through ObsPy where it is installed; the only importer of it."""

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from monitor.records import ChannelId, Samples, Segment
from monitor.sources.miniseed import fault_of_times
from monitor.sources.runs import sample_time_ns

if TYPE_CHECKING:
    from obspy import Stream, Trace

# ObsPy's readers hold a file, what it unpacks to and its samples in memory at once.
MAX_FOREIGN_BYTES = 512 * 2**20

NOT_INSTALLED = (
    "is not miniSEED; with pip install 'seismic-monitor[obspy]' other formats (GSE2, SAC, SLIST, …) are read too"
)
NOT_RECOGNISED = "is not a waveform file that miniSEED or ObsPy readers recognise"
CUT_SHORT = "looks like WIN, and ends before the samples that its last header tells of"
# How ObsPy's reader of WIN warns that it takes earlier bytes again for samples that are missing.
_TAKEN_AGAIN = "This shouldn't happen"

# PICKLE: to look at one is to run what it holds. MSEED: pymseed has already found no record.
_FORMATS_NOT_TRIED = frozenset({"PICKLE", "MSEED"})


class ForeignFormatError(ValueError):
    """The file cannot be read; the message says why, for a person."""


def read_foreign(path: str) -> list[Segment]:
    """Read a waveform file in any format that ObsPy knows.

    Args:
        path: The file, not compressed.

    Returns:
        Its samples as int32, float32 or float64, split at gaps; in the file's order, unlimited in length.

    Raises:
        ForeignFormatError: ObsPy is not installed, no reader of it makes sense of the file, or the file is cut short
            where its reader would make samples up.
    """
    if importlib.util.find_spec("obspy") is None:
        raise ForeignFormatError(NOT_INSTALLED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated dependencies and odd headers; nothing a user could act on
        warnings.filterwarnings("error", message=_TAKEN_AGAIN)
        stream = _read_stream(path)
        return [segment for trace in stream for segment in _segments(trace)]


@functools.cache
def _readers() -> list[tuple[Callable[[str], bool], Callable[[str], "Stream"]]]:
    """Load ObsPy's readers: what tells a format, and what reads it."""
    from obspy.core.util.base import ENTRY_POINTS  # noqa: PLC0415 (takes a second, and most input is miniSEED)

    readers = []
    for name in ENTRY_POINTS["waveform"]:  # in ObsPy's order: the formats that are told most surely come first
        if name not in _FORMATS_NOT_TRIED:
            plugin = {entry.name: entry for entry in entry_points(group=f"obspy.plugin.waveform.{name}")}
            with contextlib.suppress(ImportError, KeyError):  # a format whose own dependency is missing
                readers.append((plugin["isFormat"].load(), plugin["readFormat"].load()))
    return readers


def _read_stream(path: str) -> "Stream":
    # Not obspy.read(): that takes a name with ":" for an address, one with "*" for a pattern, and tries PICKLE.
    for is_format, read in _readers():
        # The readers raise anything on files that are not theirs (struct.error, IndexError, AssertionError, …), and
        # what one of them trips over says nothing about the next.
        try:
            if is_format(path):
                stream = read(path)
                if any(len(trace) for trace in stream):
                    return stream
        except UserWarning as warning:
            raise ForeignFormatError(CUT_SHORT) from warning
        except Exception:  # noqa: BLE001
            continue
    raise ForeignFormatError(NOT_RECOGNISED)


def _segments(trace: "Trace") -> Iterator[Segment]:
    stats = trace.stats
    codes = (str(code).strip() for code in (stats.network, stats.station, stats.location, stats.channel))
    channel_id = ChannelId(*codes)
    starttime_ns, rate = int(stats.starttime.ns), float(stats.sampling_rate)
    fault = fault_of_times(starttime_ns, len(trace.data), rate)
    if fault is not None:
        raise ForeignFormatError(f"{channel_id.seed_id}: {fault}")
    if np.ma.isMaskedArray(trace.data):
        spans = [(part.start, part.stop) for part in np.ma.clump_unmasked(trace.data)]  # type: ignore[no-untyped-call]
    else:
        spans = [(0, len(trace.data))]
    values = _native(np.ma.getdata(trace.data), channel_id)
    for first, stop in spans:
        if first < stop:
            yield Segment(channel_id, sample_time_ns(starttime_ns, first, rate), rate, values[first:stop])


def _native(values: npt.NDArray[Any], channel_id: ChannelId) -> Samples:
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "f":
        return values.astype(np.float32) if size <= 4 else values.astype(np.float64)
    if kind not in "iub":
        raise ForeignFormatError(f"{channel_id.seed_id}: samples of type {values.dtype}; accepted: numbers")
    int32 = np.iinfo(np.int32)
    if size < 4 or (values.size and int32.min <= int(values.min()) and int(values.max()) <= int32.max):
        return values.astype(np.int32)
    return values.astype(np.float64)
