"""An explanation in words: sentences that a person can check against the figures."""

from collections.abc import Iterator

from monitor.detector import CLEAR_P, DIED_DOWN, LULL_S, DetectorSettings, Event
from monitor.explain import stalta
from monitor.explain.moment import Moment
from monitor.explain.occlusion import Occlusion, Region
from monitor.explain.verdict import Verdict
from monitor.output import printable
from monitor.records import Detection
from monitor.timebase import NS_PER_SECOND, format_time, parse_time

# A share of data below this is worth a sentence.
_WHOLE = 0.999
# Change of log-odds: at a probability of 0.5 to 0.62 or 0.38.
_WORTH_A_SENTENCE = 0.5
# From here on behind an onset a person rather asks for another earthquake.
_ANOTHER_S = 3.0


def in_words(moment: Moment, verdict: Verdict, occlusion: Occlusion | None) -> list[str]:
    """Say why a moment was a detection or was not, in whole sentences.

    Args:
        moment: What the pipeline saw.
        verdict: What was decided.
        occlusion: What moved the output; None where there was nothing to judge.
    """
    if verdict.event is not None and verdict.detection is not None:
        sentences = [*_detected(moment, verdict, verdict.event, verdict.detection)]
    else:
        sentences = [*_not_detected(moment, verdict)]
    if verdict.kind not in ("gap", "masked", "warming_up"):
        sentences += _data(verdict)
    if occlusion is not None:
        sentences += _moved(moment, verdict, occlusion)
    sentences.append(_sta_lta(moment, verdict))
    return sentences


def clock(time_ns: int, digits: int = 2) -> str:
    """The time of day, UTC."""
    return format_time(time_ns, digits=digits)[11:-1]


def _clear_p(settings: DetectorSettings) -> float:
    return max(settings.p_probability, CLEAR_P)


def _detected(moment: Moment, verdict: Verdict, event: Event, told: Detection) -> Iterator[str]:
    settings = moment.settings
    onset_ns = parse_time(told.onset)
    what = {"P": "P", "S": "S", "unknown": "first energy"}[told.phase]
    s = ""
    if told.s_onset is not None and told.phase != "S":
        s = f", S {(parse_time(told.s_onset) - onset_ns) / NS_PER_SECOND:.2f} s later"
    yield f"A detection: {what} at {clock(onset_ns, 3)}{s}; probability {verdict.peak[0]:.3f}."
    until = clock(moment.decided_ns(event.trigger_step))
    why = (
        f"the probability had been at or above the threshold, {moment.threshold:.3f}, for {settings.confirm_s:g} s, the"
        " least that counts"
    )
    if event.began == "risen_again":
        why = (
            f"in an earlier one the probability had been below {DIED_DOWN:g} for {LULL_S:g} s or more, and it rose to"
            f" the threshold, {moment.threshold:.3f}, again, with a P arrival of {_clear_p(settings):g} or more that"
            " was likelier than an S"
        )
    elif event.began == "second_p":
        why = (
            f"while an earlier one was still going on, a P arrival of {settings.split_probability:g} or more began"
            f" another, with the probability at the threshold, {moment.threshold:.3f}"
        )
    yield (
        f"It was decided with the output that speaks of {clock(moment.step_ns(event.trigger_step))}, from samples up to"
        f" {until}: {why}. It stayed there for {told.reason.above_threshold_s:.1f} s in all, and was highest at"
        f" {clock(moment.step_ns(verdict.peak_step))}."
    )
    yield from _phases(moment, event)
    if told.snr_db is None:
        yield "The noise before it is not known: too few samples."
    else:
        faint = "" if told.reason.checks.get("rises_above_noise", True) else ", hardly above the noise"
        yield f"It rises {told.snr_db:.0f} dB above the noise before it, most at {told.dominant_hz:.0f} Hz{faint}."
    if told.data_complete < _WHOLE:
        yield f"Only {100 * told.data_complete:.0f} % of its span held real samples."
    since_s = (moment.time_ns - onset_ns) / NS_PER_SECOND
    if since_s > _ANOTHER_S:
        yield from _no_other(moment, event, since_s)


