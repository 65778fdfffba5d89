"""Figures of the report."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#595959", "#CC79A7", "#56B4E9", "#000000")


def write_figures(benchmark: Mapping[str, Any], out: Path) -> list[Path]:
    """Draw recall against false alarms and against how faint the earthquakes are, onset errors, delays, reliability.

    Args:
        benchmark: As `python -m train benchmark` writes it.
        out: Folder.

    Returns:
        The files.
    """
    import matplotlib as mpl  # noqa: PLC0415  # heavy: only where it is used
    from matplotlib.figure import Figure  # noqa: PLC0415

    written = []

    def save(figure: Any, name: str) -> None:
        figure.savefig(out / name, dpi=150)
        written.append(out / name)

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        panel = figure.subplots()
        for color, (name, detector) in zip(cycle(_COLORS), benchmark["detectors"].items(), strict=False):
            curve = detector["curve"]
            # Off the logarithmic scale lies what had no false alarm at all.
            least = 0.5 / max(detector["noise_hours"], 1e-9)
            rates = [max(rate, least) for rate in curve["false_alarms_per_hour"]]
            panel.semilogx(rates, curve["recall"], color=color, label=name)
            at = detector["at_threshold"]
            panel.plot(max(at["false_alarms_per_hour"], least), at["recall"], "o", color=color)
        panel.set(xlabel="false alarms per station-hour", ylabel="recall of labelled P", ylim=(0, 1), xlim=(None, 100))
        panel.grid(color="#e4e4e4")
        panel.legend(frameon=False)
        save(figure, "recall.png")

        onsets = benchmark.get("onsets", {})
        if onsets.get("residuals_s"):
            figure = Figure(figsize=(8, 3.2), layout="constrained")
            left, right = figure.subplots(1, 2)
            edges = [i / 20 for i in range(-20, 21)]
            left.hist(onsets["network_residuals_s"], edges, color=_COLORS[4], alpha=0.5, label="network")
            left.hist(onsets["residuals_s"], edges, color=_COLORS[0], histtype="step", lw=1.5, label="refined")
            left.set(xlabel="onset minus label, s", ylabel="picks")
            left.legend(frameon=False)
            right.hist([min(value, 10.0) for value in onsets["delays_s"]], 50, color=_COLORS[0])
            right.set(xlabel="first told after the labelled P, s (10 or more in the last)", ylabel="picks")
            save(figure, "onsets.png")

        if faint := benchmark.get("faint"):
            figure = Figure(figsize=(6, 4), layout="constrained")
            panel = figure.subplots()
            for color, (name, at) in zip(cycle(_COLORS), faint["recall"].items(), strict=False):
                for threshold, recalls in at.items():
                    if threshold.endswith("/h"):
                        style = "-" if threshold == "1 /h" else "--"
                        panel.plot(faint["ratios_db"], recalls, style, color=color, label=f"{name}, at {threshold}")
            panel.set(xlabel="power of the P over the noise's, dB", ylabel="recall of P", ylim=(0, 1))
            panel.grid(color="#e4e4e4")
            panel.legend(frameon=False)
            save(figure, "faint.png")

        bins = benchmark.get("reliability", {}).get("bins", [])
        if bins:
            figure = Figure(figsize=(4, 4), layout="constrained")
            panel = figure.subplots()
            panel.plot([0, 1], [0, 1], color="#e4e4e4")
            panel.plot([b["said"] for b in bins], [b["true"] for b in bins], "o-", color=_COLORS[0])
            panel.set(xlabel="probability said", ylabel="share of earthquake frames", xlim=(0, 1), ylim=(0, 1))
            save(figure, "reliability.png")
    return written
