"""Child processes that never outlive the demo: own process groups, stopped in order, reaped, their last words kept."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

# The daemon takes some seconds to let the broker have everything.
_STOP_S = 15.0
_LAST_LINES = 12
_LAST_BYTES = 16 * 1024
# What would reach into the daemon from whoever runs the demo: its settings, its service manager.
_FOREIGN = ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def environment(of: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would change the daemon's settings."""
    return {name: value for name, value in of.items() if not name.startswith("MONITOR_") and name not in _FOREIGN}


class Child:
    """One process.

    Args:
        name: What a person calls it, such as `monitor run`.
        process: Started.
        log: Where its standard error goes.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self.log = name, log
        self._process = process
        self._stopping = False

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def first_line(self) -> str:
        """What it says first on standard output; empty where it ended before."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode(errors="replace").strip()

    async def watch(self, on_end: Callable[["Child", int], None]) -> None:
        """Wait for its end and tell, unless it was asked to end."""
        code = await self._process.wait()
        if not self._stopping:
            on_end(self, code)

    async def stop(self) -> int:
        """Ask it to end, insist after a while or when hurried by a cancellation, and reap it.

        Returns:
            Its exit code; negative: the signal.
        """
        self._stopping = True
        try:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            async with asyncio.timeout(_STOP_S):
                return await self._process.wait()
        except TimeoutError:
            return await self._kill()
        except asyncio.CancelledError:
            await self._kill()
            raise

    async def _kill(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()

    def last_lines(self) -> list[str]:
        """The end of what it said on standard error, without what would steer a terminal."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [_CONTROL.sub("?", line) for line in text.splitlines()[-_LAST_LINES:]]


@contextlib.asynccontextmanager
async def running(name: str, *arguments: str, folder: Path) -> AsyncIterator[Child]:
    """Run a command of this program.

    Args:
        name: The command, such as `run`; its log is `<name>.log`.
        arguments: Its arguments.
        folder: Where it runs and logs.

    Yields:
        The process; when the context ends it has ended too.
    """
    log = folder / f"{name}.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "monitor.cli", name, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=environment(os.environ),
            # Ctrl-C on the terminal is for the demo, which ends its children in order.
            process_group=0,
        )
    child = Child(f"monitor {name}", process, log)
    try:
        yield child
    finally:
        await child.stop()


async def draw(event: Path, *, folder: Path) -> None:
    """Have the pictures of an archived event made, as the daemon does; without a word where that fails.

    Args:
        event: Its folder, a whole path.
        folder: Where to run.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "monitor.archive.pictures", str(event)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env=environment(os.environ),
        process_group=0,
    )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
