"""What is published next to a model: the report (JSON) and the model card (Markdown)."""

import importlib.metadata
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from monitor.model import Model
from train.restore import shipped_start

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy", "scipy")

# The others are in the report: the card is to be read at one sitting.
_CARD_BREAKDOWNS = ("SNR", "S-P", "components")

_RULES = """\
A labelled P counts where there was data to judge it: 5 s into a run of samples or later, 2 s before its end or earlier.
It is *picked* by the detection whose onset is nearest, within 1.5 s, and *found* if a detection overlaps P to S. A
false alarm is a detection that picks nothing and touches neither a labelled earthquake or its coda nor an interval
whose truth is unknown; false alarms are counted on continuous and noise recordings only and divided by the hours of
them that are noise. Intervals in brackets hold 90 % of 400 resamplings of the stations."""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table; numbers are aligned to the right."""
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join('---' if i == 0 else '--:' for i in range(len(header)))}|"]
    lines += [f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _with_interval(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def evaluation_tables(evaluation: Mapping[str, Any]) -> str:
    """The figures on windows as Markdown."""
    detectors: Mapping[str, Any] = evaluation["detectors"]
    keys = ("threshold", "accuracy", "precision", "recall", "f1", "roc_auc")
    main = table(
        ("detector", *keys, "TP", "FN", "FP", "TN"),
        ([name, *(d[key] for key in keys), *d["confusion"].values()] for name, d in detectors.items()),
    )
    bins = list(next(iter(detectors.values()))["recall_by_snr"]) if detectors else []
    counts = {b: next(iter(detectors.values()))["recall_by_snr"][b]["windows"] for b in bins}
    by_snr = table(
        ("recall", *(f"{b} ({counts[b]})" for b in bins if counts[b])),
        ([name, *(d["recall_by_snr"][b]["recall"] for b in bins if counts[b])] for name, d in detectors.items()),
    )
    return f"{main}\n\n{by_snr}"


def benchmark_tables(benchmark: Mapping[str, Any], *, by: Collection[str] | None = None) -> str:
    """The figures on continuous data as Markdown; broken down by these properties, or by all."""
    detectors: Mapping[str, Any] = benchmark["detectors"]
    parts = [_recall_table("detector", detectors)]
    first: Mapping[str, Any] = next(iter(detectors.values()))
    for label, groups in first["by"].items():
        if by is not None and label not in by:
            continue
        heads = (f"{group.split(': ')[-1]} ({of['p_arrivals']})" for group, of in groups.items())
        parts.append(
            table(
                (f"recall at 1 / 0.1 /h by {label}", *heads),
                (
                    [name, *(f"{d['by'][label][g]['1']:.2f} / {d['by'][label][g]['0.1']:.2f}" for g in groups)]
                    for name, d in detectors.items()
                ),
            )
        )
    if recorded := benchmark.get("recorded"):
        parts.append(_recall_table("int8, as if recorded", {"as stored": first, **recorded}))
    return "\n\n".join(parts)


def _recall_table(head: str, rows: Mapping[str, Any]) -> str:
    return table(
        (head, "recall at 1 /h", "recall at 0.1 /h", "threshold", "recall", "found", "false alarms /h"),
        (
            [
                name,
                *(_with_interval(d["at_rate"][r]["recall"], d["at_rate"][r]["interval_90"]) for r in ("1", "0.1")),
                d["at_threshold"]["threshold"],
                _with_interval(d["at_threshold"]["recall"], d["at_threshold"]["recall_interval_90"]),
                d["at_threshold"]["event_found"],
                _with_interval(
                    d["at_threshold"]["false_alarms_per_hour"],
                    d["at_threshold"]["false_alarms_per_hour_interval_90"],
                ),
            ]
            for name, d in rows.items()
        ),
    )


def faint_text(faint: Mapping[str, Any]) -> str:
    """Recall of faint earthquakes as Markdown, with what they are."""
    rows = [
        [f"{name}, at {threshold}", *(f"{value:.2f}" for value in recalls)]
        for name, of in faint["recall"].items()
        for threshold, recalls in of.items()
    ]
    return (
        "How faint an earthquake may be: clear ones laid over noise, the power of their P (first 1.5 s, vertical, 1.5 "
        f"to 20 Hz) so much above or below it, {faint['p_arrivals_each']} of each; recall at thresholds of the table "
        f"above.\n\n{table(('P over noise', *(f'{ratio} dB' for ratio in faint['ratios_db'])), rows)}"
    )


def disturbed_text(disturbed: Mapping[str, Any]) -> str:
    """False alarms in noise that is disturbed as in training, as Markdown, with what they are."""
    return (
        "What is not the Earth: false alarms where each kind of disturbance, as training makes them (`train.disturb`), "
        f"is laid over all {disturbed['windows_each']} windows of noise once, {disturbed['hours_each']:.1f} hours of "
        f"each kind; at thresholds of the table above.\n\n{_by_kind(disturbed)}"
    )


def unseen_text(unseen: Mapping[str, Any]) -> str:
    """False alarms in noise with what training never makes, as Markdown, with what they are."""
    return (
        "The same with what training never makes (`train.disturb_unseen`); some come again and again within a window."
        f"\n\n{_by_kind(unseen)}"
    )


def _by_kind(disturbed: Mapping[str, Any]) -> str:
    names = [(name, threshold) for name, of in disturbed["false_alarms"].items() for threshold in of]
    rows = [
        [kind.replace("_", " "), *(disturbed["false_alarms"][name][threshold][i] for name, threshold in names)]
        for i, kind in enumerate(disturbed["kinds"])
    ]
    return table(("disturbance", *(f"{name}, at {threshold}" for name, threshold in names)), rows)


def onset_tables(benchmark: Mapping[str, Any]) -> str:
    """Onset errors and delays as Markdown."""
    onsets = benchmark["onsets"]
    keys = ("picks", "median_s", "mad_s", "within_0.1_s", "within_0.3_s", "within_0.5_s")
    rows = [[name, *(onsets[name].get(key) for key in keys)] for name in ("refined", "network")]
    for label, both in onsets["by_label"].items():
        rows += [[f"{name}, {label} labels", *(both[name].get(key) for key in keys)] for name in ("refined", "network")]
    rows += [[name, *(of.get(key) for key in keys)] for name, of in onsets.get("others", {}).items()]
    text = table(("onset minus label", *keys), rows)
    if delay := onsets.get("delay_s"):
        groups = {"all": delay} | {name.split(": ")[-1]: of for name, of in onsets.get("delay_by_snr", {}).items()}
        quantiles = ("median", "p90", "p95")
        text += (
            f"\n\nFirst told after the labelled P: {delay['median']:.2f} s in the median, "
            f"{delay['p95']:.2f} s for 95 %.\n\n"
        )
        text += table(
            ("delay of `new`, s", "picks", "50 %", "90 %", "95 %"),
            ([name, of.get("picks"), *(of[key] for key in quantiles)] for name, of in groups.items()),
        )
    return text


def headline(evaluation: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    """The figures to begin with, ours and the others', as Markdown: the table of the README."""
    names = ["int8", *(name for name in benchmark["onsets"]["others"] if name in evaluation["detectors"])]
    on = [benchmark["detectors"][name] for name in names]
    onsets = [benchmark["onsets"]["refined"], *(benchmark["onsets"]["others"][name] for name in names[1:])]
    delay = benchmark["onsets"].get("delay_s")
    rows: list[Sequence[object]] = [
        [
            f"recall of labelled P at {rate} false alarm{'s' * (rate != '1')} per station-hour",
            *(f"{of['at_rate'][rate]['recall']:.2f}" for of in on),
        ]
        for rate in ("1", "0.1")
    ]
    rows += [
        ["recall at its default threshold", *(f"{of['at_threshold']['recall']:.2f}" for of in on)],
        [
            "false alarms per station-day there",
            *(f"{24 * of['at_threshold']['false_alarms_per_hour']:.1f}" for of in on),
        ],
        ["area under the ROC curve, windows of 30 s", *(f"{evaluation['detectors'][n]['roc_auc']:.3f}" for n in names)],
        ["onsets within 0.1 s of the label", *(f"{100 * of.get('within_0.1_s', 0.0):.0f} %" for of in onsets)],
        [
            "onset error, median absolute deviation",
            *(f"{of['mad_s']:.2f} s" if "mad_s" in of else None for of in onsets),
        ],
    ]
    noises = {
        "disturbed": "false alarms per hour there, with steps, machines, wind and the like in every minute",
        "unseen": "false alarms per hour there, with trains, helicopters, thunder, whales and the like",
    }
    made = [(text, of) for name, text in noises.items() if (of := benchmark.get(name))]
    for place, (text, of_kinds) in enumerate(made, start=4):
        hours = of_kinds["hours_each"] * len(of_kinds["kinds"])
        false = [sum(of_kinds["false_alarms"][name]["its default"]) for name in names]
        rows.insert(place, [text, *(f"{number / hours:.2f}" for number in false)])
    if delay:
        rows.append(
            [
                "first told after P, median and 95 %",
                f"{delay['median']:.1f} s, {delay['p95']:.1f} s",
                *[None] * (len(on) - 1),
            ]
        )
    return table(("", "monitor", *names[1:]), rows)


