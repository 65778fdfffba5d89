"""What the daemon cost and did, from where anybody can see it: /proc and its metrics."""

import math
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

_METRICS_TIMEOUT_S = 5.0


class Usage(NamedTuple):
    """What a process used.

    Attributes:
        peak_bytes: Most memory resident at a time; None where the system does not tell.
        cpu_s: Processor time, seconds; None likewise.
    """

    peak_bytes: int | None
    cpu_s: float | None


def usage_of(pid: int, *, proc: Path = Path("/proc")) -> Usage:
    """Say what a running process has used so far (proc(5)).

    Args:
        pid: Which.
        proc: Where Linux tells.
    """
    try:
        status = (proc / str(pid) / "status").read_text()
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return Usage(None, None)
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    # The name of the program stands in brackets and may hold anything; utime and stime are fields 14 and 15.
    fields = stat.rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(int(peaks[0]) * 1024 if peaks else None, (int(fields[11]) + int(fields[12])) / ticks)


def read_metrics(port: int) -> dict[str, float]:
    """Read metrics as Prometheus does: name -> sum over all labels; empty where nobody answers.

    Args:
        port: On 127.0.0.1.
    """
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=_METRICS_TIMEOUT_S) as answer:
            text: str = answer.read().decode()
    except (OSError, urllib.error.URLError, ValueError):
        return {}
    return sums(text)


def sums(exposition: str) -> dict[str, float]:
    """Add up what has one name, whatever its labels."""
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        if line.startswith("#") or not line:
            continue
        name = line.partition("{")[0].partition(" ")[0]
        value = float(line.rpartition(" ")[2])
        if not math.isnan(value):  # not known
            found[name] = found.get(name, 0.0) + value
    return found
