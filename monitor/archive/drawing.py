"""Pictures of archived events, one after another, each by a process of its own.

So that neither their time nor their memory is the service's, and whatever goes wrong with one stays with it.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

# It runs while nothing else wants the processor, which may take its time.
LIMIT_S: Final = 1800.0
# Events that wait for theirs; one more waits until the next start.
MOST_WAITING: Final = 1000
# What is shown of its complaint.
_MOST_TEXT: Final = 300


class Drawing:
    """Has pictures made.

    Args:
        model: The model's file; None for the shipped one.
    """

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._waiting: asyncio.Queue[Path] = asyncio.Queue(MOST_WAITING)

    def put(self, path: Path) -> None:
        """Let the pictures of an event be made."""
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(path)

    async def run(self, on_end: Callable[[Path, str | None], Awaitable[None]]) -> None:
        """Make pictures until cancelled.

        Args:
            on_end: Told the event, and in words what went wrong, or None.
        """
        while True:
            path = await self._waiting.get()
            if path.exists():
                await on_end(path, await self._draw(path))

    async def _draw(self, path: Path) -> str | None:
        command = [sys.executable, "-m", "monitor.archive.pictures", str(path), "--parent", str(os.getpid())]
        if self._model is not None:
            command += ["--model", self._model]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        try:
            async with asyncio.timeout(LIMIT_S):
                _, said = await process.communicate()
        except TimeoutError:
            return f"not done within {LIMIT_S:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == 0:
            return None
        text = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return text[-_MOST_TEXT:] or f"exit code {process.returncode}"