def windows_text(evaluation: Mapping[str, Any]) -> str:
    """The figures on windows as Markdown, with what they are."""
    return (
        f"{evaluation['positive']} windows of 30 s with a labelled P, {evaluation['negative']} without, of the "
        f"{evaluation['split']} split; a window's score is the highest event probability in it."
        f"\n\n{evaluation_tables(evaluation)}"
    )


def continuous_text(benchmark: Mapping[str, Any], *, by: Collection[str] | None = None) -> str:
    """The figures on continuous data as Markdown, with the rules behind them; broken down by these properties."""
    first: Mapping[str, Any] = next(iter(benchmark["detectors"].values()))
    parity = benchmark["parity"]
    made = "".join(
        f"{text(of)}\n\n"
        for name, text in (("faint", faint_text), ("disturbed", disturbed_text), ("unseen", unseen_text))
        if (of := benchmark.get(name))
    )
    return (
        f"{first['p_arrivals']} labelled P arrivals and {first['noise_hours']} hours of noise at {first['stations']} "
        f"stations, split: {benchmark['split']}.\n\n{_RULES}\n\n{benchmark_tables(benchmark, by=by)}\n\n"
        f"{made}{onset_tables(benchmark)}\n\nOf the detections of the float and the int8 network together, "
        f"{100 * parity['missing_share']:.1f} % are not in the other at all, and {100 * parity['share']:.1f} % have "
        "none there whose onset is within 0.5 s. Expected calibration error of the event probability, by frame: "
        f"{benchmark['reliability'].get('expected_calibration_error')}."
    )


