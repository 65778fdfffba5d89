"""The outbox for an event loop: its waits for the disk happen in one thread of its own."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from monitor.outbox import Outbox, OutboxStats
from monitor.outbox_message import Key, OutboxMessage, Queued
from monitor.settings import OutboxSettings

P = ParamSpec("P")
T = TypeVar("T")


class OutboxThread:
    """What `Outbox` does, awaited. Calls are carried out one after the other, in their order.

    Args:
        path, settings, clock: As `Outbox` takes them.
        on_notice: Is told what went wrong with the file, in words; called in the event loop's thread.

    Attributes:
        stats: How full it was after the last call; to be read at any time.
    """

    def __init__(
        self, path: Path, settings: OutboxSettings, *, clock: Callable[[], int], on_notice: Callable[[str], None]
    ) -> None:
        self.stats = OutboxStats()
        self._path = path
        self._settings = settings
        self._clock = clock
        self._on_notice = on_notice
        self._outbox: Outbox | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")

    async def open(self) -> None:
        """Open the file.

        Raises:
            OutboxBusyError: Another process uses it.
        """

        def make() -> None:
            self._outbox = Outbox(self._path, self._settings, clock=self._clock)

        await self._call(make)

    async def put_many(self, messages: Iterable[OutboxMessage]) -> int:
        """See `Outbox.put_many`."""
        return await self._call(self._opened().put_many, messages)

    async def already_told(self, key: Key) -> bool:
        """See `Outbox.already_told`."""
        return await self._call(self._opened().already_told, key)

    async def next(self, limit: int, *, but: Collection[int], but_of: Collection[str]) -> list[Queued]:
        """See `Outbox.next`."""
        return await self._call(self._opened().next, limit, but=but, but_of=but_of)

    async def remove(self, numbers: Iterable[int]) -> None:
        """See `Outbox.remove`."""
        await self._call(self._opened().remove, numbers)

    async def hold(self, number: int, reason: str) -> None:
        """See `Outbox.hold`."""
        await self._call(self._opened().hold, number, reason)

    async def restore(self, reasons: Collection[str] | None = None) -> int:
        """See `Outbox.restore`."""
        return await self._call(self._opened().restore, reasons)

    async def demote(self, before_ns: int) -> int:
        """See `Outbox.demote`."""
        return await self._call(self._opened().demote, before_ns)

    async def close(self) -> None:
        """Close the file and end the thread."""
        if self._outbox is not None:
            outbox, self._outbox = self._outbox, None
            await asyncio.get_running_loop().run_in_executor(self._executor, outbox.close)
        self._executor.shutdown(wait=False)

    def _opened(self) -> Outbox:
        if self._outbox is None:
            raise RuntimeError("the outbox is not open")
        return self._outbox

    async def _call(self, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()

        def work() -> T:
            try:
                return what(*args, **kwargs)
            finally:
                if self._outbox is not None:
                    self.stats = self._outbox.stats()
                    for notice in self._outbox.notices:
                        loop.call_soon_threadsafe(self._on_notice, notice)
                    self._outbox.notices.clear()

        # What was begun is done, also where whoever waits for it is cancelled.
        return await asyncio.shield(loop.run_in_executor(self._executor, work))
