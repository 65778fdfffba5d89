"""Whether the service does what it is for, in words that an operator understands."""

from collections.abc import Mapping

from monitor.http import Health
from monitor.outbox_thread import OutboxThread
from monitor.publisher import Publisher
from monitor.timebase import NS_PER_SECOND


def data_health(
    last_packet_ns: int | None, now_ns: int, *, limit_s: float, servers: Mapping[str, str | None]
) -> Health:
    """Do data flow?

    Args:
        last_packet_ns: When the last packet was received; None before any.
        now_ns: Now, by the same clock.
        limit_s: Without data for so long is too long.
        servers: Label of each server -> why it is not connected; None while it is.
    """
    down = [f"{label}: {why}" for label, why in servers.items() if why is not None]
    trouble = f" ({'; '.join(down)})" if down else ""
    if not servers:
        return Health(False, "no server is set")
    if last_packet_ns is None:
        return Health(False, f"no data yet{trouble}")
    age_s = (now_ns - last_packet_ns) / NS_PER_SECOND
    if age_s > limit_s:
        return Health(False, f"no data for {age_s:.0f} s{trouble}")
    return Health(True, f"last packet {max(0.0, age_s):.1f} s ago{trouble}")


def broker_health(publisher: Publisher | None, outbox: OutboxThread | None) -> Health:
    """Does the broker take what is said?"""
    if publisher is None or outbox is None:
        return Health(True, "no broker is set")
    stats = outbox.stats
    waiting = f"{stats.depth} messages wait" if stats.depth else "nothing waits"
    if stats.problem is not None:
        return Health(False, f"the outbox cannot be written: {stats.problem}")
    if not publisher.is_connected:
        return Health(False, f"not connected; {waiting}")
    return Health(True, f"connected; {waiting}")


def status_line(*, stations: int, channels: int, bad: int, health: Mapping[str, Health]) -> str:
    """One line for `systemctl status`."""
    wrong = [f"{name}: {one.reason}" for name, one in health.items() if not one.ok]
    text = f"{stations} stations, {channels} channels"
    if bad:
        text += f", {bad} of them bad"
    return f"{text}; {'; '.join(wrong) if wrong else health['data'].reason}"
