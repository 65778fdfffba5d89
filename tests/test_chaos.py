"""A short part of the fault suite; `make chaos` runs all of it."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos import data, kill, network, outage, power, resources, soak
from tests.chaos.fuzz_one import changed
from tests.chaos.outcome import Ledger, Options, Outcome
from tests.chaos.report import write_report
from tests.chaos.targets import TARGETS


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(folder=tmp_path, short=True, kills=3, crash_points=40, soak_hours=0.6)


def held(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.held, f"{outcome.fault}: {outcome.losses} lost, {outcome.note}, {outcome.details}"


@pytest.mark.needs("mosquitto")
def test_killed_nothing_is_lost(options: Options) -> None:
    held(kill.run(options))


@pytest.mark.needs("strace")
def test_a_power_cut_leaves_what_was_said_to_be_on_disk(options: Options) -> None:
    held([power.cuts(options)])


def test_damaged_files_are_reported_and_replaced(options: Options) -> None:
    held([power.damage(options)])


@pytest.mark.needs("mosquitto")
def test_connections_that_break(options: Options) -> None:
    held(network.run(options))


@pytest.mark.needs("mosquitto")
def test_hours_without_a_broker(options: Options) -> None:
    held([outage.run(options, hours=0.2)])


def test_clocks_and_packets_that_are_wrong(options: Options) -> None:
    held(data.run(options))


@pytest.mark.needs("strace")
def test_a_disk_that_is_full_at_any_write(options: Options) -> None:
    held([resources.full_at_each_write(options)])


def test_a_processor_that_is_too_slow(options: Options) -> None:
    held([resources.starved(options)])


def test_hours_of_data(options: Options) -> None:
    held(soak.run(options))


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "mqtt"])
@settings(max_examples=60)
@given(arbitrary=st.binary(max_size=300), chance=st.randoms(use_true_random=False), which=st.integers(0, 99))
def test_any_bytes_end_in_data_or_in_words(name: str, arbitrary: bytes, chance: random.Random, which: int) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    target.read(arbitrary)
    target.read(changed(seeds[which % len(seeds)], chance))


def test_any_bytes_of_a_broker_end_the_connection() -> None:
    for seed in TARGETS["mqtt"].seeds():
        TARGETS["mqtt"].read(seed)


def test_the_report_tells_what_did_not_hold(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results.json")
    broken = Outcome("kill", "kill -9", "all is heard", runs=3)
    broken.fail("lost one")
    about = {"seed": "1", "machine": "x"}
    ledger.put("kill", [Outcome("kill", "none", "all is heard", runs=2), broken], seconds=1.0, about=about)
    write_report(tmp_path / "report.md", Ledger(tmp_path / "results.json"))
    text = (tmp_path / "report.md").read_text()
    assert "| none | all is heard | 2 runs | 0 | 0 | yes |" in text
    assert "| kill -9 | all is heard | 3 runs | 0 | 0 | no: 1 of 3 |" in text
    assert "Not run." in text
