"""Live data from one SeedLink server, for as long as the program runs."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from monitor.backoff import Backoff
from monitor.records import Packet
from monitor.settings import SeedLinkSettings
from monitor.sources.seedlink_events import (
    AuthRefused,
    BadPacket,
    Connected,
    Connecting,
    Disconnected,
    HoleInResume,
    Reason,
    SourceEvent,
    StationRefused,
)
from monitor.sources.seedlink_payload import PayloadDecoder
from monitor.sources.seedlink_request import Selection, Start, data_command, is_pattern, matches, station_command
from monitor.sources.seedlink_resume import FUTURE_NS, Position, StationTrail, first_start
from monitor.sources.seedlink_session import ConnectionLostError, Session, open_session
from monitor.sources.seedlink_wire import DataFrame
from monitor.timebase import NS_PER_SECOND, seconds_to_ns

__all__ = [
    "AuthRefused",
    "BadPacket",
    "Connected",
    "Connecting",
    "Disconnected",
    "HoleInResume",
    "Position",
    "Reason",
    "SeedLinkSource",
    "SourceEvent",
    "StationRefused",
]

# More stations than this are not remembered: a server cannot make us grow without end.
MAX_STATIONS = 20_000

Put = Callable[[Packet], Awaitable[None]]


class SeedLinkSource:
    """Receives packets from one server, through every fault that can be expected of it.

    Args:
        settings: Which server, which stations, how patient.
        positions: Where to go on with each station after a restart; asked at each connection, for stations of which
            nothing has been received in this run. Positions of other servers are used by their time.
        on_event: Told of what happens; must not block.
        clock: This computer's time, nanoseconds since the epoch.
        rng: Chance for the waits; None: seeded by the system.
        sleep: Waits between attempts, seconds.
    """

    def __init__(
        self,
        settings: SeedLinkSettings,
        *,
        positions: Callable[[], Sequence[Position]],
        on_event: Callable[[SourceEvent], None],
        clock: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._label = settings.label
        self._positions = positions
        self._on_event = on_event
        self._clock = clock
        self._sleep = sleep
        # The settings are means; the back-off takes limits, of which a wait is half on average.
        self._backoff = Backoff(2 * settings.backoff_s, 2 * settings.backoff_max_s, rng=rng)
        self._selection = Selection(settings.stations)
        self._decoder = PayloadDecoder(self._selection.wants)
        self._trails: dict[str, StationTrail] = {}
        self._refused: dict[str, str] = {}
        self._auth_told = False
        self._stations_checked = False

    async def run(self, put: Put) -> None:
        """Receive until cancelled.

        A packet counts as received when `put` has returned: until then nothing more is read, and a new connection
        begins with it again. Faults of the network, the server and the login are told and waited out.

        Args:
            put: Takes each packet that has wanted samples.
        """
        while True:
            self._on_event(Connecting(self._label))
            try:
                await self._receive(put)
            except ConnectionLostError as lost:
                await self._wait(lost)

    async def _wait(self, lost: ConnectionLostError) -> None:
        if lost.reason == "auth":
            wait_s = self._settings.auth_retry_s
            if not self._auth_told:
                self._auth_told = True
                self._on_event(AuthRefused(self._label, lost.detail))
        else:
            wait_s = self._backoff.next_s()
        self._on_event(Disconnected(self._label, lost.reason, lost.detail, wait_s))
        await self._sleep(wait_s)

    async def _receive(self, put: Put) -> None:
        async with open_session(self._settings) as session:
            await self._subscribe(session)
            self._on_event(Connected(self._label, session.hello.software, session.hello.protocol))
            while True:
                frame = await session.packet()
                await self._take(frame, session, put)
                session.touch()

    async def _take(self, frame: DataFrame, session: Session, put: Put) -> None:
        """Decode a packet, pass on what is wanted of it, and note it."""
        if frame.fault is not None:
            self._on_event(BadPacket(self._label, frame.station_id or "", frame.fault))
            return
        payload = self._decoder.decode(frame.payload)
        station_id = frame.station_id or payload.station_id or ""
        for fault in payload.faults:
            self._on_event(BadPacket(self._label, station_id, fault))
        if payload.station_id is not None:
            self._auth_told = False
            self._backoff.reset()
        if not payload.segments:
            return
        trail = self._trails.get(station_id)
        if trail is None:
            if len(self._trails) >= MAX_STATIONS:
                self._on_event(BadPacket(self._label, station_id, f"one station more than {MAX_STATIONS}"))
                return
            trail = self._trails[station_id] = StationTrail()
        segments, hole = trail.screen(payload.segments)
        if hole is not None:
            self._on_event(HoleInResume(self._label, station_id, hole.from_ns, hole.to_ns))
        if not segments:
            return
        packet = Packet(
            server=self._label,
            station_id=station_id,
            sequence=frame.sequence,
            segments=segments,
            nbytes=len(frame.payload),
            received_ns=self._clock(),
            timing_quality=payload.timing_quality,
            record=frame.payload,
        )
        await put(packet)
        believed = max(segment.next_ns for segment in segments) <= packet.received_ns + FUTURE_NS
        trail.advance(frame.sequence, segments, session.hello.protocol, believed=believed)

    async def _subscribe(self, session: Session) -> None:
        """Ask for all stations, each from where it is needed, and begin."""
        starts = self._starts(session)
        await self._check_stations(session)
        accepted = 0
        for pattern in self._selection.stations:
            selectors = self._selection.selectors(pattern, session.hello.protocol)
            if not is_pattern(pattern):
                accepted += await self._ask(session, pattern, selectors, starts[pattern])
                continue
            # Those that we know go first, each from its own packet; the pattern is for those that we do not.
            known = [station for station in starts if matches(station, pattern) and not is_pattern(station)]
            for station in known:
                accepted += await self._ask(session, station, selectors, starts[station])
            if await self._ask(session, pattern, selectors, starts[pattern], tell=False):
                accepted += 1
                continue
            for station in await _station_names(session):
                if matches(station, pattern) and station not in known:
                    start = starts.get(station, starts[pattern])
                    accepted += await self._ask(session, station, selectors, start)
        if not accepted:
            raise ConnectionLostError("stations", "no station was accepted")
        session.start()

    def _starts(self, session: Session) -> dict[str, Start]:
        """Where to begin, by station or pattern."""
        hello = session.hello
        now_ns = self._clock()
        backlog_ns = seconds_to_ns(self._settings.backlog_s)
        saved: dict[str, list[Position]] = {}
        for position in self._positions():
            saved.setdefault(position.station_id, []).append(position)
        patterns = self._selection.stations
        wanted = [s for s in {**self._trails, **saved} if any(matches(s, pattern) for pattern in patterns)]
        starts: dict[str, Start] = {}
        for station in dict.fromkeys([*patterns, *wanted]):
            trail = self._trails.get(station)
            start = trail.resume(hello.protocol) if trail is not None else None
            if start is None:
                start, floor_ns = first_start(
                    saved.get(station, ()),
                    server=self._label,
                    protocol=hello.protocol,
                    shares_sequence=hello.shares_sequence,
                    backlog_start_ns=now_ns - backlog_ns if backlog_ns else None,
                )
                if floor_ns is not None:
                    self._trails[station] = StationTrail(floor_ns)
            starts[station] = start
        if hello.protocol == "3" and not hello.shares_sequence and any(s.sequence is None for s in starts.values()):
            # Version 3 leaves open what becomes of a connection that asks by number here and by time there.
            for station, start in starts.items():
                trail = self._trails.get(station)
                starts[station] = (trail.by_time() if trail is not None else None) or replace(start, sequence=None)
        return starts

    async def _ask(
        self, session: Session, station: str, selectors: Sequence[str], start: Start, *, tell: bool = True
    ) -> bool:
        """Ask for a station or a pattern; return whether the server accepts it."""
        protocol = session.hello.protocol
        now_ns = self._clock() - NS_PER_SECOND
        # Servers refuse a number that they do not like, and version 3 a time that is yet to come by their clock.
        attempts = dict.fromkeys([start, Start(None, min(start.time_ns or now_ns, now_ns)), Start()])
        refusal = ""
        for attempt in attempts if start != Start() else [start]:
            reply = await session.command(station_command(station, protocol))
            refusal = reply.text
            if not reply.ok:
                break
            for selector in selectors:
                # Refused, the station stays subscribed without it: what arrives is looked at again.
                await session.command(f"SELECT {selector}")
            reply = await session.command(data_command(attempt, protocol))
            if reply.ok:
                self._refused.pop(station, None)
                return True
            refusal = reply.text
        if tell:
            self._tell_refused(station, refusal)
        return False

    async def _check_stations(self, session: Session) -> None:
        """Tell of stations that a server like ringserver does not have, but accepts, as they may come; once."""
        if self._stations_checked or not session.hello.shares_sequence:
            return
        exact = [station for station in self._selection.stations if not is_pattern(station)]
        names = await _station_names(session) if exact else []
        self._stations_checked = True
        for station in exact:
            if station not in names:
                self._tell_refused(station, "not among the server's stations; waiting for it")

    def _tell_refused(self, station: str, detail: str) -> None:
        if self._refused.get(station) != detail:
            self._refused[station] = detail
            self._on_event(StationRefused(self._label, station, detail))


async def _station_names(session: Session) -> list[str]:
    """The server's stations, `NET.STA`."""
    content = await session.info("STATIONS")
    entries = content.get("station", [])
    names: list[str] = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        if session.hello.protocol == "4":
            names.append(str(entry.get("id", "")).replace("_", ".", 1))
        else:
            names.append(f"{entry.get('network', '')}.{entry.get('name', '')}")
    return names
