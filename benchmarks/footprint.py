"""What a monitor takes: the time until it is ready, resident memory, processor time.

    python benchmarks/footprint.py [--stations 1] [--runs 5] [--seconds 60] [--settings more.toml]

Starts `monitor serve` with made-up three-component stations of 100 Hz whose data begin two minutes ago, in packets of a
second, and `monitor run` on them with default settings and no broker. Ready is when systemd would be told so; beside it
is how long a Python takes that only imports NumPy and the interpreter of the model.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pymseed import DataEncoding, MS3Record

from monitor.timebase import NS_PER_SECOND

RATE = 100
PEER = "import numpy, ai_edge_litert.interpreter"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--settings", type=Path, help="further settings, appended to those of the run")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = folder / "station.mseed"
        write_recording(recording, stations=wanted.stations, seconds=wanted.seconds + 180)
        with serving(recording, folder) as port:
            more = wanted.settings.read_text() if wanted.settings else ""
            starts = [run(folder, port, more=more, seconds=0)[0] for _ in range(wanted.runs)]
            peers = [imported() for _ in range(wanted.runs)]
            _, resident, processor = run(folder, port, more=more, seconds=wanted.seconds)
    start, peer = statistics.median(starts), statistics.median(peers)
    print(f"ready      after {start:.2f} s in the median ({min(starts):.2f} to {max(starts):.2f}),")
    print(f"           {start / peer:.1f} times as long as importing NumPy and LiteRT ({peer:.2f} s)")
    print(f"memory     {resident:.0f} MB resident after {wanted.seconds} s of data and a backlog of two minutes")
    print(f"processor  {processor:.1f} s in that time, start and backlog included")


def write_recording(path: Path, *, stations: int, seconds: int) -> None:
    """Noise with a slow swell on three components of each station, the seconds one after the other."""
    rng = np.random.default_rng(1)
    swell = 2000 * np.sin(np.arange(seconds * RATE) / RATE)
    record = MS3Record(reclen=512, encoding=DataEncoding.STEIM2)
    record.samprate = RATE
    with path.open("wb") as out:
        for second in range(seconds):
            record.starttime = second * NS_PER_SECOND
            for number in range(stations):
                for code in "ZNE":
                    record.sourceid = f"FDSN:XX_F{number:03d}__H_H_{code}"
                    noise = 300 * rng.standard_normal(RATE)
                    counts = (noise + swell[second * RATE : (second + 1) * RATE]).astype(np.int32)
                    for packed in record.generate(counts, sample_type="i"):
                        out.write(bytes(packed))


@contextmanager
def serving(recording: Path, folder: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "monitor.cli", "serve", str(recording), "--now", "--port", str(port)]
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen([*command, "--preload", "120"], stdout=log, stderr=log)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit((folder / "serve.log").read_text()) from None
                time.sleep(0.05)
        yield port
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def run(folder: Path, port: int, *, more: str, seconds: int) -> tuple[float, float, float]:
    """Seconds until ready; megabytes and processor seconds after `seconds` of it."""
    config = folder / "monitor.toml"
    config.write_text(
        f'[[seedlink]]\nhost = "127.0.0.1"\nport = {port}\nstations = ["XX.F*"]\n'
        f'[state]\ndirectory = "state{time.monotonic_ns()}"\n[http]\nport = 0\n{more}'
    )
    address = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        address.unlink(missing_ok=True)
        notified.bind(str(address))
        notified.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
        began = time.perf_counter()
        with (folder / "run.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "monitor.cli", "run", "--config", str(config)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            while b"READY=1" not in notified.recv(65536):
                pass
        except TimeoutError:
            process.kill()
            raise SystemExit((folder / "run.log").read_text()) from None
        ready = time.perf_counter() - began
        time.sleep(seconds)
        status = Path(f"/proc/{process.pid}/status").read_text()
        (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        processor = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        process.terminate()
        process.wait()
    return ready, resident * 1024 / 1e6, processor


def imported() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", PEER], check=True)
    return time.perf_counter() - began


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
