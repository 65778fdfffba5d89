"""A broker that answers what no real one can be made to answer: a few packets of MQTT, by the bytes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 14


@dataclass
class Broker:
    """What it answers, and what it saw.

    Attributes:
        connacks: One for each CONNECT to come, then acceptance; b"" closes, None is silent.
        pubacks: Reason codes, one for each PUBLISH to come but of the status, then 0; None closes, -1 is silent, 256
            and more is a DISCONNECT with that much less.
        properties: Of an acceptance of MQTT 5.
        versions: Protocol level of each CONNECT: 4 for MQTT 3.1.1, 5.
        published: Topic and payload of each PUBLISH, in the order of arrival.
        most_open: Most messages that were not acknowledged at a time; with `lazy`, they are acknowledged only when
            nothing has come for a moment.
    """

    connacks: deque[bytes | None] = field(default_factory=deque)
    pubacks: deque[int | None] = field(default_factory=deque)
    properties: bytes = b""
    lazy: bool = False
    versions: list[int] = field(default_factory=list)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    most_open: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: list[bytes] = []
        version = 0
        try:
            while True:
                try:
                    async with asyncio.timeout(0.02 if waiting else None):
                        kind, flags, body = await read_packet(reader)
                except TimeoutError:
                    writer.writelines(waiting)
                    waiting.clear()
                    continue
                if kind == CONNECT:
                    version = body[6]
                    self.versions.append(version)
                    properties = bytes([len(self.properties)]) + self.properties if version == 5 else b""
                    answer = self.connacks.popleft() if self.connacks else packet(CONNACK, b"\0\0" + properties)
                    if answer == b"":
                        return
                    writer.write(answer or b"")
                elif kind == PUBLISH:
                    length = int.from_bytes(body[:2])
                    topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
                    number, rest = rest[:2], rest[2:]
                    payload = rest[1 + rest[0] :] if version == 5 else rest
                    self.published.append((topic, payload))
                    code = 0 if topic.endswith("/status") or not self.pubacks else self.pubacks.popleft()
                    if code is None or code >= 256:
                        writer.write(b"" if code is None else packet(DISCONNECT, bytes([code - 256, 0])))
                        return
                    if code >= 0 and flags & 6:
                        waiting.append(packet(PUBACK, number + (bytes([code, 0]) if version == 5 else b"")))
                    self.most_open = max(self.most_open, len(waiting))
                    if not self.lazy:
                        writer.writelines(waiting)
                        waiting.clear()
                elif kind == SUBSCRIBE:
                    writer.write(packet(SUBACK, body[:2] + (b"\0\0" if version == 5 else b"\0")))
                elif kind == PINGREQ:
                    writer.write(b"\xd0\0")
                elif kind == DISCONNECT:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind << 4, len(body)]) + body


async def read_packet(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    first = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return first >> 4, first & 15, await reader.readexactly(length)


@asynccontextmanager
async def broker(**answers: object) -> AsyncIterator[Broker]:
    """Serve on a free port of this computer."""
    made = Broker(**answers)  # type: ignore[arg-type]
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
