"""Feed one target, in a process of its own: `python -m tests.chaos.fuzz_one TARGET CORPUS SECONDS SEED`.

Guided by coverage where atheris is installed, else by chance. Prints how many inputs were tried. An input that takes
too long, takes too much memory or raises what it must not ends the process; it is left in CORPUS as `crash-…`.
"""

import faulthandler
import hashlib
import importlib
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

LONGEST_S = 20
MOST_MIB = 3000
LONGEST_BYTES = 8192
_MORE_OFTEN = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b"SL",
    b"SE",
    b"MS\x03",
    b"{",
    b"[",
    b"<",
    b'"',
    b"9" * 20,
    b"\x7f\xff\xff\xff",
)


def main(name: str, corpus: Path, seconds: int, seed: int) -> None:
    """Feed it."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        _by_chance(name, corpus, seconds, seed)
        return
    with atheris.instrument_imports(include=["monitor", "seedlink_client", "tests.chaos.targets", "tests.chaos.talks"]):
        targets = importlib.import_module("tests.chaos.targets").TARGETS
    _seed(targets[name].seeds(), corpus)
    arguments = [sys.argv[0], f"-max_total_time={seconds}", f"-timeout={LONGEST_S}", f"-rss_limit_mb={MOST_MIB}"]
    arguments += [f"-max_len={LONGEST_BYTES}" if name != "model" else "-max_len=200000", f"-seed={seed}"]
    arguments += [f"-artifact_prefix={corpus}/", "-print_final_stats=1", str(corpus)]
    read = targets[name].read
    # What is made once, such as a page, is no input that takes too long.
    read(targets[name].seeds()[0])
    atheris.Setup(arguments, lambda data: read(bytes(data)))
    atheris.Fuzz()


def _seed(seeds: list[bytes], corpus: Path) -> None:
    for content in seeds:
        (corpus / hashlib.sha1(content, usedforsecurity=False).hexdigest()).write_bytes(content)


def _by_chance(name: str, corpus: Path, seconds: int, seed: int) -> None:
    target = importlib.import_module("tests.chaos.targets").TARGETS[name]
    _seed(target.seeds(), corpus)
    rng, known = random.Random(seed), [path.read_bytes() for path in sorted(corpus.iterdir())]
    faulthandler.enable()
    until, tried = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = changed(rng.choice(known), rng)
        began = time.monotonic()
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        try:
            target.read(data)
        except BaseException:
            (corpus / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)
            raise
        faulthandler.cancel_dump_traceback_later()
        tried += 1
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MOST_MIB * 1024:
            raise MemoryError(f"{MOST_MIB} MiB after {tried} inputs, the last in {time.monotonic() - began:.1f} s")
    print(f"stat::number_of_executed_units: {tried}")


def changed(data: bytes, rng: random.Random) -> bytes:
    """Change something that is right, here and there."""
    made = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 64)), len(made) - at)
        match rng.randrange(6):
            case 0 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                made[at : at + length] = rng.randbytes(length)
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = rng.choice(_MORE_OFTEN)
            case 4:
                made[at : at + length] = rng.choice(_MORE_OFTEN)
            case _:
                made[at:at] = made[at : at + length] * rng.choice((1, 2, 50))
    return bytes(made[:200_000])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
