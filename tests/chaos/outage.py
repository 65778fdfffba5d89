"""A day without a broker, in the time that it takes to judge a day."""

import asyncio
import time

import msgspec

from monitor.broker import Broker
from monitor.clock import FixedClock
from monitor.engine import Engine
from monitor.metrics import Metrics
from monitor.model import Model
from monitor.records import Packet
from monitor.settings import MqttSettings, Settings
from monitor.timebase import NS_PER_SECOND
from tests.chaos import recording
from tests.chaos.outcome import Options, Outcome
from tests.chaos.service import PATIENCE_S, Listener, compare, finals
from tests.mosquitto import Mosquitto

HOURS = 24.0
_PACKET_S = 10.0


def heard_of(published: list[tuple[str, bytes]]) -> set[recording.Key]:
    """Which revisions of which detections were published."""
    bodies = [msgspec.json.decode(payload) for topic, payload in list(published) if topic.endswith("/detection")]
    return {(body["id"], body["revision"]) for body in bodies}


def run(options: Options, *, hours: float = HOURS) -> Outcome:
    """The clock runs with the data; the broker comes when they have ended."""
    outcome = Outcome(
        "network", f"{hours:.0f} h without a broker, the clock running with the data",
        "all of it is told afterwards, marked as backfill", unit="outages",
    )  # fmt: skip
    folder = options.room("outage")
    copies = round(hours * 3600 / 226)
    end_ns = time.time_ns() // NS_PER_SECOND * NS_PER_SECOND
    pieces = recording.cut(recording.make(copies, end_ns=end_ns, stations="UH1"), _PACKET_S)
    expected = recording.judge(pieces)
    clock = FixedClock(pieces[0].starttime_ns)
    with Mosquitto(folder / "broker", persistent=True) as mosquitto, Listener(mosquitto.port) as listener:
        mosquitto.stop()
        settings = Settings(
            mqtt=MqttSettings(host="127.0.0.1", port=mosquitto.port, client_id="day", backoff_s=0.05, backoff_max_s=0.2)
        )

        async def day() -> None:
            model = Model()
            engine = Engine(model, settings, clock=clock)
            broker = Broker(settings, directory=folder, model=model.ref, clock=clock, metrics=Metrics())
            await broker.open()
            running = asyncio.create_task(broker.run())
            for piece in pieces:
                clock.advance(piece.next_ns - clock.now_ns())
                packet = Packet("one", piece.channel_id.station_id, None, (piece,), 512, clock.now_ns())
                await broker.put([*engine.take(packet), *engine.tick()])
            clock.advance(400 * NS_PER_SECOND)
            await broker.put(engine.tick())
            mosquitto.start()
            until = time.monotonic() + PATIENCE_S
            while listener.final_count < finals(expected) and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await broker.stop()
            await running
            await broker.close()

        asyncio.run(day())
    difference = compare(listener.detections, expected)
    wrong = [body["id"] for body in listener.detections if body["origin"] != "backfill"]
    outcome.runs, outcome.losses, outcome.duplicates = 1, len(difference.missing), difference.repeated
    # The newest may still have been live.
    outcome.note = f"{len(expected)} messages waited; {len(wanted_live(wrong))} of them were told as live"
    if difference:
        outcome.fail(str(difference))
    return outcome


def wanted_live(ids: list[str]) -> set[str]:
    """Each id once."""
    return set(ids)
