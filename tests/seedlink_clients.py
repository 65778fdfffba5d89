"""What a SeedLink client of EarthScope's library receives from a server under test."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import numpy as np
from pymseed import MS3Record, sourceid2nslc
from seedlink_client import AsyncSeedLink, Protocol, SeedLinkError, SeedLinkPacket

from monitor.records import ChannelId, Segment

# So that a server that hangs fails a test instead of stopping the run; nothing waits for it.
PATIENCE_S = 60.0


async def receive(
    port: int,
    *,
    version: int = 4,
    count: int | None = None,
    choose: Callable[[AsyncSeedLink], None] = lambda client: client.set_all_stations(),
    dialup: bool = False,
    tls: bool = False,
    auth: tuple[str, str] | str | None = None,
    batch: bool = False,
) -> list[SeedLinkPacket]:
    """Receive so many packets, or until the server ends or breaks the connection."""
    client = AsyncSeedLink(
        "127.0.0.1",
        port,
        protocol=Protocol(str(version)),
        dialup=dialup,
        tls=tls,
        tls_noverify=True,
        auth=auth,
        batch=batch,
    )
    packets: list[SeedLinkPacket] = []
    async with asyncio.timeout(PATIENCE_S), client:
        choose(client)
        await client.negotiate()
        async with aclosing(client.collect(reconnect=False)) as stream:
            try:
                async for packet in stream:
                    packets.append(packet)
                    if len(packets) == count:
                        break
            except SeedLinkError:
                pass  # the connection ended
    return packets


def segment(packet: SeedLinkPacket) -> Segment:
    """The samples of a packet."""
    record = MS3Record.parse(packet.payload, unpack_data=True)
    codes = ChannelId(*sourceid2nslc(record.sourceid))
    return Segment(codes, record.starttime, record.samprate, np.array(record.np_datasamples))


def joined(packets: list[SeedLinkPacket]) -> dict[str, np.ndarray]:
    """All samples by channel, in the order received."""
    found: dict[str, list[np.ndarray]] = {}
    for packet in packets:
        piece = segment(packet)
        found.setdefault(piece.channel_id.seed_id, []).append(piece.samples)
    return {seed_id: np.concatenate(parts) for seed_id, parts in found.items()}
