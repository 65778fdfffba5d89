"""The `fit` step: examples in, a float Keras model out."""

import contextlib
import json
import math
import multiprocessing
import queue
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from train.augment import ExampleMaker
from train.cluster import cluster, lost_workers, mean_over, same_on_all
from train.dataset import Store
from train.geometry import REFERENCE_FRAMES, context_frames
from train.settings import Settings
from train.traceinfo import Place

F32 = npt.NDArray[np.float32]
Batch = tuple[npt.NDArray[np.float16], F32, F32]

_QUEUED_BATCHES = 8
# Three times what the running statistics of a momentum of 0.97 remember.
_STATISTICS_BATCHES = 100


def make_batch(maker: ExampleMaker, settings: Settings, rng: np.random.Generator) -> Batch:
    """Make one batch of inputs, targets and weights for the network that the settings name."""
    examples = [maker.make(rng) for _ in range(settings.fit.batch)]
    frames = np.stack([example.frames for example in examples])
    targets = np.stack([example.targets for example in examples])
    weights = np.stack([example.weights for example in examples])
    if settings.network.name == "reference":
        return _windows(frames, targets, weights, rng)
    # What the network sees before the first frame of a stream: nothing.
    frames = np.pad(frames, ((0, 0), (context_frames(settings) - 1, 0), (0, 0), (0, 0)))
    return frames.astype(np.float16), targets, weights


