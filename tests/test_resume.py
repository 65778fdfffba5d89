"""A pipeline that is killed and taken up again says what one that was never killed says."""

from dataclasses import replace

import numpy as np
import pytest

from monitor.detector import DetectorSettings
from monitor.model import Model
from monitor.pipeline import LIVE_BATCH_S, ResumePoint, StationPipeline
from monitor.records import Detection, Segment
from monitor.spectrogram import F32, Bool
from monitor.stations import StationGroup, group_channels
from tests.waveforms import earthquake, segments, split

SETTINGS = DetectorSettings(threshold=0.5)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def packets(rate: float, *, switched_s: float | None = None) -> list[Segment]:
    """Nine minutes with earthquakes far apart, close together and within one another's coda, and a gap.

    Args:
        rate: Samples per second.
        switched_s: So often the recorder goes over to half the rate and eight times the gain, or back.
    """
    wave = np.concatenate(
        [
            earthquake(rate=rate, p_s=p, s_minus_p=s, seconds=length, snr=snr, seed=seed)
            for seed, (p, s, length, snr) in enumerate(
                [
                    (50, 3, 90, 12),
                    (15, 2, 30, 15),
                    (4, 4, 12, 9),
                    (5, 2, 11, 40),
                    (70, 6, 100, 8),
                    (30, 9, 150, 10),
                    (20, 3, 60, 20),
                    (20, 3, 60, 6),
                ]
            )
        ],
        axis=1,
    )
    parts = segments(wave, rate=rate)
    if switched_s is not None:
        parts = [
            part if number % 2 == 0 else replace(part, sampling_rate=rate / 2, samples=8 * part.samples[::2])
            for whole in parts
            for number, part in enumerate(split(whole, [round(switched_s * rate)]))
        ]
    pieces = [piece for part in parts for piece in split(part, [97, 412, 100])]
    gap = range(round(330 * 1e9), round(337.5 * 1e9))
    start = min(piece.starttime_ns for piece in pieces)
    return sorted(
        (piece for piece in pieces if piece.starttime_ns - start not in gap), key=lambda piece: piece.starttime_ns
    )


Outputs = dict[int, tuple[list[float], bool]]


def run(
    model: Model,
    group: StationGroup,
    source: list[Segment],
    point: ResumePoint | None,
    *,
    kill_after: int | None,
    outputs: Outputs,
) -> tuple[list[Detection], ResumePoint | None]:
    """Feed from `point` on, until `kill_after` packets; what was said, and where to go on."""
    resume = None if point is None else point.settled
    depth = 0

    def same(first: int, probabilities: F32, judged: Bool) -> None:
        for step, row, real in zip(range(first, first + len(judged)), probabilities.tolist(), judged, strict=True):
            # What decisions are made of is the same, to the bit; what is not judged decides nothing.
            said = (row if real else [], bool(real))
            if resume is None or step >= resume.step - depth:
                assert outputs.setdefault(step, said) == said

    pipeline = StationPipeline(
        group, model, SETTINGS, origin="live", batch_s=LIVE_BATCH_S, resume=resume, on_output=same
    )
    depth = pipeline.look_back_steps
    needed = [piece for piece in source if point is None or piece.next_ns > point.needed_from_ns]
    found = []
    for piece in needed[:kill_after]:
        found += pipeline.advance(piece.starttime_ns)
        found += pipeline.push(piece)
    if kill_after is None or kill_after >= len(needed):
        return found + pipeline.finish(), None
    return found, pipeline.resume_point or point


@pytest.mark.parametrize(("rate", "switched_s"), [(100.0, None), (50.0, None), (100.0, 47.3)])
def test_killed_at_any_moment_it_says_the_same(model: Model, rate: float, switched_s: float | None) -> None:
    source = packets(rate, switched_s=switched_s)
    (group,) = group_channels(piece.channel_id for piece in source)
    outputs: Outputs = {}
    undisturbed, _ = run(model, group, source, None, kill_after=None, outputs=outputs)
    assert len({detection.id for detection in undisturbed}) >= 6
    expected = {(detection.id, detection.revision): detection for detection in undisturbed}
    rng = np.random.default_rng(1)
    for _ in range(3):
        told: dict[tuple[str, int], Detection] = {}
        point, alive = None, True
        while alive:
            # Now and then killed before it has caught up with where it was.
            kill_after = int(rng.choice([rng.integers(5, 200), rng.integers(200, 900)]))
            found, following = run(model, group, source, point, kill_after=kill_after, outputs=outputs)
            for detection in found:
                key = (detection.id, detection.revision)
                assert told.setdefault(key, detection) == detection
            alive = following is not None
            stuck = following == point
            point = following
            if stuck and alive:
                found, _ = run(model, group, source, point, kill_after=None, outputs=outputs)
                told |= {(detection.id, detection.revision): detection for detection in found}
                alive = False
        assert told == expected


def test_a_resume_point_never_goes_back_and_stays_ahead_of_an_open_event(model: Model) -> None:
    source = packets(100.0)
    (group,) = group_channels(piece.channel_id for piece in source)
    pipeline = StationPipeline(group, model, SETTINGS, origin="live")
    newest = None
    for piece in source:
        pipeline.advance(piece.starttime_ns)
        pipeline.push(piece)
        point = pipeline.resume_point
        if point is not None:
            assert newest is None or point.needed_from_ns >= newest.needed_from_ns
            newest = point
    assert newest is not None
    assert source[-1].next_ns - newest.needed_from_ns < 300e9
