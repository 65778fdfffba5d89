"""A subscriber as anybody would write one: Paho, in a thread of its own, everything below one root."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

_PATIENCE_S = 10.0


class Message(NamedTuple):
    """What came.

    Attributes:
        topic: Where.
        payload: What.
        received_ns: When, by this computer's clock, nanoseconds since the epoch.
    """

    topic: str
    payload: bytes
    received_ns: int


@contextlib.asynccontextmanager
async def subscribed(port: int, root: str, on_message: Callable[[Message], None]) -> AsyncIterator[None]:
    """Subscribe to all below `root`, QoS 1, with a session that outlives a lost connection.

    Args:
        port: The broker's, on 127.0.0.1.
        root: First levels of the topics.
        on_message: Called in the event loop.

    Raises:
        OSError: The broker cannot be reached.
        TimeoutError: It does not answer.
    """
    loop, ready = asyncio.get_running_loop(), asyncio.Event()

    def in_loop(call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
            loop.call_soon_threadsafe(call, *arguments)

    def heard(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        in_loop(on_message, Message(message.topic, bytes(message.payload), time.time_ns()))

    def connected(client: paho.Client, *_: Any) -> None:
        client.subscribe(f"{root}/#", qos=1)

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="monitor-demo-subscriber", clean_session=False)
    client.on_message, client.on_connect = heard, connected
    client.on_subscribe = lambda *_: in_loop(ready.set)
    await asyncio.to_thread(client.connect, "127.0.0.1", port)
    client.loop_start()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ready.wait()
        yield
    finally:
        client.disconnect()
        # The thread ends with the connection; the broker in this loop goes on meanwhile.
        await asyncio.shield(asyncio.to_thread(client.loop_stop))
