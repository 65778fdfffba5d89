"""Waveforms as what can be seen of them: the least and the greatest sample of each pixel or so."""

import numpy as np
import numpy.typing as npt

from monitor.ringbuffer import RingBuffer

F32 = npt.NDArray[np.float32]


def read_bins(ring: RingBuffer, first: int, stop: int, *, length: int) -> F32:
    """Reduce samples to bins on the absolute grid.

    Args:
        ring: Holds the samples.
        first, stop: Bins, `stop` excluded; bin `k` begins with sample `k * length`.
        length: Samples of a bin.

    Returns:
        Least and greatest sample of each bin, NaN where it has none [shape=(stop - first, 2), dtype=float32].
    """
    samples, valid = ring.read(first * length, max(first, stop) * length)
    blocks, real = samples.reshape(-1, length), valid.reshape(-1, length)
    bins = np.empty((len(blocks), 2), np.float32)
    if real.all():
        blocks.min(axis=1, out=bins[:, 0])
        blocks.max(axis=1, out=bins[:, 1])
        return bins
    bins[:, 0] = np.where(real, blocks, np.inf).min(axis=1)
    bins[:, 1] = np.where(real, blocks, -np.inf).max(axis=1)
    bins[~real.any(axis=1)] = np.nan
    return bins


def read_swings(ring: RingBuffer, first: int, stop: int, *, length: int) -> F32:
    """Reduce samples to bins as `read_bins` does, about each bin's own mean: slow drifts are gone.

    For hours on a sheet, where what matters is shorter than a bin and a broadband sensor drifts.
    """
    samples, valid = ring.read(first * length, max(first, stop) * length)
    blocks, real = samples.reshape(-1, length), valid.reshape(-1, length)
    count = real.sum(axis=1)
    means = np.where(real, blocks, 0.0).sum(axis=1) / np.maximum(count, 1)
    bins = read_bins(ring, first, stop, length=length)
    bins -= means[:, None].astype(np.float32)
    return bins


def decimate(bins: F32, factor: int) -> F32:
    """Join each `factor` bins into one; an incomplete last group too."""
    if not len(bins):
        return bins
    starts = np.arange(0, len(bins), factor)
    low = np.fmin.reduceat(bins[:, 0], starts)
    high = np.fmax.reduceat(bins[:, 1], starts)
    return np.column_stack((low, high))
