"""A small store of synthetic earthquakes and noise, and tiny settings, for the tests of training."""

import json
from pathlib import Path

import msgspec
import numpy as np

from train.dataset import SCHEMA, Store, table
from train.settings import AugmentSettings, FitSettings, NetworkSettings, Settings
from train.traceinfo import Kind, Pick, Split, TraceInfo

P, S, NPTS = 3000, 3800, 9000

TINY = Settings(
    name="tiny",
    seed=5,
    augment=AugmentSettings(seconds=30),
    network=NetworkSettings(filters=(8, 4, 6), channels=8, dilations=(1, 2), branches=1),
    fit=FitSettings(steps=2, batch=4),
)
# An example is what the recording is: no augmentation.
PLAIN = msgspec.structs.replace(
    TINY,
    augment=AugmentSettings(
        seconds=30,
        event_share=1.0,
        mix_share=0.0,
        synthetic_share=0.0,
        second_share=0.0,
        tempo_share=0.0,
        filter_share=0.0,
        low_rate_share=0.0,
        floor_share=0.0,
        vertical_only_share=0.0,
        drop_share=0.0,
        disturb_share=0.0,
        gap_share=0.0,
    ),
)


def write_store(folder: Path) -> Store:
    """Four earthquakes, four noise traces and a continuous one in each split."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    traces: list[TraceInfo] = []
    with (folder / "samples.f32").open("wb") as file:
        for split in ("train", "dev"):
            for number in range(9):
                kind: Kind = "event" if number < 4 else "noise" if number < 8 else "continuous"
                npts = 18_000 if kind == "continuous" else NPTS
                quake = kind != "noise"
                wave = rng.standard_normal((3, npts))
                if quake:
                    t = np.arange(npts - P) / 100
                    wave[:, P:] += 15 * np.exp(-t / 2) * np.sin(2 * np.pi * 6 * t)
                    wave[:, S:] += 40 * np.exp(-t[: npts - S] / 4) * np.sin(2 * np.pi * 4 * t[: npts - S])
                file.write(wave.astype("<f4").tobytes())
                traces.append(_info(f"{split}{number}", kind, "train" if split == "train" else "dev", npts, number))
    (folder / "traces.json").write_bytes(msgspec.json.encode(traces))
    manifest = {
        "schema": SCHEMA,
        "fingerprint": "0" * 64,
        "sources": [{"name": "synthetic"}],
        "counts": table(traces),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Store.open(folder)


def _info(name: str, kind: Kind, split: Split, npts: int, number: int) -> TraceInfo:
    quake = kind != "noise"
    return TraceInfo(
        name=name,
        dataset="synthetic" if number % 2 else "other",
        source="synthetic",
        kind=kind,
        split=split,
        station=f"XX.S{number % 3}",
        instrument="H",
        label_source="manual",
        noise_type="",
        npts=npts,
        components=(True, number != 1, number != 1),
        starttime_ns=1_700_000_000_000_000_000 + number * 3_600_000_000_000 if number else None,
        bandwidth_hz=50.0,
        clipped=False,
        snr_db=20.0 if quake else None,
        weight=1.0,
        picks=(Pick("P", P, "manual"), Pick("S", S, "manual")) if quake else (),
        events=((float(P), float(S)),) if quake else (),
    )
