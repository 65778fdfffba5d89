"""A long recording with many earthquakes: the four stations of Unterhaching, again and again, without a seam."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import obspy

from monitor.detector import DetectorSettings
from monitor.model import Model
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.records import ChannelId, Detection, Segment
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND

RECORDINGS = sorted((Path(obspy.__file__).parent / "signal/tests/data").glob("BW.UH*.cut.slist.gz"))
# Each copy goes over into the next for so long; both ends are noise.
_BLEND_S = 4.0
# Before the first earthquake.
_QUIET_S = 27.0
# Pushed at a time where the recording is judged as a whole.
_CHUNK_S = 60.0

Key = tuple[str, int]


@lru_cache(maxsize=1)
def _originals() -> list[tuple[ChannelId, float, np.ndarray]]:
    found = []
    for path in RECORDINGS:
        (trace,) = obspy.read(path)
        found.append((ChannelId(*trace.id.split(".")), trace.stats.sampling_rate, np.asarray(trace.data, np.float64)))
    return found


def make(copies: int, *, end_ns: int, stations: str = "UH1 UH2 UH3 UH4") -> list[Segment]:
    """Join copies of the recordings, each its own strength, and end with quiet.

    Args:
        copies: How many; each has two large earthquakes and two small ones, and lasts about 226 s.
        end_ns: When the sample after the last one would come.
        stations: Which.
    """
    gains = 1.0 + 0.3 * np.sin(np.arange(copies))
    made = []
    for channel, rate, wave in _originals():
        if channel.station not in stations.split():
            continue
        blend = round(_BLEND_S * rate)
        ramp = np.linspace(0.0, 1.0, blend)
        level = wave - np.median(wave)
        whole = level * gains[0]
        quiet = level[: round(_QUIET_S * rate)]
        for piece in [*(level * gain for gain in gains[1:]), quiet, quiet[::-1]]:
            seam = whole[-blend:] * (1 - ramp) + piece[:blend] * ramp
            whole = np.concatenate([whole[:-blend], seam, piece[blend:]])
        start_ns = end_ns - round(len(whole) * NS_PER_SECOND / rate)
        # To the microsecond, as records tell it.
        made.append(Segment(channel, start_ns // 1000 * 1000, rate, np.rint(whole).astype(np.int32)))
    return made


def cut(whole: list[Segment], seconds: float) -> list[Segment]:
    """The recording in pieces, in order of time."""
    pieces = []
    for segment in whole:
        size = round(seconds * segment.sampling_rate)
        for first in range(0, segment.npts, size):
            start_ns = segment.starttime_ns + round(first * NS_PER_SECOND / segment.sampling_rate)
            samples = segment.samples[first : first + size]
            pieces.append(Segment(segment.channel_id, start_ns, segment.sampling_rate, samples))
    return sorted(pieces, key=lambda piece: piece.starttime_ns)


def judge(pieces: list[Segment], *, settings: DetectorSettings | None = None) -> dict[Key, Detection]:
    """What a replay says of it: each revision by id and number."""
    model = Model()
    said: dict[Key, Detection] = {}
    for group in group_channels(piece.channel_id for piece in pieces):
        pipeline = StationPipeline(
            group, model, settings or DetectorSettings(), origin="replay", batch_s=REPLAY_BATCH_S
        )
        found: list[Detection] = []
        for piece in pieces:
            if piece.channel_id in group.channels:
                found += pipeline.advance(piece.starttime_ns)
                found += pipeline.push(piece)
        said |= {(d.id, d.revision): d for d in [*found, *pipeline.finish()]}
    return said


def replayed(whole: list[Segment]) -> dict[Key, Detection]:
    """What a replay says of an undisturbed recording."""
    return judge(cut(whole, _CHUNK_S))


def plain(detection: Detection | dict[str, Any]) -> dict[str, Any]:
    """A detection without what may differ between two runs: how late it was, and what the recorder said of its time."""
    body: dict[str, Any] = msgspec.to_builtins(detection) if isinstance(detection, Detection) else detection
    reason = dict(body["reason"])
    reason["checks"] = {name: value for name, value in reason["checks"].items() if name != "timing_good"}
    return {**body, "origin": None, "reason": reason}
