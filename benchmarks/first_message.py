"""How long after P the first message goes out, in stream time, when data come in packets of a second.

    python benchmarks/first_message.py [FILE…] [--packet-s 1]

Plays recordings, ObsPy's four Bavarian stations unless others are named, into the live engine: each packet is received
when its last sample was taken. What the network, the broker and the computer take comes on top.
"""

import argparse
import importlib.util
import statistics
from pathlib import Path

from monitor.clock import FixedClock
from monitor.engine import Engine
from monitor.model import Model
from monitor.records import Packet, Segment
from monitor.settings import Settings
from monitor.sources.files import FileSource
from monitor.timebase import NS_PER_SECOND, parse_time


def recordings() -> list[Path]:
    found = importlib.util.find_spec("obspy")
    if found is None or found.origin is None:
        raise SystemExit("name recordings, or install ObsPy, which carries some")
    return sorted((Path(found.origin).parent / "signal/tests/data").glob("BW.UH*.cut.slist.gz"))


def packets(source: FileSource, packet_s: float) -> list[Segment]:
    """Every channel in packets, in the order in which they are full."""
    pieces = []
    for whole in source:
        size = max(1, round(packet_s * whole.sampling_rate))
        for first in range(0, whole.npts, size):
            start = whole.starttime_ns + round(first * NS_PER_SECOND / whole.sampling_rate)
            samples = whole.samples[first : first + size]
            pieces.append(Segment(whole.channel_id, start, whole.sampling_rate, samples))
    return sorted(pieces, key=lambda piece: piece.next_ns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--packet-s", type=float, default=1.0)
    wanted = parser.parse_args()
    source = FileSource([str(path) for path in wanted.files or recordings()], on_problem=print)
    pieces = packets(source, wanted.packet_s)
    clock = FixedClock(pieces[0].starttime_ns)
    engine = Engine(Model(), Settings(), clock=clock)
    delays = []
    for piece in pieces:
        clock.advance(max(0, piece.next_ns - clock.now_ns()))
        told = engine.take(Packet("file", piece.channel_id.station_id, None, (piece,), 8 * piece.npts, clock.now_ns()))
        for detection in told:
            if detection.state == "new":
                delays.append((clock.now_ns() - parse_time(detection.onset)) / NS_PER_SECOND)
                print(
                    f"{detection.onset}  {detection.station:8}  decided after {detection.latency_s:5.2f} s,"
                    f" told after {delays[-1]:5.2f} s"
                )
    if delays:
        median, longest = statistics.median(delays), max(delays)
        print(f"{len(delays)} detections: told after {median:.2f} s in the median, {longest:.2f} s at most")


if __name__ == "__main__":
    main()
