"""Explains a moment: what the model saw, what it said, what moved it, and why that was a detection or was not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from monitor.detector import DetectorSettings
from monitor.explain.document import ExplanationDocument, document_of
from monitor.explain.moment import Moment, MomentError, Span
from monitor.explain.occlusion import Occlusion, occlude
from monitor.explain.verdict import Verdict, judge
from monitor.explain.watch import usable_channels, watch
from monitor.explain.words import in_words
from monitor.model import Model
from monitor.records import ChannelId, Detection
from monitor.sources.files import FileSource
from monitor.sources.memory import read_records
from monitor.stations import StationGroup, group_channels
from monitor.timebase import NS_PER_SECOND, format_time, parse_time, seconds_to_ns

# What is shown around the moment, and at most.
_SHOWN_BEFORE_S = 14.0
_SHOWN_AFTER_S = 12.0
_SHOWN_AT_MOST_S = 75.0


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A moment explained.

    Attributes:
        moment: What the pipeline saw.
        verdict: What was decided.
        occlusion: What moved the output that is explained; None where there was nothing to judge.
        words: Why, in whole sentences.
        told: The detection that was to be explained, where one was given.
        differences: Field -> what was told and what comes out here.
    """

    moment: Moment
    verdict: Verdict
    occlusion: Occlusion | None
    words: list[str]
    told: Detection | None = None
    differences: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def shown(self) -> Span:
        """From and up to when figures show it."""
        moment, verdict = self.moment, self.verdict
        times = [moment.time_ns, moment.step_ns(verdict.step)]
        if verdict.event is not None:
            times.append(moment.step_ns(verdict.event.onset_step))
        start_ns = min(times) - seconds_to_ns(_SHOWN_BEFORE_S)
        end_ns = max(times) + seconds_to_ns(_SHOWN_AFTER_S)
        if verdict.event is not None:
            end_ns = max(end_ns, moment.step_ns(verdict.event.last_active_step) + seconds_to_ns(_SHOWN_AFTER_S / 3))
        # The grid that frames and samples share keeps panels aligned.
        start_ns = moment.sample_ns(start_ns * moment.rate // NS_PER_SECOND)
        return Span(start_ns, min(end_ns, start_ns + seconds_to_ns(_SHOWN_AT_MOST_S)))

    def document(self) -> ExplanationDocument:
        """Give it as what is written as JSON."""
        moment, verdict = self.moment, self.verdict
        return document_of(
            moment, verdict, self.occlusion, self.words, shown=self.shown, told=self.told, differences=self.differences
        )

    def write_json(self, path: Path) -> None:
        """Write it as JSON, `monitor.explanation/1`.

        Raises:
            OSError: The file cannot be written.
        """
        path.write_bytes(self.json() + b"\n")

    def json(self) -> bytes:
        """It as JSON."""
        return msgspec.json.encode(self.document())

    def draw(self, path: Path) -> None:
        """Draw it: waveforms, spectrogram, what moved the score, probabilities, the words; a PNG.

        Raises:
            PictureError: Pillow is missing, or the file cannot be written.
        """
        # Only who draws needs Pillow.
        from monitor.explain.picture import draw_explanation  # noqa: PLC0415

        draw_explanation(self, path)

    def picture(self) -> bytes:
        """The PNG that `draw` writes.

        Raises:
            PictureError: Pillow is missing.
        """
        from monitor.explain.picture import explanation_png  # noqa: PLC0415

        return explanation_png(self)


def instruments(source: FileSource) -> list[StationGroup]:
    """List the instruments of recordings, as a replay groups channels."""
    contents = source.scan()
    return group_channels(usable_channels({c: found.sampling_rates for c, found in contents.channels.items()}))


def explain_moment(
    source: FileSource, group: StationGroup, model: Model, settings: DetectorSettings, *, time_ns: int
) -> Explanation:
    """Explain a moment of recordings, with the numbers of a replay of them.

    Args:
        source: The files.
        group: One of its `instruments`.
        model: The loaded model.
        settings: How to decide.
        time_ns: Which moment, nanoseconds since the epoch.

    Raises:
        MomentError: The recording does not reach there.
    """
    found = source.scan().channels
    channels = [found[channel] for channel in group.channels if channel is not None]
    recorded = Span(min(c.first_ns for c in channels), max(c.last_ns for c in channels))
    _require_inside(group, recorded, time_ns)
    return _explained(watch(source, group, model, settings, time_ns=time_ns, recorded=recorded))


def explain_event(
    detection: Detection, records: bytes, model: Model, *, settings: DetectorSettings | None = None
) -> Explanation:
    """Explain a detection by the records around it.

    What precedes the onset there is shorter than what the monitor had heard: the numbers may differ a little, and the
    explanation says by how much.

    Args:
        detection: Which.
        records: miniSEED of its channels, from a minute before the onset to two minutes after it or so.
        model: The loaded model.
        settings: How it was decided; without them the defaults, with the threshold of the detection.

    Raises:
        MomentError: The records hold nothing of its channels at its onset.
    """
    if settings is None:
        settings = DetectorSettings(threshold=detection.reason.threshold)
    wanted = {ChannelId(*seed_id.split(".")) for seed_id in detection.seed_ids if seed_id.count(".") == 3}
    segments = [segment for segment in read_records(records) if segment.channel_id in wanted]
    groups = group_channels({segment.channel_id for segment in segments})
    if not groups:
        raise MomentError(f"no samples of {' '.join(detection.seed_ids)} in the records of {detection.id}")
    # All of one detection are one instrument's.
    group = max(groups, key=lambda one: len(one.seed_ids))
    recorded = Span(min(s.starttime_ns for s in segments), max(s.next_ns for s in segments))
    time_ns = parse_time(detection.onset)
    _require_inside(group, recorded, time_ns)
    moment = watch(segments, group, model, settings, time_ns=time_ns, recorded=recorded)
    return _explained(moment, told=detection)


def _require_inside(group: StationGroup, recorded: Span, time_ns: int) -> None:
    if not recorded.start_ns <= time_ns <= recorded.end_ns:
        raise MomentError(
            f"nothing of {group.name} at {format_time(time_ns)}; it was recorded from"
            f" {format_time(recorded.start_ns)} to {format_time(recorded.end_ns)}"
        )


def _explained(moment: Moment, told: Detection | None = None) -> Explanation:
    verdict = judge(moment)
    occlusion = None
    if verdict.kind not in ("gap", "masked", "warming_up"):
        occlusion = occlude(moment.model, moment.input(verdict.step)[1])
    words = in_words(moment, verdict, occlusion)
    differences = {} if told is None else _differences(told, verdict)
    if told is not None and differences:
        words.append(_in_the_archive(told, verdict))
    return Explanation(moment, verdict, occlusion, words, told, differences)


def _differences(told: Detection, verdict: Verdict) -> dict[str, list[Any]]:
    here = verdict.detection
    if here is None:
        return {"probability": [told.probability, round(verdict.peak[0], 4)]}
    return {
        name: [getattr(told, name), getattr(here, name)]
        for name in ("onset", "s_onset", "phase", "probability", "snr_db", "dominant_hz", "peak_counts")
        if getattr(told, name) != getattr(here, name)
    }


def _in_the_archive(told: Detection, verdict: Verdict) -> str:
    here = verdict.peak[0] if verdict.detection is None else verdict.detection.probability
    return (
        f"These numbers are of the records kept with the event; the monitor, which had heard more before it, said"
        f" probability {told.probability:.3f} (here {here:.3f})."
    )