def _phases(moment: Moment, event: Event) -> Iterator[str]:
    settings = moment.settings
    if event.onset_is_s:
        yield (
            f"At its onset an S ({event.s_probability:.3f}) is likelier than a P: the P was not seen, and the onset is"
            " the S."
        )
        return
    if event.p_step is None:
        yield (
            f"No P arrival reached {settings.p_probability:g} where the probability rose, and none"
            f" {_clear_p(settings):g} in the {settings.look_back_s:g} s before: the onset is where it"
            " began to rise."
        )
    else:
        yield (
            f"The P arrival has {event.p_probability:.3f} ({settings.p_probability:g} is enough), the S arrival "
            + (
                f"{event.s_probability:.3f} ({settings.s_probability:g} is enough)."
                if event.s_step is not None
                else f"stays below {settings.s_probability:g}."
            )
        )


def _no_other(moment: Moment, event: Event, since_s: float) -> Iterator[str]:
    settings = moment.settings
    _, outputs, _ = moment.outputs(moment.time_ns - NS_PER_SECOND, moment.time_ns + NS_PER_SECOND)
    least = settings.min_split_s if event.s_step is not None else settings.min_split_before_s_s
    p = float(outputs[:, 1].max(initial=0))
    yield (
        f"The moment asked for is {since_s:.1f} s after this onset and belongs to it. A second earthquake would begin"
        f" with a P arrival of {settings.split_probability:g} or more, {least:g} s or more after the first"
        f"{'' if event.s_step is not None else ' as long as no S was seen'}, or with one of {_clear_p(settings):g}"
        f" after the probability had been below {DIED_DOWN:g} for {LULL_S:g} s; here it has {p:.3f}."
    )


def _not_detected(moment: Moment, verdict: Verdict) -> Iterator[str]:
    match verdict.kind:
        case "gap" | "masked":
            yield _nothing_to_judge(moment, masked=verdict.kind == "masked")
        case "warming_up":
            yield _warming_up(moment)
        case "too_short":
            yield (
                f"No detection: the probability reached {verdict.peak[0]:.3f} at"
                f" {clock(moment.step_ns(verdict.peak_step))} and was at or above the threshold,"
                f" {moment.threshold:.3f}, for {verdict.longest_above_s:.1f} s; the least that counts is"
                f" {moment.settings.confirm_s:g} s."
            )
        case _:
            yield (
                f"No detection: between {clock(verdict.looked_at.start_ns, 0)} and"
                f" {clock(verdict.looked_at.end_ns, 0)} the probability was at most {verdict.peak[0]:.3f}, at"
                f" {clock(moment.step_ns(verdict.peak_step))}; the threshold is {moment.threshold:.3f}."
            )
    if verdict.kind in ("too_short", "below_threshold"):
        yield f"The P arrival has {verdict.peak[1]:.3f} at most there, the S arrival {verdict.peak[2]:.3f}."
    if verdict.nearest is not None:
        onset_ns = parse_time(verdict.nearest.onset)
        apart_s = (onset_ns - moment.time_ns) / NS_PER_SECOND
        yield (
            f"The nearest detection is that of {clock(onset_ns)}, {abs(apart_s):.1f} s"
            f" {'later' if apart_s > 0 else 'earlier'}."
        )


def _nothing_to_judge(moment: Moment, *, masked: bool) -> str:
    if masked:
        return (
            "No detection: what was recorded here cannot be the ground: one value for two seconds or longer, or no"
            " finite number. It is masked."
        )
    spans = [span for of_channel in moment.received.values() for span in of_channel]
    before = max((span.end_ns for span in spans if span.end_ns <= moment.time_ns), default=None)
    after = min((span.start_ns for span in spans if span.start_ns > moment.time_ns), default=None)
    since = "" if before is None else f" from {clock(before)}"
    until = "" if after is None else f" to {clock(after)}"
    return f"No detection: there is a gap{since}{until}. Gaps are never filled."


def _warming_up(moment: Moment) -> str:
    params = moment.model.metadata.spectrogram
    least_s = (params.min_blocks + params.lag_blocks) * params.block * params.frame_interval_s
    at = int((moment.time_ns - moment.frame_ns(moment.first_frame)) / (params.frame_interval_s * NS_PER_SECOND))
    judged = moment.judged[max(0, at) :].any(axis=1)
    until = ""
    if judged.any():
        until = f"; here it is from {clock(moment.frame_ns(moment.first_frame + max(0, at) + int(judged.argmax())))} on"
    return (
        "No detection: the background is not known yet. After the start of the data, or a gap, it takes about"
        f" {least_s:g} s until there is one{until}."
    )


