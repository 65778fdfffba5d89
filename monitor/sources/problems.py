"""What was wrong in the input, in words for the person who gave it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

# A file of garbage between good records can have a fault every few bytes; past this many a person only needs the count.
MAX_PROBLEMS_PER_SOURCE = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the input; the rest is still processed.

    Attributes:
        source: File name as the user gave it (below a directory: joined to it), `<stdin>` for `-`.
        offset: Where in that file, bytes from its start (of a compressed file: in what it unpacks to), or None.
        message: What was wrong, and what is accepted.
    """

    source: str
    offset: int | None
    message: str

    def __str__(self) -> str:
        """`FILE: byte 1234: message`, or `FILE: message` where no offset is known."""
        where = "" if self.offset is None else f" byte {self.offset}:"
        # A file name may hold control characters, or bytes that are no text and that print() would trip over.
        source = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in self.source)
        return f"{source}:{where} {self.message}"


class ProblemLog:
    """Passes problems on, at most `MAX_PROBLEMS_PER_SOURCE` of each source, then only their number.

    Args:
        on_problem: Called with each problem.
    """

    def __init__(self, on_problem: Callable[[Problem], None]) -> None:
        self._on_problem = on_problem
        self._passed: Counter[str] = Counter()
        self._withheld: Counter[str] = Counter()

    def report(self, source: str, offset: int | None, message: str) -> None:
        """Pass one problem on, or count it when its source has had its share."""
        if self._passed[source] >= MAX_PROBLEMS_PER_SOURCE:
            self._withheld[source] += 1
            return
        self._passed[source] += 1
        self._on_problem(Problem(source, offset, message))

    def summarise(self) -> None:
        """Tell, for each source with more problems than were passed on, how many more."""
        for source, count in self._withheld.items():
            noun = "problem" if count == 1 else "problems"
            self._on_problem(Problem(source, None, f"{count} more {noun} in this file"))
        self._withheld.clear()