def model_facts(model: Model) -> dict[str, Any]:
    """What the file itself says."""
    metadata = msgspec.to_builtins(msgspec.structs.replace(model.metadata, calibration=None))
    del metadata["reference"], metadata["calibration"]
    return {
        "file": model.path.name,
        "sha256": model.ref.sha256,
        "bytes": model.size_bytes,
        "parameters": model.parameters(),
        "operators": model.operators(),
        "accelerator_problems": model.accelerator_problems(),
        "calibration": msgspec.to_builtins(model.metadata.calibration),
        "metadata": metadata,
    }


def write_report(
    model: Model,
    *,
    manifest: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    benchmark: Mapping[str, Any] | None,
    command: str,
    settings_file: Mapping[str, Any],
    date: str,
) -> tuple[Path, Path]:
    """Write the report and the card next to the model, as `NAME.json` and `NAME.md`.

    Args:
        model: The int8 model.
        manifest: Of the store that it was trained on.
        evaluation: Figures on windows, if there are any.
        benchmark: Figures on continuous data, if there are any.
        command: What makes the model anew.
        settings_file: What the file has that `command` calls SETTINGS: `part.key` -> value.
        date: Of the run.

    Returns:
        Their paths.
    """
    facts = model_facts(model)
    data = {
        "fingerprint": manifest["fingerprint"],
        "sources": [source["name"] for source in manifest["sources"]],
        "excluded": model.metadata.settings["data"]["exclude"],
        "counts": manifest["counts"],
    }
    software = {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)}
    report = {
        "schema": "train.report/1",
        "date": date,
        "command": command,
        "settings_file": settings_file,
        "software": {"python": platform.python_version(), **software},
        "model": facts,
        "data": data,
        "evaluation": evaluation,
        "benchmark": benchmark,
    }
    path = model.path.with_suffix(".json")
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    card = model.path.with_suffix(".md")
    card.write_text(_card(model, report), encoding="utf-8")
    return path, card


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _begun_with(sha256: str) -> str:
    """What the card says of the model that training went on from."""
    if not sha256:
        return ""
    start = shipped_start(sha256)
    if start is None:
        return f"\nMODEL has the sha256 `{sha256}`: this one was made from it.\n"
    about = Path(start).with_name("README.md").as_posix()
    return f"\n`{start}` has the sha256 `{sha256}`;\n`{about}` tells where it is from.\n"


