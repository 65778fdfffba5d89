"""The spectrogram that the model sees, for live data, replay and training alike.

Samples at the model's rate -> log-power frames -> decibel above a causal background. Everything is a function of the
absolute sample index (sample `n` is at `n / sampling_rate` seconds since the epoch) and of the past, so any split of
the data into pieces gives the same numbers to the bit.
"""

from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# Below this, float32 has fewer digits: whatever unit a recording comes in, float64 holds it.
_SMALLEST_FLOAT32 = np.finfo(np.float32).tiny
# What stands for no power at all, in a row of equal samples. Models are trained with it, so it stays as it is.
_SILENCE = 1e-36
# A recording whose header says 99.999 Hz is one of 100 Hz (libmseed's default tolerance of rates).
_RATE_TOLERANCE = 1e-4
# What a processor's cache holds; each frame is computed alone.
_FRAMES_AT_ONCE = 512
_DB_PER_NEPER = np.float32(10.0 / np.log(10.0))
# Block means are rounded to this part of a decibel: sums of so few digits are exact in float64, in whatever order.
_STEPS_PER_DB = 65536.0


class SpectrogramParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that fixes the numbers; travels inside the model file.

    Attributes:
        sampling_rate: The model's rate, Hz, a whole number.
        nperseg: Samples of one frame. The frame's spectrum is that of the first difference of its samples (a
            high-pass that keeps microseism and offsets out of the lowest bins) times a periodic Hann window.
        hop: Samples between frames. Frame `f` is centred on sample `f * hop`.
        first_bin, last_bin: FFT bins kept, both included; bin `k` is at `k * sampling_rate / nperseg` Hz.
        block: Frames of one background block; blocks lie on an absolute grid.
        background_blocks: The background is the mean over this many past blocks, per frequency.
        lag_blocks: Blocks between the frame's own block and the newest one in its background.
        min_blocks: Complete blocks that the background needs before a frame is judged.
        clip_low_db, clip_high_db: Range of the result, decibel above background.
        guard: Share of the recording's Nyquist frequency up to which bins are used; above it they are set to 0.

    Raises:
        ValueError: A value is out of its range; the message names it and the range.
    """

    sampling_rate: int = 100
    nperseg: int = 64
    hop: int = 10
    first_bin: int = 1
    last_bin: int = 32
    block: int = 10
    background_blocks: int = 30
    lag_blocks: int = 1
    min_blocks: int = 3
    clip_low_db: float = -20.0
    clip_high_db: float = 60.0
    guard: float = 0.9

    def __post_init__(self) -> None:
        limits = {
            "sampling_rate": (1, 10_000),
            "nperseg": (8, 4096),
            "hop": (1, self.nperseg),
            "first_bin": (1, self.nperseg // 2),
            "last_bin": (self.first_bin, self.nperseg // 2),
            "block": (1, 1000),
            "background_blocks": (1, 1000),
            "lag_blocks": (0, 100),
            "min_blocks": (1, self.background_blocks),
            "guard": (0.1, 1.0),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"spectrogram {name} is {getattr(self, name)}; accepted: {low} to {high}")
        if self.nperseg % 2:
            raise ValueError(f"spectrogram nperseg is {self.nperseg}; accepted: an even number")
        if not self.clip_low_db < 0 < self.clip_high_db:
            raise ValueError(
                f"spectrogram clip range is {self.clip_low_db} to {self.clip_high_db} dB; accepted: below 0 to above 0"
            )

    @property
    def n_freq(self) -> int:
        """Number of frequency bins of a frame."""
        return self.last_bin - self.first_bin + 1

    @property
    def span(self) -> int:
        """Samples that one frame needs: `nperseg` and one before them for the difference."""
        return self.nperseg + 1

    @property
    def frame_interval_s(self) -> float:
        """Seconds from frame to frame."""
        return self.hop / self.sampling_rate

    @property
    def frequencies_hz(self) -> F64:
        """Centre of each bin, Hz [shape=(n_freq,), dtype=float64]."""
        return np.arange(self.first_bin, self.last_bin + 1, dtype=np.float64) * (self.sampling_rate / self.nperseg)

    def first_sample(self, frame: int) -> int:
        """Absolute index of the first sample that frame `frame` needs."""
        return frame * self.hop - self.nperseg // 2 - 1

    def end_sample(self, frame: int) -> int:
        """Absolute index after the last sample that frame `frame` needs."""
        return frame * self.hop + self.nperseg // 2

    def frames_before(self, end_sample: int) -> int:
        """Index after the last frame that samples up to `end_sample` (excluded) complete."""
        return (end_sample - self.nperseg // 2) // self.hop + 1

    def usable_bins(self, recording_rate: float) -> Bool:
        """Which bins a recording sampled at `recording_rate` Hz can fill [shape=(n_freq,), dtype=bool]."""
        if recording_rate >= self.sampling_rate * (1 - _RATE_TOLERANCE):
            return np.ones(self.n_freq, bool)
        return np.asarray(self.frequencies_hz <= self.guard * recording_rate / 2)


@lru_cache(maxsize=8)
def _hann(nperseg: int) -> F64:
    window: F64 = 0.5 - 0.5 * np.cos(np.arange(nperseg) * (2 * np.pi / nperseg))
    return window


def power_db(samples: npt.ArrayLike, params: SpectrogramParams) -> F32:
    """Compute log-power frames.

    Args:
        samples: [shape=(n,)] at the model's rate, any unit; frame 0 of the result starts at its first sample.
        params: Which frames and bins.

    Returns:
        Power of each bin in decibel of the squared unit [shape=(n_frames, n_freq), dtype=float32]; `n_frames` is as
        many as fit, 0 where fewer than `params.span` samples are given.
    """
    difference = np.diff(np.asarray(samples, np.float64))
    if len(difference) < params.nperseg:
        return np.empty((0, params.n_freq), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(difference, params.nperseg)[:: params.hop]
    window = _hann(params.nperseg)
    result = np.empty((len(frames), params.n_freq), np.float32)
    at_once = min(_FRAMES_AT_ONCE, len(frames))
    windowed = np.empty((at_once, params.nperseg))
    # Real and imaginary parts, side by side. The transform is in float64: a strong signal must not round away what is
    # 100 dB below it. Its parts need no more than float32.
    parts = np.empty((at_once, 2 * params.n_freq), np.float32)
    for first in range(0, len(frames), at_once):
        power = result[first : first + at_once]
        n = len(power)
        np.multiply(frames[first : first + n], window, out=windowed[:n])
        spectrum = np.fft.rfft(windowed[:n], axis=1).view(np.float64)
        spectrum = spectrum[:, 2 * params.first_bin : 2 * params.last_bin + 2]
        np.copyto(parts[:n], spectrum, casting="same_kind")
        np.multiply(parts[:n], parts[:n], out=parts[:n])
        np.add(parts[:n, ::2], parts[:n, 1::2], out=power)
        if power.min() < _SMALLEST_FLOAT32:
            _log_of_the_faintest(power, spectrum)
        else:
            np.log(power, out=power)
        power *= _DB_PER_NEPER
    return result


def _log_of_the_faintest(power: F32, parts: F64) -> None:
    """Take the logarithm of `power` in place; where float32 does not hold it, from the float64 `parts` it is of."""
    faint = power < _SMALLEST_FLOAT32
    np.log(power, out=power, where=~faint)
    exact = parts[:, ::2][faint] ** 2 + parts[:, 1::2][faint] ** 2
    power[faint] = np.log(np.where(exact > 0, exact, _SILENCE))


def complete_frames(valid: Bool, params: SpectrogramParams) -> Bool:
    """Tell which frames hold real samples only.

    Args:
        valid: [shape=(n,), dtype=bool] Whether each sample is real, as for `power_db`.
        params: Which frames.

    Returns:
        [shape=(n_frames,), dtype=bool]
    """
    if len(valid) < params.span:
        return np.empty(0, bool)
    if valid.all():
        return np.ones((len(valid) - params.span) // params.hop + 1, bool)
    missing = np.concatenate(([0], np.cumsum(~valid)))
    return np.asarray((missing[params.span :] - missing[: -params.span])[:: params.hop] == 0)


class Background:
    """Turns the log-power frames of one component into decibel above its own recent past.

    The background of a frame is the mean, per frequency, of the complete blocks among the `background_blocks` that
    end `lag_blocks` before the frame's block. A block with no complete frame at all (an outage of about two block
    lengths) forgets what was before it: after a restart the gain may be another.

    Args:
        params: The spectrogram's parameters.
        first_frame: Absolute index of the first frame that will be pushed.
    """

    def __init__(self, params: SpectrogramParams, first_frame: int = 0) -> None:
        self._params = params
        depth = params.background_blocks + params.lag_blocks
        self._means = np.zeros((depth, params.n_freq))
        self._complete = np.zeros(depth, bool)
        # Frames of the block that is not full yet, with their validity.
        missing = first_frame % params.block
        self._pending = np.zeros((missing, params.n_freq), np.float32)
        self._pending_valid = np.zeros(missing, bool)
        # Background of the block in progress, so that pushes within one block do not compute it again.
        self._current = (np.zeros(params.n_freq, np.float32), False)

    def push(self, frames_db: F32, valid: Bool) -> tuple[F32, Bool]:
        """Take the next frames.

        Args:
            frames_db: [shape=(n, n_freq), dtype=float32] from `power_db`.
            valid: [shape=(n,), dtype=bool] from `complete_frames`.

        Returns:
            Decibel above background, clipped, 0 where not judged [shape=(n, n_freq), dtype=float32], and which frames
            are judged: complete, and with enough background [shape=(n,), dtype=bool].
        """
        params, held = self._params, len(self._pending)
        frames = np.concatenate((self._pending, frames_db))
        ok = np.concatenate((self._pending_valid, valid))
        n_full = len(frames) // params.block
        background, enough = self._backgrounds(*self._block_means(frames, ok, n_full))

        # Copies: a view would keep a whole replay chunk alive.
        self._pending = frames[n_full * params.block :].copy()
        self._pending_valid = ok[n_full * params.block :].copy()

        judged = valid & np.repeat(enough, params.block)[held : len(frames)]
        relative = frames[held:]
        relative -= np.repeat(background, params.block, axis=0)[held : len(frames)]
        np.clip(relative, np.float32(params.clip_low_db), np.float32(params.clip_high_db), out=relative)
        if not judged.all():
            relative[~judged] = 0.0
        return relative, judged

    def _block_means(self, frames: F32, ok: Bool, n_full: int) -> tuple[F64, Bool, Bool]:
        """Mean of each full block in steps, a whole number; whether all, and whether none of its frames are real."""
        params = self._params
        blocks = frames[: n_full * params.block].reshape(n_full, params.block, params.n_freq)
        block_ok = ok[: n_full * params.block].reshape(n_full, params.block)
        # Added in pairs of halves: a fixed order gives the same bits however many blocks are done at once.
        while (length := blocks.shape[1]) > 1:
            half = length // 2
            total = blocks[:, :half] + blocks[:, half : 2 * half]
            if length % 2:
                total[:, 0] += blocks[:, -1]
            blocks = total
        means = np.rint(blocks[:, 0] * (_STEPS_PER_DB / params.block), dtype=np.float64)
        return means, np.asarray(block_ok.all(axis=1)), np.asarray(~block_ok.any(axis=1))

    def _backgrounds(self, means: F64, complete: Bool, empty: Bool) -> tuple[F32, Bool]:
        """Background of the block in progress before this push and of each that this push begins."""
        params, n, depth = self._params, len(means), len(self._complete)
        background = np.empty((n + 1, params.n_freq), np.float32)
        enough = np.empty(n + 1, bool)
        background[0], enough[0] = self._current
        if not n:
            return background, enough
        means, complete = np.concatenate((self._means, means)), np.concatenate((self._complete, complete))
        means[~complete] = 0.0
        # Sums up to and without each block. They are of whole numbers: a difference of two is exact.
        sums = np.zeros((depth + n + 1, params.n_freq))
        np.cumsum(means, axis=0, out=sums[1:])
        counts = np.concatenate(([0], np.cumsum(complete)))
        # A block counts for those that come before the next empty one.
        newest = np.arange(depth, depth + n)
        reset = np.maximum.accumulate(np.where(empty, newest, -1)) + 1
        stop = newest + 1 - params.lag_blocks
        start = np.minimum(np.maximum(stop - params.background_blocks, reset), stop)
        count = counts[stop] - counts[start]
        background[1:] = (sums[stop] - sums[start]) / (np.maximum(count, 1) * _STEPS_PER_DB)[:, None]
        enough[1:] = count >= params.min_blocks
        self._current = (background[-1].copy(), bool(enough[-1]))
        complete[: reset[-1]] = False
        self._means, self._complete = means[-depth:].copy(), complete[-depth:].copy()
        return background, enough
