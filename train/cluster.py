"""Training on several machines at once, by `tf.distribute`: who takes part, and the mean of what each has.

Every worker makes its own examples and has its own copy of the network; at each step the gradients are averaged over
all of them (tf.distribute.MultiWorkerMirroredStrategy's all-reduce), so that the copies stay alike: n workers with
batch b learn what one would with batch n b. Who they are is in TF_CONFIG, as TensorFlow defines it.
"""

import functools
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

VARIABLE = "TF_CONFIG"

Mean = Callable[[Sequence[Any]], list[Any]]
"""Tensors -> the mean of each over all workers."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The workers of a training run.

    Attributes:
        rank: Which of them this process is; 0 is the chief, whose model counts.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def chief(self) -> bool:
        """Whether this is the worker whose model counts."""
        return self.rank == 0


def cluster() -> Cluster:
    """Read TF_CONFIG: `{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}`.

    Raises:
        ValueError: It is not that; the message says what is accepted.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return Cluster()
    try:
        config = json.loads(text)
        members = [
            (kind, index) for kind in ("chief", "worker") for index in range(len(config["cluster"].get(kind, [])))
        ]
        task = (str(config["task"]["type"]), int(config["task"]["index"]))
        return Cluster(members.index(task), len(members))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{VARIABLE}={text!r}; accepted: "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": N}} with N one of them'
        ) from error


@functools.cache
def _strategy() -> Any:
    """One for the process: its server is started before TensorFlow does anything else, and goes on."""
    import tensorflow as tf  # noqa: PLC0415  # heavy: only where it is used

    return tf.distribute.MultiWorkerMirroredStrategy()


def mean_over(workers: Cluster) -> Mean:
    """Return what averages over the workers; waits for all of them to be there.

    Args:
        workers: From `cluster`. With one, nothing is done.
    """
    if workers.size == 1:
        return list
    import tensorflow as tf  # noqa: PLC0415

    strategy = _strategy()

    def reduce(tensors: list[Any]) -> list[Any]:
        context = tf.distribute.get_replica_context()
        # The all-reduce wants to know the device of each, which only what is made in here has.
        own = [tf.identity(tensor) for tensor in tensors]
        return [*context.all_reduce(tf.distribute.ReduceOp.MEAN, own)]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def mean(tensors: list[Any]) -> Any:
        return strategy.run(reduce, args=(tensors,))

    return lambda tensors: [*mean([tf.convert_to_tensor(tensor) for tensor in tensors])]


def same_on_all(what: str, content: bytes, mean: Mean) -> None:
    """Make sure that all workers have the same of something.

    Raises:
        RuntimeError: They have not.
    """
    import tensorflow as tf  # noqa: PLC0415

    # Sums of 32-bit numbers are exact in 64-bit floats.
    own = float(zlib.crc32(content))
    if float(mean([tf.constant(own, tf.float64)])[0]) != own:
        raise RuntimeError(f"the workers of {VARIABLE} have different {what}; accepted: the same on all of them")


@contextmanager
def lost_workers() -> Iterator[None]:
    """Say in one line that another worker is gone."""
    import tensorflow as tf  # noqa: PLC0415

    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError) as error:
        raise RuntimeError(f"another worker of {VARIABLE} is gone; start all of them anew") from error
