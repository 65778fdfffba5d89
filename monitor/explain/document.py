"""An explanation as JSON."""

import math
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.explain import stalta
from monitor.explain.moment import Moment, Span
from monitor.explain.occlusion import Occlusion
from monitor.explain.verdict import Kind, Verdict
from monitor.records import Detection, ModelRef
from monitor.timebase import format_time

EXPLANATION_SCHEMA = "monitor.explanation/1"


class OcclusionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What moved the output that is explained.

    Attributes:
        time: What the output speaks of.
        probability: Of an earthquake, as it is.
        silence: The same if nothing stood out from the background.
        cell_s, cell_hz: Size of a cell; patches are two by two cells, and overlap by half.
        starttime: Middle of the first frame of the first cell.
        first_hz: Lowest bin of the first cell.
        change: Component, or `all` at once -> change of log-odds by cell, times by frequencies; above 0 the cell speaks
            for an earthquake.
        regions: The regions that moved it most, strongest first.
        without, only: Component -> probability without it, and with nothing else.
    """

    time: str
    probability: float
    silence: float
    cell_s: float
    cell_hz: float
    starttime: str
    first_hz: float
    change: dict[str, list[list[float | None]]]
    regions: list[dict[str, Any]]
    without: dict[str, float]
    only: dict[str, float]


class ExplanationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An explanation as JSON; the contract `monitor.explanation/1`.

    Attributes:
        schema: Always `monitor.explanation/1`.
        station, seed_ids: Which instrument.
        time: The moment asked for.
        verdict: `detection`, `too_short`, `below_threshold`, `gap`, `masked` or `warming_up`.
        words: Why, in whole sentences.
        threshold, threshold_off, confirm_s: What was in force.
        probability, p_probability, s_probability: Highest in the detection, or near the moment.
        above_threshold_s: Longest time at or above the threshold.
        data_complete: seed_id -> share of what the output rests on that was judged.
        sta_lta: What STA/LTA says: settings, highest ratio, when, and whether it would have triggered.
        occlusion: What moved the output; null where there was nothing to judge.
        probabilities: `starttime`, `interval_s`, and the outputs around the moment; null where there was nothing.
        detection: As the pipeline tells it here; null where it is none.
        same_as_told: Whether that is what the detection that was to be explained says; null where none was given.
        differences: Field -> what was told and what comes out here.
        model: Which model.
    """

    schema: Literal["monitor.explanation/1"] = "monitor.explanation/1"
    station: str
    seed_ids: list[str]
    time: str
    verdict: Kind
    words: list[str]
    threshold: float
    threshold_off: float
    confirm_s: float
    probability: float
    p_probability: float
    s_probability: float
    above_threshold_s: float
    data_complete: dict[str, float]
    sta_lta: dict[str, Any]
    occlusion: OcclusionDocument | None
    probabilities: dict[str, Any]
    detection: Detection | None
    same_as_told: bool | None
    differences: dict[str, list[Any]]
    model: ModelRef


def document_of(
    moment: Moment,
    verdict: Verdict,
    occlusion: Occlusion | None,
    words: list[str],
    *,
    shown: Span,
    told: Detection | None,
    differences: dict[str, list[Any]],
) -> ExplanationDocument:
    """Give an explanation as what is written as JSON; the arguments are as in `Explanation`."""
    found = verdict.sta_lta
    first, outputs, real = moment.outputs(*shown)
    seen = np.where(real[:, None], outputs, np.nan)
    return ExplanationDocument(
        station=moment.group.station_id,
        seed_ids=moment.group.seed_ids,
        time=format_time(moment.time_ns),
        verdict=verdict.kind,
        words=words,
        threshold=round(moment.threshold, 6),
        threshold_off=round(moment.threshold_off, 6),
        confirm_s=moment.settings.confirm_s,
        probability=round(verdict.peak[0], 4),
        p_probability=round(verdict.peak[1], 4),
        s_probability=round(verdict.peak[2], 4),
        above_threshold_s=round(verdict.longest_above_s, 3),
        data_complete={seed_id: round(share, 4) for seed_id, share in verdict.complete.items()},
        sta_lta={
            "seed_id": found.seed_id,
            "sta_s": stalta.STA_S,
            "lta_s": stalta.LTA_S,
            "band_hz": list(stalta.BAND_HZ),
            "threshold": stalta.TRIGGER,
            "highest": None if found.highest is None else round(found.highest, 3),
            "time": None if found.time_ns is None else format_time(found.time_ns),
            "triggers": found.triggers,
        },
        occlusion=None if occlusion is None else _occlusion(moment, verdict, occlusion),
        probabilities={
            "starttime": format_time(moment.step_ns(first)),
            "interval_s": moment.step_s,
            **{label: _numbers(seen[:, at]) for at, label in enumerate(("earthquake", "P", "S"))},
        },
        detection=verdict.detection,
        same_as_told=None if told is None else not differences,
        differences=differences,
        model=moment.model.ref,
    )


def _occlusion(moment: Moment, verdict: Verdict, occlusion: Occlusion) -> OcclusionDocument:
    params = moment.model.metadata.spectrogram
    names = dict.fromkeys(moment.components())
    first_frame, _ = moment.input(verdict.step)
    bin_hz = params.sampling_rate / params.nperseg
    component = {row: moment.model.metadata.components[row] for row in names}
    planes = {**{name: occlusion.change[row] for row, name in component.items()}, "all": occlusion.change[-1]}

    def time(frame: int) -> str:
        return format_time(moment.frame_ns(first_frame + frame))

    return OcclusionDocument(
        time=format_time(moment.step_ns(verdict.step)),
        probability=round(occlusion.probability, 4),
        silence=round(occlusion.silence, 4),
        cell_s=occlusion.cell_frames * params.frame_interval_s,
        cell_hz=occlusion.cell_bins * bin_hz,
        starttime=time(0),
        first_hz=float(params.frequencies_hz[0]),
        change={name: [_numbers(row, digits=3) for row in plane] for name, plane in planes.items()},
        regions=[
            {
                "component": "all" if region.row is None else component[region.row],
                "start": time(region.first_frame),
                "end": time(region.stop_frame),
                "low_hz": float(params.frequencies_hz[region.first_bin]),
                "high_hz": float(params.frequencies_hz[region.stop_bin - 1]),
                "change": round(region.change, 3),
                "probability_without": round(region.probability, 4),
            }
            for region in occlusion.regions
        ],
        without={component[row]: round(value, 4) for row, value in occlusion.without.items()},
        only={component[row]: round(value, 4) for row, value in occlusion.only.items()},
    )


def _numbers(values: npt.NDArray[np.floating[Any]], *, digits: int = 4) -> list[float | None]:
    return [round(float(value), digits) if math.isfinite(value) else None for value in values]
