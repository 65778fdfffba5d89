"""How fast a day is replayed, next to ObsPy reading it and running STA/LTA, in the same run on the same machine.

    python benchmarks/replay_day.py [--hours 24] [--rate 100] [--runs 3]

Makes a day of three-component noise with earthquakes (miniSEED 2, Steim-2, 512-byte records, as stations send it),
then runs each program in a process of its own and asks the operating system for processor time and peak memory.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pymseed import DataEncoding, MS3Record

from monitor.timebase import parse_time

PEER = """
import sys
from obspy import read
from obspy.signal.trigger import classic_sta_lta, trigger_onset
for trace in read(sys.argv[1]):
    trace.filter("bandpass", freqmin=1.0, freqmax=20.0 if trace.stats.sampling_rate > 41 else 9.0)
    rate = trace.stats.sampling_rate
    trigger_onset(classic_sta_lta(trace.data, int(0.5 * rate), int(10 * rate)), 4.0, 1.5)
"""


def make_day(path: Path, *, hours: float, rate: float) -> None:
    rng = np.random.default_rng(1)
    n = round(hours * 3600 * rate)
    with path.open("wb") as file:
        for code in "ZNE":
            noise = rng.standard_normal(n) * 120
            wave = np.convolve(noise, [0.25, 0.5, 0.25], "same")
            for at in range(round(600 * rate), n - round(60 * rate), round(1800 * rate)):
                t = np.arange(round(30 * rate)) / rate
                wave[at : at + len(t)] += (
                    3000 * np.exp(-t / 4) * np.sin(2 * np.pi * 6 * t) * rng.standard_normal(len(t))
                )
            record = MS3Record()
            record.sourceid = f"FDSN:XX_DAY__H_H_{code}"
            record.starttime = parse_time("2024-01-01T00:00:00Z")
            record.samprate, record.reclen, record.formatversion = rate, 512, 2
            record.encoding = DataEncoding.STEIM2
            for packed in record.generate(np.rint(wave).astype(np.int32), "i"):
                file.write(bytes(packed))


def run(command: Sequence[str]) -> tuple[float, float]:
    """Processor seconds and peak resident MiB of a command."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(u.ru_utime + u.ru_stime, u.ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    seconds, kib = done.stdout.split()
    return float(seconds), float(kib) / (1024 if sys.platform != "darwin" else 1024**2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the replay of a day.")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rate", type=float, default=100.0, help="samples per second")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        day = Path(folder) / "day.mseed"
        make_day(day, hours=options.hours, rate=options.rate)
        print(f"{options.hours:g} h, 3 components at {options.rate:g} Hz, {day.stat().st_size / 2**20:.0f} MiB")
        programs = {
            "monitor replay": [sys.executable, "-m", "monitor.cli", "replay", str(day), "--format", "jsonl"],
            "ObsPy: read, filter, STA/LTA": [sys.executable, "-c", PEER, str(day)],
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for _ in range(options.runs):
            for name, command in programs.items():
                results[name].append(run(command))
        print("| program | processor s | s per station-hour | times real time | peak MiB |")
        print("|---|---|---|---|---|")
        for name, values in results.items():
            seconds = statistics.median(value[0] for value in values)
            memory = max(value[1] for value in values)
            speed = options.hours * 3600 / seconds
            print(f"| {name} | {seconds:.2f} | {seconds / options.hours:.3f} | {speed:,.0f} | {memory:.0f} |")
        ratios = [a[0] / b[0] for a, b in zip(*results.values(), strict=True)]
        print(
            f"processor time, monitor replay / ObsPy: {statistics.median(ratios):.2f} (median of {len(ratios)} pairs)"
        )


if __name__ == "__main__":
    main()