def _windows(frames: F32, targets: F32, weights: F32, rng: np.random.Generator) -> Batch:
    """One window of each example; it is an earthquake if one is going on in its middle."""
    outputs = targets.shape[1]
    stride = frames.shape[1] // outputs
    first_output = -(-REFERENCE_FRAMES // stride)
    chosen = rng.integers(first_output, outputs, len(frames))
    image = np.stack(
        [f[(o + 1) * stride - REFERENCE_FRAMES : (o + 1) * stride] for f, o in zip(frames, chosen, strict=True)]
    )
    row = np.arange(len(frames))
    return (
        image.astype(np.float16),
        targets[row, chosen, :1][:, None, :],
        weights[row, chosen, :1][:, None, :],
    )


def _produce(
    store_path: Path,
    settings_json: bytes,
    worker: int,
    hard_negatives: Sequence[Place],
    out: "multiprocessing.Queue[Batch]",
) -> None:
    settings = msgspec.json.decode(settings_json, type=Settings)
    maker = ExampleMaker(Store.open(store_path), settings)
    maker.add_hard_negatives(hard_negatives)
    rng = np.random.default_rng([settings.seed, worker])
    parent = multiprocessing.parent_process()
    while True:
        batch = make_batch(maker, settings, rng)
        while True:
            try:
                out.put(batch, timeout=5.0)
                break
            except queue.Full:
                # A parent that was killed cannot end this process, nor read what is on its way to it.
                if parent is not None and not parent.is_alive():
                    out.cancel_join_thread()
                    return


def batches(
    store: Store, settings: Settings, hard_negatives: Sequence[Place], *, rank: int = 0
) -> Generator[Batch, None, None]:
    """Give batches without end, made by `settings.fit.workers` processes, in a fixed order; others for each rank."""
    context = multiprocessing.get_context("spawn")
    queues: list[Any] = [context.Queue(_QUEUED_BATCHES) for _ in range(settings.fit.workers)]
    text = msgspec.json.encode(settings)
    processes = [
        context.Process(
            target=_produce,
            args=(store.path, text, rank * settings.fit.workers + worker, hard_negatives, queues[worker]),
            daemon=True,
        )
        for worker in range(settings.fit.workers)
    ]
    for process in processes:
        process.start()
    try:
        while True:
            for process, ready in zip(processes, queues, strict=True):
                while True:
                    try:
                        yield ready.get(timeout=5.0)
                        break
                    except queue.Empty:
                        if not process.is_alive():
                            raise RuntimeError("a process that makes examples has died; see above") from None
    finally:
        for process in processes:
            process.kill()
            process.join()


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up over 3 % of the steps, then half a cosine down to 1 %."""
    fit = settings.fit
    warm = max(1, round(0.03 * fit.steps))
    if step < warm:
        return fit.learning_rate * (step + 1) / warm
    progress = min(1.0, (step - warm) / max(1, fit.steps - warm))
    return fit.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def set_all(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Give variables their values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def weights_of(path: Path) -> list[F32]:
    """The weights of a saved model."""
    import keras  # noqa: PLC0415  # heavy: only where it is used

    weights: list[F32] = keras.models.load_model(path, compile=False).get_weights()
    return weights


def mean_weights(several: Sequence[Sequence[F32]], shares: Sequence[float] | None = None) -> list[F32]:
    """The mean of several models' weights; `shares` of each, all alike without."""
    return [np.average(same, axis=0, weights=shares).astype(np.float32) for same in zip(*several, strict=True)]


def save_mean(path: Path, several: Sequence[Sequence[F32]], shares: Sequence[float] | None = None) -> None:
    """Give the saved model the mean of several weights, as `mean_weights`: of late states, which lie in one valley.

    What single states are sure of without reason differs, what they know does not (Izmailov and others, 2018,
    "Averaging weights leads to wider optima and better generalization").
    """
    import keras  # noqa: PLC0415  # heavy: only where it is used

    model = keras.models.load_model(path, compile=False)
    model.set_weights(mean_weights(several, shares))
    model.save(path)


def fit(
    store: Store,
    settings: Settings,
    out: Path,
    *,
    hard_negatives: Sequence[Place] = (),
    start_from: Path | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train; together with other workers where TF_CONFIG names some (see `train.cluster`): all end with one model.

    Args:
        store: The prepared recordings.
        settings: The run.
        out: Folder for `model.keras` and `history.json` (`history_mined.json` where it goes on from weights).
        hard_negatives: Where in the training noise an earlier model gave false alarms.
        start_from: Weights to go on from.
        report: Told the step and the smoothed losses about every second.

    Returns:
        Path of `model.keras`.
    """
    import keras  # noqa: PLC0415  # heavy: only where it is used
    import tensorflow as tf  # noqa: PLC0415

    from train.network import build  # noqa: PLC0415
    from train.optimizer import make_optimizer  # noqa: PLC0415

    workers = cluster()
    # Before TensorFlow does anything: afterwards it could not listen to other workers any more.
    mean_of = mean_over(workers)
    same_on_all("settings", msgspec.json.encode(settings), mean_of)
    keras.utils.set_random_seed(settings.seed)
    model = build(settings, REFERENCE_FRAMES if settings.network.name == "reference" else None)
    if start_from is not None:
        model.load_weights(start_from)
    optimizer = make_optimizer(settings.fit, settings.network.name)
    averaged = [tf.Variable(v, trainable=False) for v in model.trainable_variables]
    label_weights = tf.constant(settings.fit.loss_weights[: model.output_shape[-1]], tf.float32)

    @tf.function(jit_compile=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any, w: Any, decay: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = tf.reshape(model(tf.cast(x, tf.float32), training=True), tf.shape(y))
            loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
            # Arrivals are rare: their few outputs count more.
            rare = tf.concat([tf.ones_like(y[..., :1]), 1.0 + 4.0 * y[..., 1:]], axis=-1)
            per_label = tf.reduce_sum(loss * w * rare, axis=[0, 1]) / (tf.reduce_sum(w * rare, axis=[0, 1]) + 1.0)
            total = tf.reduce_sum(per_label * label_weights)
        gradients = mean_of(tape.gradient(total, model.trainable_variables))
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        for mean, variable in zip(averaged, model.trainable_variables, strict=True):
            mean.assign(decay * mean + (1 - decay) * variable)
        return per_label

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def look(x: Any) -> Any:
        return model(tf.cast(x, tf.float32), training=True)

    out.mkdir(parents=True, exist_ok=True)
    history: list[dict[str, float]] = []
    smooth: F32 | None = None
    told = time.monotonic()
    source = batches(store, settings, hard_negatives, rank=workers.rank)
    with contextlib.closing(source), lost_workers():
        for number in range(settings.fit.steps):
            x, y, w = next(source)
            optimizer.learning_rate.assign(learning_rate(number, settings))
            # Polyak averaging; short at first so that the beginning is forgotten.
            decay = min(0.998, (1 + number) / (10 + number))
            losses = step(tf.constant(x), tf.constant(y), tf.constant(w), tf.constant(decay, tf.float32)).numpy()
            smooth = losses if smooth is None else 0.98 * smooth + 0.02 * losses
            if not np.isfinite(smooth).all():
                raise RuntimeError(f"the loss is no longer finite at step {number}; a lower learning_rate may help")
            now = time.monotonic()
            if report is not None and (now - told > 1.0 or number + 1 == settings.fit.steps):
                told = now
                report(number + 1, dict(zip(("earthquake", "p", "s"), map(float, smooth), strict=False)))
            if number % 100 == 99:
                history.append({"step": number + 1, **{f"loss_{i}": float(v) for i, v in enumerate(smooth)}})
            if number % 1000 == 999 or number + 1 == settings.fit.steps:
                current = [v.numpy() for v in model.trainable_variables]
                set_all(model.trainable_variables, averaged)
                if number + 1 == settings.fit.steps and settings.network.name == "stream":
                    # The normalisation's running statistics are those of the last weights, not of their average.
                    for _ in range(min(_STATISTICS_BATCHES, settings.fit.steps)):
                        look(tf.constant(next(source)[0]))
                    set_all(model.non_trainable_variables, mean_of([v.value for v in model.non_trainable_variables]))
                model.save(out / "model.keras")
                if number + 1 < settings.fit.steps:
                    set_all(model.trainable_variables, current)
    source_of = "history.json" if start_from is None else "history_mined.json"
    (out / source_of).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return out / "model.keras"
