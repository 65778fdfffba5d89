"""What is kept, by age and size, so that nothing has to be counted on the disk again."""

from bisect import bisect_left, insort
from pathlib import Path

Age = tuple[int, ...]


class Shelf:
    """Files or folders with an age and a size.

    Attributes:
        nbytes: All sizes together.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._kept: dict[Path, tuple[Age, int]] = {}
        self._by_age: list[tuple[Age, Path]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, path: Path) -> bool:
        return path in self._kept

    def put(self, path: Path, *, age: Age, nbytes: int) -> None:
        """Keep something, or note that it has another size now.

        Args:
            path: What.
            age: Lower is older.
            nbytes: What it takes of the disk.
        """
        self.take(path)
        self._kept[path] = age, nbytes
        insort(self._by_age, (age, path))
        self.nbytes += nbytes

    def age(self, path: Path) -> Age | None:
        """How old something is; None where it is not kept."""
        return self._kept[path][0] if path in self._kept else None

    def take(self, path: Path) -> None:
        """Keep something no longer; what is not kept is none."""
        if path in self._kept:
            age, nbytes = self._kept.pop(path)
            del self._by_age[bisect_left(self._by_age, (age, path))]
            self.nbytes -= nbytes

    def oldest(self) -> tuple[Age, Path] | None:
        """What is oldest; None where there is nothing."""
        return self._by_age[0] if self._by_age else None

    def newest_age(self) -> Age | None:
        """The highest age; None where there is nothing."""
        return self._by_age[-1][0] if self._by_age else None
