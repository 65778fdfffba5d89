"""Training examples: a recording, changed as the field would change it, its spectrogram and its targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from monitor.spectrogram import Background, SpectrogramParams, complete_frames, power_db
from train.buried import seen
from train.dataset import Store
from train.disturb import disturb, noise_scale
from train.geometry import look_ahead_frames, output_stride
from train.neighbours import with_neighbours
from train.settings import Settings
from train.spectral import filtered, in_band
from train.synthetic import earthquake
from train.traceinfo import Place, TraceInfo

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Rng = np.random.Generator

_RATE = 100.0
# Up and down: how much slower a recording is played.
_TEMPOS = ((4, 5), (5, 4), (9, 10), (10, 9), (6, 5), (5, 6))
# What low rates there are in the field, mostly; MEMS accelerometers of school and warning networks send 31.25 Hz.
_LOW_RATES = (20.0, 25.0, 31.25, 31.25, 40.0, 50.0, 50.0)
_MEMS_RATES = (31.25, 31.25, 50.0, 100.0)


@dataclass(slots=True)
class Crop:
    """A piece of recording on its way to an example.

    Attributes:
        wave: [shape=(3, npts), dtype=float64] Z, N, E.
        real: [shape=(3, npts), dtype=bool] Where there is data.
        unknown: [shape=(npts,), dtype=bool] Where the truth is not known.
        events: (P sample or None, S sample or None) of the earthquakes, within or around the crop.
    """

    wave: F64
    real: Bool
    unknown: Bool
    events: list[tuple[float | None, float | None]]


@dataclass(frozen=True, slots=True)
class Example:
    """What the network is trained on.

    Attributes:
        frames: [shape=(n_frames, n_freq, 3), dtype=float32] decibel above background.
        targets: [shape=(n_outputs, 3), dtype=float32] earthquake, P, S.
        weights: [shape=(n_outputs, 3), dtype=float32] 0 where it does not count.
    """

    frames: F32
    targets: F32
    weights: F32


def cut(store: Store, index: int, start: int, npts: int) -> Crop:
    """Cut samples [start, start + npts) of a trace; what lies outside of it is not real."""
    info = store.traces[index]
    wave, real, unknown = np.zeros((3, npts)), np.zeros((3, npts), bool), np.zeros(npts, bool)
    first, stop = max(start, 0), min(start + npts, info.npts)
    if first < stop:
        wave[:, first - start : stop - start] = store.waveform(index, first, stop)
        real[:, first - start : stop - start] = np.array(info.components)[:, None]
    for a, b in info.gaps:
        real[:, max(a - start, 0) : max(b - start, 0)] = False
    for a, b in info.unknown:
        unknown[max(a - start, 0) : max(b - start, 0)] = True
    events = [(None if p is None else p - start, None if s is None else s - start) for p, s in info.events]
    return Crop(wave, real, unknown, [pair for pair in events if -3000 < (pair[0] or pair[1] or 0.0) < npts + 500])


def targets(crop: Crop, n_frames: int, settings: Settings) -> tuple[F32, F32]:
    """Targets and weights of the outputs for the frames of a crop whose frame 0 is centred on sample nperseg/2 + 1.

    An earthquake is 1 from P until its S and as long again; what follows, the coda, may be called either way.
    """
    spectrogram = settings.spectrogram
    stride = output_stride(settings)
    frame = np.arange(0, n_frames, stride) + (stride - 1) - look_ahead_frames(settings)
    time = (frame * spectrogram.hop + spectrogram.nperseg // 2 + 1) / _RATE
    target = np.zeros((len(time), 3), np.float32)
    weight = np.ones((len(time), 3), np.float32)
    sample = np.clip((time * _RATE).astype(int), 0, len(crop.unknown) - 1)
    weight[crop.unknown[sample]] = 0.0
    weight[frame < 0] = 0.0
    active = np.zeros(len(time), bool)
    coda = np.zeros(len(time), bool)
    for p, s in crop.events:
        begin = (p if p is not None else s or 0.0) / _RATE
        if p is not None and s is not None:
            length = (s - p) / _RATE
            end, after = s / _RATE + max(1.5, min(length, 10.0)), max(5.0, 3 * length)
        elif p is not None:
            end, after = begin + 3.0, 20.0
        else:
            # An S without its P: the P may be anywhere before.
            coda |= (time > begin - 15) & (time <= begin)
            end, after = begin + 2.0, 15.0
        # The frame is as long as this: whether it already holds the onset is a matter of taste.
        blur = (time > begin - 0.35) & (time < begin + 0.1)
        active |= (time >= begin + 0.1) & (time <= end)
        coda |= blur | ((time > end) & (time <= end + after))
        for label, at, width in ((1, p, 0.15), (2, s, 0.2)):
            if at is not None:
                shape = np.exp(-0.5 * ((time - at / _RATE) / width) ** 2)
                target[:, label] = np.maximum(target[:, label], shape)
                # A labelled arrival counts even where another one is in doubt.
                weight[shape > 0.3, label] = 1.0
        if p is None:
            weight[(time > begin - 15) & (time < begin - 0.5), 1] = 0.0
        if s is None:
            weight[(time > begin + 0.3) & (time < begin + 30), 2] = 0.0
    target[:, 0] = active
    weight[coda & ~active, 0] = 0.0
    return target, weight


def frames_of(crop: Crop, settings: Settings, *, recording_rate: float = _RATE) -> tuple[F32, Bool]:
    """The spectrogram of a crop, as `monitor` computes it.

    Returns:
        Decibel above background [shape=(n_frames, n_freq, 3)] and where a component is judged [(n_frames, 3)].
    """
    spectrogram = settings.spectrogram
    planes, judged = [], []
    for component in range(3):
        # The recorder's Nyquist frequency or a component that is absent: the value of the background itself.
        plane, ok = component_frames(crop.wave[component], crop.real[component], spectrogram)
        plane[:, ~spectrogram.usable_bins(recording_rate)] = 0.0
        planes.append(plane)
        judged.append(ok)
    return np.stack(planes, axis=-1), np.stack(judged, axis=-1)


def component_frames(wave: F64, real: Bool, spectrogram: SpectrogramParams) -> tuple[F32, Bool]:
    """One component's decibel above background [(n_frames, n_freq)] and which frames are judged [(n_frames,)]."""
    if not real.any():
        n = max(0, (len(wave) - spectrogram.span) // spectrogram.hop + 1)
        return np.zeros((n, spectrogram.n_freq), np.float32), np.zeros(n, bool)
    return Background(spectrogram).push(power_db(wave, spectrogram), complete_frames(real, spectrogram))


class ExampleMaker:
    """Makes examples from a store.

    Args:
        store: The prepared recordings.
        settings: The run.
        split: Which traces to draw from.
    """

    def __init__(self, store: Store, settings: Settings, *, split: str = "train") -> None:
        store = Store(store.path, store.manifest, with_neighbours(store.traces))
        self._store, self._settings = store, settings
        exclude = settings.data.exclude
        assert split in ("train", "dev")
        kinds = {"event": ["event", "continuous"], "noise": ["noise", "continuous"]}
        self._pools: dict[str, tuple[list[int], F64]] = {}
        for name, of in kinds.items():
            members = [
                index
                for index in store.select(split=split, kind=of, exclude_datasets=exclude)  # type: ignore[arg-type]
                # A long-period quake with a rockfall after it is neither earthquake nor noise.
                if store.traces[index].noise_type != "lp-rockfall"
                if name == "noise" or store.traces[index].picks
            ]
            if not members:
                raise ValueError(f"no {name} traces in split {split!r} of {store.path}")
            self._pools[name] = (members, self._chances(members, name))
        self._extra_noise: Sequence[Place] = ()
        frames = settings.augment.seconds * 1000 // round(1000 * settings.spectrogram.frame_interval_s)
        self.n_frames = frames - frames % output_stride(settings)
        self.npts = (self.n_frames - 1) * settings.spectrogram.hop + settings.spectrogram.span

    def add_hard_negatives(self, places: Sequence[Place]) -> None:
        """Draw a part of the noise from around these places."""
        self._extra_noise = places

    def _chances(self, members: list[int], name: str) -> F64:
        traces = self._store.traces

        def amount(info: TraceInfo) -> float:
            # A long trace stands for as many as fit in it; one with many earthquakes likewise.
            if info.kind != "continuous":
                return info.weight
            npts = info.npts - sum(stop - start for start, stop in info.gaps)
            return info.weight * (len(info.picks) / 2 if name == "event" else npts / 9000)

        amounts = np.array([amount(traces[i]) for i in members])
        datasets = [traces[i].dataset for i in members]
        totals = {d: float(sum(a for a, e in zip(amounts, datasets, strict=True) if e == d)) for d in set(datasets)}
        chances = np.array(
            [a * totals[d] ** (self._settings.data.balance - 1) for a, d in zip(amounts, datasets, strict=True)]
        )
        return np.asarray(chances / chances.sum())

    def make(self, rng: Rng) -> Example:
        """Make one example."""
        augment = self._settings.augment
        quake = rng.random() < augment.event_share
        crop = self._event(rng) if quake else self._noise(rng, self.npts)
        if not quake and rng.random() < augment.noise_mix_share:
            _add_noise(crop, self._noise(rng, self.npts), rng)
        if rng.random() < augment.disturb_share * (0.33 if quake else 1.0):
            _on_real(crop, rng)
        rate = _RATE
        if rng.random() < augment.mems_share:
            rate = float(rng.choice(_MEMS_RATES))
            _mems(crop, rate, rng)
        else:
            if rng.random() < augment.filter_share:
                _instrument(crop, rng)
            if rng.random() < augment.low_rate_share:
                rate = float(rng.choice(_LOW_RATES)) if rng.random() < 0.6 else float(rng.uniform(20, 90))
                _low_pass(crop, 0.45 * rate, order=16)
            if rng.random() < augment.floor_share:
                _floor(crop, rng.uniform(-1.0, 1.0), rate, rng)
        if augment.hide_buried:
            left = seen(crop.wave, crop.events, highest_hz=0.45 * rate)
            crop.events = left.events
            crop.unknown |= left.unknown
        self._components(crop, rng)
        if rng.random() < augment.gap_share:
            _gaps(crop, rng)
        frames, judged = frames_of(crop, self._settings, recording_rate=rate)
        target, weight = targets(crop, self.n_frames, self._settings)
        spoken = np.arange(0, self.n_frames, output_stride(self._settings)) + (
            output_stride(self._settings) - 1 - look_ahead_frames(self._settings)
        )
        heard = np.asarray(judged.any(axis=1))
        weight[~heard[np.clip(spoken, 0, self.n_frames - 1)]] = 0.0
        return Example(frames, target, weight)

    def _pick(self, rng: Rng, pool: str) -> int:
        members, chances = self._pools[pool]
        return members[int(rng.choice(len(members), p=chances))]

    def _noise(self, rng: Rng, npts: int) -> Crop:
        if self._extra_noise and rng.random() < 0.4:
            index, sample = self._extra_noise[int(rng.integers(len(self._extra_noise)))]
            return cut(self._store, index, sample - int(rng.integers(1000, npts - 500)), npts)
        index = self._pick(rng, "noise")
        spare = self._store.traces[index].npts - npts
        start = int(rng.integers(0, spare + 1)) if spare > 0 else -int(rng.integers(0, -spare + 1))
        return cut(self._store, index, start, npts)

    def _raw_event(self, rng: Rng) -> Crop:
        """An earthquake's recording with its P somewhere between before the crop and its end."""
        tempo = (1, 1)
        if rng.random() < self._settings.augment.tempo_share:
            tempo = _TEMPOS[int(rng.integers(len(_TEMPOS)))]
        up, down = tempo
        npts = -(-self.npts * down // up)
        index = self._pick(rng, "event")
        info = self._store.traces[index]
        arrivals = [p if p is not None else s for p, s in info.events]
        at = arrivals[int(rng.integers(len(arrivals)))] or 0.0
        # From P at the very end of what is seen to P just before its begin; mostly with some noise ahead of it.
        place = rng.uniform(0.0, 1.0) if rng.random() < 0.15 else rng.uniform(0.12, 0.95)
        start = int(at - place * npts)
        # Prefer what exists: a crop with little data teaches little.
        spare = info.npts - npts
        if spare >= 0:
            start = min(max(start, 0), spare)
        elif rng.random() < 0.7:
            start = -int(rng.integers(0, -spare + 1))
        crop = cut(self._store, index, start, npts)
        if tempo != (1, 1):
            crop = _played(crop, up, down, self.npts)
        return crop

    def _event(self, rng: Rng) -> Crop:
        augment = self._settings.augment
        if rng.random() < augment.synthetic_share:
            crop = self._noise(rng, self.npts)
            lay_synthetic(crop, rng, augment.synthetic_snr_db)
            return crop
        crop = self._raw_event(rng)
        if rng.random() < augment.second_share:
            other = self._raw_event(rng)
            shift = int(rng.integers(300, 2500))
            gain = _ratio(noise_scale(crop.wave), noise_scale(other.wave)) * 10 ** rng.uniform(-0.7, 0.7)
            crop.wave[:, shift:] += (gain * other.wave)[:, :-shift] * crop.real[:, shift:]
            crop.unknown[shift:] |= other.unknown[:-shift] | ~other.real[:, :-shift].any(axis=0)
            crop.events += [(_plus(p, shift), _plus(s, shift)) for p, s in other.events]
        if rng.random() < augment.mix_share:
            _mix(crop, self._noise(rng, self.npts), rng, augment.mix_snr_db)
        return crop

    def _components(self, crop: Crop, rng: Rng) -> None:
        augment = self._settings.augment
        crop.wave *= rng.choice([-1.0, 1.0], (3, 1))
        both = crop.real[1].any() and crop.real[2].any()
        if both and rng.random() < 0.7:
            angle = rng.uniform(0, 2 * np.pi)
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            crop.wave[1:] = turn @ crop.wave[1:]
            crop.real[1:] = crop.real[1] & crop.real[2]
        elif rng.random() < 0.5:
            crop.wave[[1, 2]], crop.real[[1, 2]] = crop.wave[[2, 1]], crop.real[[2, 1]]
        chance = rng.random()
        if chance < augment.vertical_only_share and crop.real[0].any():
            crop.real[1:] = False
        elif chance < augment.vertical_only_share + augment.drop_share:
            absent = rng.permutation(3)[: rng.integers(1, 3)]
            if crop.real[[i for i in range(3) if i not in absent]].any():
                crop.real[absent] = False
        if rng.random() < 0.05:
            noisy = int(rng.integers(3))
            scale = noise_scale(crop.wave)[noisy, 0] * 10 ** rng.uniform(0.5, 2)
            crop.wave[noisy] += scale * rng.standard_normal(crop.wave.shape[1])
        crop.wave[~crop.real] = 0.0


def _plus(value: float | None, shift: float) -> float | None:
    return None if value is None else value + shift


def _ratio(top: F64, bottom: F64) -> F64:
    """Ratio of two noise scales [shape=(3, 1)], one number for all components where they allow it."""
    good = (top > 0) & (bottom > 0)
    value = float(np.median(top[good] / bottom[good])) if good.any() else 1.0
    return np.full((3, 1), value)


def _played(crop: Crop, up: int, down: int, npts: int) -> Crop:
    """The crop stretched in time by up/down, cut or padded to `npts`."""
    factor = up / down
    wave = resample_poly(crop.wave, up, down, axis=1, padtype="line")[:, :npts]
    index = np.minimum((np.arange(npts) / factor).astype(int), crop.wave.shape[1] - 1)
    events = [(None if p is None else p * factor, None if s is None else s * factor) for p, s in crop.events]
    padded = np.zeros((3, npts))
    padded[:, : wave.shape[1]] = wave
    return Crop(padded, crop.real[:, index], crop.unknown[index], events)


def _add_noise(crop: Crop, other: Crop, rng: Rng) -> None:
    """Lay another recording's noise over noise, at a level near its own."""
    common = crop.real & other.real
    if not common.any():
        return
    gain = _ratio(noise_scale(crop.wave), noise_scale(other.wave)) * 10 ** rng.uniform(-0.5, 0.7)
    crop.wave = np.where(common, crop.wave + gain * other.wave, 0.0)
    crop.real = common
    crop.unknown |= other.unknown
    crop.events += other.events


def _mix(crop: Crop, noise: Crop, rng: Rng, snr_range_db: tuple[float, float]) -> None:
    """Lay the crop's earthquakes over another recording's noise at a chosen ratio of P power to noise power."""
    arrivals = [p for p, _ in crop.events if p is not None and 300 < p < crop.wave.shape[1] - 150]
    if not arrivals:
        return
    p = int(arrivals[0])
    band = in_band(np.concatenate((crop.wave[:1], noise.wave[:1]), axis=0))
    signal, before = band[0, p : p + 150], band[0, max(0, p - 500) : p - 30]
    floor = float(np.sqrt(np.mean(band[1] ** 2)))
    power = float(np.mean(signal**2) - np.mean(before**2))
    if power <= 0 or floor <= 0:
        return
    snr_db = rng.uniform(*snr_range_db)
    gain = 10 ** (snr_db / 20) * floor / np.sqrt(power)
    common = crop.real & noise.real
    crop.wave = np.where(common, gain * crop.wave + noise.wave, 0.0)
    crop.real = common
    crop.unknown |= noise.unknown
    crop.events += noise.events


def lay_synthetic(crop: Crop, rng: Rng, snr_range_db: tuple[float, float]) -> None:
    """Lay a made earthquake over the crop's noise at a chosen ratio of P power to noise power."""
    power = np.mean(in_band(crop.wave) ** 2, axis=1)
    if not power.any():
        return
    npts = crop.wave.shape[1]
    start = int(rng.uniform(0.12, 0.95) * npts)
    made, s = earthquake(rng, npts - start)
    # Of the quietest component that is not dead.
    gain = 10 ** (rng.uniform(*snr_range_db) / 20) * float(np.sqrt(power[power > 0].min()))
    crop.wave[:, start:] += gain * made * crop.real[:, start:]
    crop.events.append((float(start), start + s))


def _low_pass(crop: Crop, corner_hz: float, *, order: int) -> None:
    """A digitizer's anti-alias filter, linear phase."""
    crop.wave = filtered(crop.wave, lambda frequency: 1 / np.sqrt(1 + (frequency / corner_hz) ** (2 * order)))


def _instrument(crop: Crop, rng: Rng) -> None:
    """Another sensor's response: second-order high-pass (0.1 to 4.5 Hz), low-pass, tilt (velocity or acceleration)."""
    corner, damping = 10 ** rng.uniform(-1.0, 0.65), rng.uniform(0.4, 0.9)
    low_pass = (rng.uniform(8, 45), int(rng.choice([1, 2, 4, 8]))) if rng.random() < 0.6 else None
    tilt = float(rng.choice([-1.0, 1.0])) if rng.random() < 0.5 else 0.0

    def response(frequency: F64) -> F64:
        frequency = np.maximum(frequency, 1e-3)
        ratio = frequency / corner
        gain = np.abs(ratio**2 / (1 - ratio**2 + 2j * damping * ratio)) * frequency**tilt
        if low_pass is not None:
            gain = gain / np.sqrt(1 + (frequency / low_pass[0]) ** (2 * low_pass[1]))
        return np.asarray(gain)

    crop.wave = filtered(crop.wave, response)


def _floor(crop: Crop, level: float, rate: float, rng: Rng) -> None:
    """White noise of a sensor, at 10 ** level of the recording's own, below the recorder's Nyquist frequency."""
    own = rng.standard_normal(crop.wave.shape)
    if rate < _RATE:
        own = in_band(own, low_hz=0.0, high_hz=0.45 * rate)
    crop.wave += noise_scale(crop.wave) * 10**level * own


def _mems(crop: Crop, rate: float, rng: Rng) -> None:
    """A MEMS accelerometer: acceleration, its own noise above the ground's, often few samples a second."""
    crop.wave = filtered(crop.wave, lambda frequency: frequency)
    if rate < _RATE:
        _low_pass(crop, 0.45 * rate, order=16)
    _floor(crop, rng.uniform(-0.5, 1.2), rate, rng)


def _on_real(crop: Crop, rng: Rng) -> None:
    disturb(crop.wave, rng)
    if rng.random() < 0.1:
        # Clipping: the recorder's full scale within the signal's range.
        limit = np.quantile(np.abs(crop.wave), rng.uniform(0.9, 0.999))
        np.clip(crop.wave, -limit, limit, out=crop.wave)


def _gaps(crop: Crop, rng: Rng) -> None:
    """Stretches without data, on all components or one; a restart may come with another offset."""
    n = crop.wave.shape[1]
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(0, n))
        stop = start + int(10 ** rng.uniform(0, 3.2))
        which = slice(None) if rng.random() < 0.8 else int(rng.integers(3))
        crop.real[which, start:stop] = False
        if rng.random() < 0.3:
            crop.wave[:, stop:] += noise_scale(crop.wave) * rng.uniform(-300, 300)
    crop.wave[~crop.real] = 0.0
