"""What the demo leaves behind where that is wanted: settings, log, and the archive with a picture of each event."""

import asyncio
import contextlib
import shutil
from pathlib import Path

from monitor.archive.layout import EVENTS, OPEN_FILE, PICTURE_FILE, UNDRAWN_FILE, event_directories
from monitor.demo import words
from monitor.demo.children import draw
from monitor.demo.screen import Screen

# A few seconds each; what takes longer all together is left out.
_PAINTERS, _PAINT_S = 2, 20.0


async def leave(folder: Path, output: Path, *, screen: Screen, draw_missing: bool) -> None:
    """Copy what the daemon made to where the user wants it, and say so.

    Args:
        folder: The demo's own.
        output: Where to; made if it is not there. What lies there from before stays.
        screen: Where to say it.
        draw_missing: Draw the events that the daemon had no time for: it does so when an event's two minutes are over.

    Raises:
        OSError: It cannot be copied.
    """
    root, events = await asyncio.to_thread(_copy, folder, output)
    screen.show(words.left(output))
    missing = []
    for event in events:
        if (event / PICTURE_FILE).exists():
            screen.show(words.picture(event / PICTURE_FILE, root))
        else:
            missing.append(event)
    if not draw_missing:
        return
    waiting = iter(missing)

    async def draw_some() -> None:
        for event in waiting:
            await draw(event, folder=folder)
            if (event / PICTURE_FILE).exists():
                screen.show(words.picture(event / PICTURE_FILE, root))

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PAINT_S):
            await asyncio.gather(*(draw_some() for _ in range(_PAINTERS)))
    undrawn = sum(not (event / PICTURE_FILE).exists() for event in events)
    if undrawn:
        screen.show(words.undrawn(undrawn))


def _copy(folder: Path, output: Path) -> tuple[Path, list[Path]]:
    """Copy what is worth keeping; give where, and the events' folders, the oldest day first, all as whole paths."""
    output.mkdir(parents=True, exist_ok=True)
    for name in ("monitor.toml", "run.log"):
        shutil.copyfile(folder / name, output / name)
    events, root = folder / "state" / EVENTS, output.absolute()
    if not events.is_dir():
        return root, []
    notes = shutil.ignore_patterns(OPEN_FILE, UNDRAWN_FILE)
    shutil.copytree(events, root / EVENTS, ignore=notes, dirs_exist_ok=True)
    return root, [root / path.relative_to(folder / "state") for path in event_directories(events)][::-1]
