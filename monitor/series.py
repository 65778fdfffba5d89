"""Time series that exist from when their owner is added until it is removed, with closed lists of label values.

Knows of no metrics library: what it drives has `labels`, `remove`, and `inc` or `set`.
"""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, Final, Generic, Protocol, Self, TypeVar

OTHER: Final = "other"
UNKNOWN: Final = math.nan
"""No rule and no graph takes it for a measurement."""


class _Labelled(Protocol):
    def labels(self, *values: Any) -> Self: ...
    def remove(self, *values: Any) -> None: ...


class _Countable(_Labelled, Protocol):
    def inc(self, amount: float = 1) -> None: ...


class _Settable(_Labelled, Protocol):
    def set(self, value: float) -> None: ...


M = TypeVar("M", bound=_Labelled)


class Family(Generic[M]):
    """One metric: a series for each owner that was added, times closed lists of words."""

    def __init__(self, metric: M, closed: Mapping[str, tuple[str, ...]]) -> None:
        self._metric, self._words = metric, tuple(closed.values())
        self._series: dict[tuple[str, ...], M] = {}

    def add(self, *owner: str) -> None:
        """Let the series of `owner` exist; one that does goes on."""
        for rest in product(*self._words):
            key = (*owner, *rest)
            if key not in self._series:
                self._series[key] = self._metric.labels(*key) if key else self._metric
                self._begin(self._series[key])

    def remove(self, *owner: str) -> None:
        """Let the series of `owner` disappear."""
        for rest in product(*self._words):
            if self._series.pop((*owner, *rest), None) is not None:
                self._metric.remove(*owner, *rest)

    def _begin(self, series: M) -> None:
        """Give a new series its first value."""

    def _find(self, labels: tuple[str, ...]) -> M | None:
        """The series with these labels; a word that is not on its list is `other`; None where no owner is known."""
        if labels in self._series:
            return self._series[labels]
        owners = len(labels) - len(self._words)
        words = zip(labels[owners:], self._words, strict=True)
        return self._series.get((*labels[:owners], *(word if word in known else OTHER for word, known in words)))


class Counters(Family[_Countable]):
    """What only rises."""

    def __init__(self, metric: _Countable, closed: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(metric, closed)
        self._totals: dict[tuple[str, ...], float] = {}

    def rise(self, *labels: str, by: float = 1) -> None:
        """Count."""
        series = self._find(labels)
        if series is not None:
            series.inc(by)

    def follow(self, *labels: str, total: float) -> None:
        """Take over what another counter stands at; one that stands lower than before was started anew."""
        series = self._find(labels)
        if series is not None:
            last = self._totals.get(labels, 0.0)
            self._totals[labels] = total
            series.inc(total - last if total >= last else total)

    def remove(self, *owner: str) -> None:
        """Let the series of `owner` disappear, and what they stood at."""
        super().remove(*owner)
        self._totals = {labels: total for labels, total in self._totals.items() if labels[: len(owner)] != owner}


class Gauges(Family[_Settable]):
    """What is set; each series begins with `first`."""

    def __init__(self, metric: _Settable, closed: Mapping[str, tuple[str, ...]], *, first: float) -> None:
        super().__init__(metric, closed)
        self._first = first

    def put(self, *labels: str, value: float | None) -> None:
        """Set; None is not a number, which no rule and no graph takes for a measurement."""
        series = self._find(labels)
        if series is not None:
            series.set(UNKNOWN if value is None else value)

    def _begin(self, series: _Settable) -> None:
        series.set(self._first)
