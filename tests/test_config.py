"""The settings file and the environment: what is wrong is named."""

from pathlib import Path

import msgspec
import pytest

from monitor.config import ConfigError, read_settings
from monitor.detector import DetectorSettings
from monitor.settings import Settings


def settings_from(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "monitor.toml"
    path.write_text(text, encoding="utf-8")
    return read_settings(path, environment=environment)


def test_nothing_set_is_the_defaults(tmp_path: Path) -> None:
    assert read_settings(None, environment={}) == Settings()
    assert settings_from(tmp_path, "") == Settings()
    assert Settings().detector == DetectorSettings()


def test_what_is_set_is_set(tmp_path: Path) -> None:
    found = settings_from(tmp_path, '[detector]\nthreshold = 0.8\nhold_s = 4\n[model]\npath = "other.tflite"\n')
    assert found.detector == DetectorSettings(threshold=0.8, hold_s=4.0)
    assert found.model.path == str(tmp_path / "other.tflite")


def test_an_absolute_model_stays_where_it_is(tmp_path: Path) -> None:
    assert settings_from(tmp_path, '[model]\npath = "/srv/m.tflite"').model.path == "/srv/m.tflite"
    found = read_settings(None, environment={"MONITOR_MODEL__PATH": "m.tflite"})
    assert found.model.path == "m.tflite"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[detector]\nthresold = 0.8", ["[detector] thresold", "unknown key", "did you mean threshold?"]),
        ("[detector]\nzzz = 1", ["[detector] zzz", "unknown key", "accepted: threshold,"]),
        ("[detectr]\nthreshold = 0.8", ["detectr", "unknown key", "did you mean detector?"]),
        ("qqq = 1", ["qqq", "unknown key", "accepted: model, detector"]),
        ("[detector]\nthreshold = 2.0", ["threshold is 2.0", "accepted: 1e-06 to 0.999999"]),
        ("[detector]\nthreshold = nan", ["threshold is nan", "accepted"]),
        ("[detector]\nhold_s = -1", ["hold_s is -1.0", "accepted: 0.2 to 120.0"]),
        ('[detector]\nthreshold = "high"', ["[detector] threshold", "'high'", "float"]),
        ("[detector]\nthreshold = true", ["[detector] threshold", "True", "float"]),
        ("[model]\npath = 5", ["[model] path", "(is 5)", "str"]),
        ("detector = 5", ["detector", "(is 5)", "object"]),
        ("[detector\n", ["not TOML", "line 1"]),
        ("[detector]\nhold_s = 1\nhold_s = 2\n", ["not TOML"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "monitor.toml"))
    for part in parts:
        assert part in message
    assert "$" not in message
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(ConfigError, match=reason) as caught:
            read_settings(path, environment={})
        assert str(path) in str(caught.value)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[detector]\n# \xff\n")
    with pytest.raises(ConfigError, match=r"binary\.toml: not UTF-8 text: .* at byte 13"):
        read_settings(binary, environment={})


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    found = settings_from(
        tmp_path,
        "[detector]\nthreshold = 0.8\nhold_s = 4.0",
        MONITOR_DETECTOR__THRESHOLD="0.7",
        MONITOR_MODEL__PATH="m.tflite",
        MONITOR_LOG_LEVEL="debug",
        OTHER_DETECTOR__HOLD_S="9",
    )
    assert found.detector == DetectorSettings(threshold=0.7, hold_s=4.0)
    assert found.model.path == str(tmp_path / "m.tflite")


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITOR_DETECTOR__CONFIRM_S", "0.6")
    assert read_settings(None).detector.confirm_s == 0.6
    assert read_settings(None, environment={}).detector.confirm_s == DetectorSettings().confirm_s


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("MONITOR_DETECTOR__THRESHOLD", "3", ["threshold is 3.0"]),
        ("MONITOR_DETECTOR__THRESHOLD", "high", ["[detector] threshold", "'high'"]),
        ("MONITOR_DETECTOR__THRESHOLD", "", ["[detector] threshold", "''"]),
        ("MONITOR_DETECTOR__TRESHOLD", "0.5", ["[detector] treshold", "did you mean threshold?"]),
        ("MONITOR_DETECTR__THRESHOLD", "0.5", ["detectr", "did you mean detector?"]),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(name: str, value: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(None, environment={name: value})
    for part in [name, *parts]:
        assert part in str(caught.value)


def test_a_variable_for_a_section_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="detector is 5; accepted: a table"):
        settings_from(tmp_path, "detector = 5", MONITOR_DETECTOR__THRESHOLD="0.5")


def test_every_detector_setting_has_its_range() -> None:
    """A new setting cannot be forgotten: each one refuses what is no number and what is absurd, by its name."""
    for field in msgspec.structs.fields(DetectorSettings):
        for value in (float("nan"), -1e9, 1e9):
            with pytest.raises(ValueError, match=f"{field.name} is .*; accepted: "):
                DetectorSettings(**{field.name: value})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().detector.threshold = 0.5  # type: ignore[misc]