def _data(verdict: Verdict) -> Iterator[str]:
    missing = [
        f"{printable(seed_id)} {100 * share:.0f} %" for seed_id, share in verdict.complete.items() if share < _WHOLE
    ]
    if missing:
        yield (
            "Not all that this output looks at was there to be judged (the rest is taken for background): "
            + ", ".join(missing)
            + "."
        )


def _moved(moment: Moment, verdict: Verdict, occlusion: Occlusion) -> Iterator[str]:
    first_frame, _ = moment.input(verdict.step)
    names = _components(moment)
    step_text = clock(moment.step_ns(verdict.step))
    for sign, spoke in ((1, "for an earthquake"), (-1, "against one")):
        regions = [region for region in occlusion.regions if region.change * sign >= _WORTH_A_SENTENCE]
        best = next((region for region in regions if region.row is None), None)
        best = best or (regions[0] if regions else None)
        if best is not None:
            where = describe(moment, verdict, best, first_frame)
            yield (
                f"At {step_text} what spoke most {spoke} was {where}: without it the probability would be"
                f" {best.probability:.3f} instead of {occlusion.probability:.3f}."
            )
        single = next((region for region in regions if region.row is not None), None)
        if sign > 0 and best is not None and best.row is None and single is not None:
            yield (
                f"Of a single component it was {describe(moment, verdict, single, first_frame)} on"
                f" {names[single.row or 0]} (without it {single.probability:.3f})."
            )
    if all(abs(region.change) < _WORTH_A_SENTENCE for region in occlusion.regions):
        yield f"At {step_text} no part of the spectrogram moved the probability, {occlusion.probability:.3f}, by much."
    if len(occlusion.without) > 1:
        parts = [f"without {names[row]} {probability:.3f}" for row, probability in occlusion.without.items()]
        alone = [f"{names[row]} alone {probability:.3f}" for row, probability in occlusion.only.items()]
        yield f"By component: {', '.join(parts)}; {', '.join(alone)}."
    yield f"If nothing stood out from the background it would be {occlusion.silence:.3f}."


def describe(moment: Moment, verdict: Verdict, region: Region, first_frame: int) -> str:
    """Say where a region lies: its band, and its time after the P where there is one."""
    frequencies = moment.model.metadata.spectrogram.frequencies_hz
    low, high = frequencies[region.first_bin], frequencies[region.stop_bin - 1]
    start_ns, stop_ns = (moment.frame_ns(first_frame + frame) for frame in (region.first_frame, region.stop_frame))
    band = f"{low:.0f} to {high:.0f} Hz"
    told = verdict.detection
    if told is None or told.phase != "P":
        return f"{band} between {clock(start_ns, 1)} and {clock(stop_ns, 1)}"
    onset_ns = parse_time(told.onset)
    start_s, stop_s = (start_ns - onset_ns) / NS_PER_SECOND, (stop_ns - onset_ns) / NS_PER_SECOND
    if stop_s <= 0:
        return f"{band} from {-start_s:.1f} to {-stop_s:.1f} s before the P"
    if start_s < 0:
        return f"{band} from {-start_s:.1f} s before to {stop_s:.1f} s after the P"
    return f"{band} between {start_s:.1f} and {stop_s:.1f} s after the P"


def _components(moment: Moment) -> dict[int, str]:
    return {row: moment.model.metadata.components[row] for row in moment.components()}


def _sta_lta(moment: Moment, verdict: Verdict) -> str:
    found = verdict.sta_lta
    name = f"STA/LTA ({stalta.STA_S:g} s to {stalta.LTA_S:g} s, {stalta.BAND_HZ[0]:g} to {stalta.BAND_HZ[1]:g} Hz)"
    if found.highest is None or found.time_ns is None:
        return f"{name} has too few samples there to say anything."
    would = "it would have triggered" if found.triggers else "it would not have triggered"
    return (
        f"{name} on {printable(found.seed_id)} is {_ratio(found.highest)} at most, at {clock(found.time_ns)}: with the"
        f" usual threshold of {stalta.TRIGGER:g} {would}."
    )


def _ratio(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}".replace(",", " ")
