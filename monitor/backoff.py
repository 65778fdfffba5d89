"""How long to wait before trying again: exponential, with full jitter, so that many clients do not return together."""

import random


class Backoff:
    """Waits that grow until something works.

    "Full jitter" as in M. Brooker, "Exponential Backoff And Jitter" (2015): each wait is drawn evenly between nothing
    and a limit, and the limit doubles.

    Args:
        first_s: Limit of the first wait, seconds.
        longest_s: What the limit grows to, seconds; not less than the first.
        rng: Source of chance; None: seeded by the system.

    Raises:
        ValueError: A limit is not positive.
    """

    def __init__(self, first_s: float, longest_s: float, *, rng: random.Random | None = None) -> None:
        if not 0 < first_s < float("inf") or not 0 < longest_s < float("inf"):
            raise ValueError(f"first_s is {first_s} and longest_s {longest_s}; accepted: positive and finite")
        self._first_s = min(first_s, longest_s)
        self._longest_s = longest_s
        self._rng = rng if rng is not None else random.Random()
        self._limit_s = self._first_s

    @property
    def limit_s(self) -> float:
        """The longest that the next wait can be, seconds."""
        return self._limit_s

    def next_s(self) -> float:
        """Draw the next wait, seconds, and double its limit."""
        wait_s = self._rng.uniform(0.0, self._limit_s)
        self._limit_s = min(2 * self._limit_s, self._longest_s)
        return wait_s

    def reset(self) -> None:
        """Begin again with the first limit, after something worked."""
        self._limit_s = self._first_s
