"""Detections as the tests of what is printed and drawn need them."""

from typing import Any

from hypothesis import strategies as st

from monitor.records import Detection, ModelRef, Phase, Reason, State
from monitor.timebase import format_time

HOSTILE = "A\x1b[2J\r\n[red]B[/red]\x00,\"'<&>$\\frac{\u202e\U0001f30b"


def detection(**changes: Any) -> Detection:
    """Build a local earthquake at BW.UH1, with the given fields changed."""
    fields: dict[str, Any] = {
        "id": "3f2a9c1be07d",
        "revision": 3,
        "state": "final",
        "station": "BW.UH1",
        "seed_ids": ["BW.UH1..EHZ", "BW.UH1..EHN", "BW.UH1..EHE"],
        "onset": "2010-05-27T16:24:33.315000Z",
        "onset_uncertainty_s": 0.12,
        "end": "2010-05-27T16:24:51.900000Z",
        "phase": "P",
        "s_onset": "2010-05-27T16:24:35.620000Z",
        "probability": 0.973,
        "snr_db": 21.34,
        "peak_counts": 18342.0,
        "dominant_hz": 8.2,
        "data_complete": 0.98,
        "origin": "replay",
        "decided_at": "2010-05-27T16:24:36.100000Z",
        "latency_s": 2.785,
        "model": ModelRef(name="unet-small", version="1.2.0", sha256="9f86d081884c7d65"),
        "reason": Reason(
            threshold=0.5,
            peak_score=0.973,
            peak_p=0.91,
            peak_s=0.84,
            above_threshold_s=14.2,
            checks={"duration": True, "band": False},
        ),
    }
    return Detection(**(fields | changes))


_times = st.integers(0, 4_000_000_000_000_000).map(lambda micros: format_time(micros * 1000))
_shares = st.floats(0, 1)
_sizes = st.floats(0, 1e12)
# Whatever UTF-8 can carry: codes come from files and networks.
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_states: st.SearchStrategy[State] = st.sampled_from(["new", "update", "final", "retracted"])
_phases: st.SearchStrategy[Phase] = st.sampled_from(["P", "S", "unknown"])

detections: st.SearchStrategy[Detection] = st.builds(
    Detection,
    id=_texts,
    revision=st.integers(0, 99),
    state=_states,
    station=_texts,
    seed_ids=st.lists(_texts, max_size=3) | st.just(["BW.UH1.00.HHZ", "BW.UH1.00.HHN"]),
    onset=_times,
    onset_uncertainty_s=_sizes,
    end=st.none() | _times,
    phase=_phases,
    s_onset=st.none() | _times,
    probability=_shares,
    class_=_texts | st.just("earthquake"),
    snr_db=st.none() | st.floats(-200, 200),
    peak_counts=_sizes,
    dominant_hz=_sizes,
    data_complete=_shares,
    origin=st.sampled_from(["live", "backfill", "replay"]),
    decided_at=_times,
    latency_s=_sizes,
    model=st.builds(ModelRef, name=_texts, version=_texts, sha256=_texts),
    reason=st.builds(
        Reason,
        threshold=_shares,
        peak_score=_shares,
        peak_p=_shares,
        peak_s=_shares,
        above_threshold_s=_sizes,
        checks=st.dictionaries(_texts, st.booleans(), max_size=3),
    ),
)