def _others_pickers(benchmark: Mapping[str, Any]) -> str:
    """What the card says of how to have SeisBench's pickers beside the model again."""
    others = [name for name in benchmark["onsets"]["others"] if not name.startswith("STA/LTA")]
    if not others:
        return ""
    return f"\n{', '.join(others)}: `pip install seisbench`, and `--seisbench {','.join(others).replace(' ', ':')}`.\n"


def _card(model: Model, report: Mapping[str, Any]) -> str:
    metadata, facts, data = model.metadata, report["model"], report["data"]
    step_s = metadata.output_stride * metadata.spectrogram.frame_interval_s
    ahead_s = metadata.look_ahead_frames * metadata.spectrogram.frame_interval_s
    context_s = metadata.context_frames * metadata.spectrogram.frame_interval_s
    problems = facts["accelerator_problems"]
    hours = {split: sum(row["hours"] for row in data["counts"] if row["split"] == split) for split in ("train", "dev")}
    p = {split: sum(row["p"] for row in data["counts"] if row["split"] == split) for split in ("train", "dev")}
    excluded = f" Left out of training: {', '.join(data['excluded'])}." if data["excluded"] else ""
    arrivals = ", and that a P or S wave is arriving" if len(metadata.labels) > 1 else ""
    evaluation, benchmark = report["evaluation"], report["benchmark"]
    windows = windows_text(evaluation) if evaluation else "Not evaluated on windows."
    continuous = continuous_text(benchmark, by=_CARD_BREAKDOWNS) if benchmark else "Not evaluated on continuous data."
    began = _begun_with(metadata.settings.get("start_from", ""))
    if report["settings_file"]:
        lines = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in report["settings_file"].items())
        began += f"\nSETTINGS is a TOML file with {lines}.\n"
    if benchmark:
        began += _others_pickers(benchmark)
    return f"""# Model card: {metadata.name} {metadata.version}

## What it is

An int8 TensorFlow Lite network that listens to one seismic station and says, every {step_s:g} s, how probable it is
that the ground is shaking from an earthquake{arrivals}.
Input: {metadata.spectrogram.n_freq} frequencies of Z, N and E (absent ones empty) every
{metadata.spectrogram.frame_interval_s:g} s, in decibel above the recent past. An output looks back {context_s:.1f} s
and ahead {ahead_s:.1f} s.

{facts["bytes"] / 1000:.0f} kB, {facts["parameters"]:,} parameters; sha256 `{facts["sha256"]}`.
Operators that an Edge TPU would leave to the CPU: {", ".join(problems) or "none"}.
Default threshold {metadata.threshold:g}.

## In short

{headline(evaluation, benchmark) if evaluation and benchmark else "Not evaluated."}

## Data

Trained on {hours["train"]:.0f} hours with {p["train"]} labelled P arrivals, evaluated on {hours["dev"]:.0f} hours with
{p["dev"]} of the dev split, from {", ".join(data["sources"])}; the counts of each data set are in
`{model.path.stem}.json`.{excluded}
Fingerprint of the data: `{data["fingerprint"]}`.

Labels are analysts' where there are any, else pickers' that agree with each other. What pickers did not agree on was
left out, so that the figures flatter every detector where only pickers have labelled, and those pickers (PhaseNet,
EQTransformer and RED-PAN) most: what they see is there, what they do not see is noise. Among the surest false alarms on
the dev split, of this detector and of STA/LTA alike, some are earthquakes that nobody had picked, seen by eye with the
other stations beside them: there the truth counts as unknown (`train/reviewed.csv`).

**Licence.** The recordings come from public repositories of different terms: some carry copyleft licences (GPL, LGPL,
EUPL), some none at all. The waveforms are not part of this package; check the terms of each data set before
publishing or selling what was trained on it.

## On windows

{windows}

## On continuous data

{continuous}

## Limits

* It knows local and regional earthquakes (S-P up to a minute); distant ones whose energy is under 1 Hz it was never
  shown.
* Parts of the dev split share networks with the training split. On a network it has not seen, expect less.
* False alarms are few hours' worth: the rate at the default threshold is an estimate of a rare thing. What begins at
  once, has all frequencies and fades, such as thunder, blasts and air guns at sea, is where to expect more of them: it
  looks like an earthquake nearby. People and animals beside the sensor are next.
* In the first 5 s of data, and after an outage, it says nothing.
* It is no early warning system: it says that there is an earthquake, not how large it is or where.

## How to make it anew

    {report["command"]}
{began}
{report["date"]}, {", ".join(f"{name} {version}" for name, version in report["software"].items())}.
"""
