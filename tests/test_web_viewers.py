"""Queues of viewers: bounded, oldest dropped, told; and everybody gets the same bytes."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from monitor.web.viewers import MOST_BYTES, MOST_MESSAGES, OVERVIEW, Viewer, Viewers, encode


def parsed(stream: bytes) -> list[tuple[str, Any]]:
    """Server-Sent Events as name and data."""
    found = []
    for block in stream.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def taken(viewer: Viewer) -> list[tuple[str, Any]]:
    """What a viewer would be sent next."""

    async def scenario() -> bytes:
        messages: AsyncGenerator[bytes, None] = viewer.messages()
        assert (await anext(messages)).startswith(b"retry: ")
        batch = await anext(messages)
        await messages.aclose()
        return batch

    return parsed(asyncio.run(scenario()))


def test_one_line_a_message_whatever_is_in_it() -> None:
    text = "a\nb\r\n\u2028event: forged\n\ndata: x"
    assert parsed(encode("data", {"station": text})) == [("data", {"station": text})]
    assert encode("data", {"station": text}).count(b"\n") == 3


def test_messages_come_in_their_order() -> None:
    viewer = Viewer(OVERVIEW)
    for number in range(5):
        assert viewer.offer(encode("data", number)) == 0
    assert taken(viewer) == [("data", number) for number in range(5)]


def test_too_many_drop_the_oldest_and_say_so() -> None:
    viewer = Viewer(OVERVIEW)
    dropped = sum(viewer.offer(encode("data", number)) for number in range(MOST_MESSAGES + 10))
    assert dropped == viewer.dropped == 10
    found = taken(viewer)
    assert found[0] == ("lost", {})
    assert found[1:] == [("data", number) for number in range(10, MOST_MESSAGES + 10)]


def test_too_large_drop_the_oldest() -> None:
    viewer = Viewer(OVERVIEW)
    message = encode("data", "x" * (MOST_BYTES // 4))
    for _ in range(10):
        viewer.offer(message)
    assert viewer.dropped == 7
    assert len(taken(viewer)) == 1 + 3
    # One that alone is more than that is not waited with others.
    viewer.offer(encode("data", "x" * 2 * MOST_BYTES))
    viewer.offer(encode("data", 1))
    assert taken(viewer) == [("lost", {}), ("data", 1)]


def test_who_watches_what() -> None:
    viewers = Viewers(3)
    one, other, overview = (viewers.open(name) for name in ("A", "B", OVERVIEW))
    assert viewers.is_full
    assert viewers.watched == {"A", "B", OVERVIEW}
    viewers.send([encode("data", "a")], to="A")
    viewers.send([encode("sparks", [])], to=OVERVIEW)
    viewers.send([encode("detection", {})])
    assert taken(one) == [("data", "a"), ("detection", {})]
    assert taken(other) == [("detection", {})]
    assert taken(overview) == [("sparks", []), ("detection", {})]
    viewers.close(one)
    assert len(viewers) == 2
    assert not viewers.is_full


def test_a_silent_stream_says_that_it_lives() -> None:
    async def scenario() -> list[bytes]:
        messages = Viewer(OVERVIEW).messages(heartbeat_s=0.001)
        found = [await anext(messages) for _ in range(3)]
        await messages.aclose()
        return found

    _, *beats = asyncio.run(scenario())
    assert all(beat.startswith(b":") and beat.endswith(b"\n\n") for beat in beats)


@pytest.mark.parametrize("count", [1, 20])
def test_everybody_gets_the_same_bytes(count: int) -> None:
    viewers = Viewers(count)
    opened = [viewers.open("A") for _ in range(count)]
    message = encode("data", {"x": 1})
    viewers.send([message], to="A")
    assert all(viewer._waiting[0] is message for viewer in opened)
