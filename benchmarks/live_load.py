"""What a live monitor costs: many stations of three components at 100 Hz, packets of a second, in one thread.

    python benchmarks/live_load.py [--stations 100] [--seconds 120]

Prints processor seconds per second of data: below 1 one core keeps up. In the same run the same data go through
replay's way of judging (long batches), the cheapest there is, as the measure of what one-second packets cost.
"""

import argparse
import resource
import time

import numpy as np

from monitor.clock import FixedClock
from monitor.detector import DetectorSettings
from monitor.engine import Engine
from monitor.model import Model
from monitor.pipeline import REPLAY_BATCH_S, StationPipeline
from monitor.records import ChannelId, Packet, Segment
from monitor.settings import Settings
from monitor.stations import group_channels
from monitor.timebase import NS_PER_SECOND

T0 = 1_700_000_000 * NS_PER_SECOND


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=120)
    wanted = parser.parse_args()
    rng = np.random.default_rng(1)
    noise = (500 * rng.standard_normal((3, 100 * wanted.seconds))).astype(np.int32)
    model = Model()
    channels = [
        [ChannelId("XX", f"S{number:03d}", "", f"HH{code}") for code in "ZNE"] for number in range(wanted.stations)
    ]

    clock = FixedClock(T0)
    engine = Engine(model, Settings(), clock=clock)
    live = []
    for second in range(wanted.seconds):
        clock.advance(NS_PER_SECOND)
        began = time.process_time()
        for of_station in channels:
            for row, channel in enumerate(of_station):
                samples = noise[row, 100 * second : 100 * (second + 1)]
                segment = Segment(channel, T0 + second * NS_PER_SECOND, 100.0, samples)
                engine.take(Packet("one", channel.station_id, None, (segment,), 512, clock.now_ns()))
        engine.tick()
        live.append(time.process_time() - began)

    began = time.process_time()
    (group,) = group_channels(channels[0])
    batch = StationPipeline(group, model, DetectorSettings(), origin="replay", batch_s=REPLAY_BATCH_S)
    for row, channel in enumerate(channels[0]):
        batch.push(Segment(channel, T0, 100.0, noise[row]))
    batch.finish()
    replay = (time.process_time() - began) / wanted.seconds * wanted.stations

    # The first seconds are no measure: nothing is judged before the background is known.
    steady = sorted(live[20:])
    median, slowest = steady[len(steady) // 2], steady[-1]
    print(f"{wanted.stations} stations, {3 * wanted.stations} channels of 100 Hz, {wanted.seconds} s")
    print(f"live    {median:.3f} processor seconds per second in the median, {slowest:.3f} in the slowest")
    print(f"replay  {replay:.3f}; live costs {median / replay:.1f} times as much")
    print(f"memory  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
