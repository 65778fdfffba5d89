"""Secrets come from files and go nowhere but to whom they are for."""

import json
import logging
import pickle
from pathlib import Path

import msgspec
import pytest

from monitor.secrets import Secret, SecretError, exposure, read_secret


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\nsecond line\n", "hunter2"),
        (b" spaces \t\n", " spaces \t"),
        ("pässwörd\n".encode(), "pässwörd"),
    ],
)
def test_the_first_line_is_the_secret(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert read_secret(file).reveal() == expected
    assert read_secret(str(file)) == Secret(expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "first line is empty"),
        (b"\nhunter2\n", "first line is empty"),
        (b"\r\nhunter2\n", "first line is empty"),
        (b"hunter2\xff\n", "not UTF-8"),
        (b"hunter2" * 20_000, "65536 bytes or more"),
    ],
)
def test_what_is_no_secret_is_refused_without_being_shown(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(SecretError, match=reason) as caught:
        read_secret(file)
    assert str(file) in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in repr(error)
        error = error.__cause__


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match=r"none: cannot be read: No such file"):
        read_secret(tmp_path / "none")
    with pytest.raises(SecretError, match=r"cannot be read: Is a directory"):
        read_secret(tmp_path)


def test_nothing_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret("hunter2")
    logging.getLogger("test").warning("%s %r", secret, [secret])
    shown = [str(secret), repr(secret), f"{secret} {secret!r} {secret:>10s}", str({"a": secret})]
    for text in (*shown, caplog.text):
        assert "***" in text
        assert "hunter2" not in text
    for write_out in (pickle.dumps, json.dumps, msgspec.json.encode):
        with pytest.raises(TypeError):
            write_out(secret)
    assert not hasattr(secret, "__dict__")


def test_secrets_can_be_compared() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_files_open_to_everybody_are_told(tmp_path: Path, mode: int, told: bool) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2")
    file.chmod(mode)
    text = exposure(file)
    assert (text is not None) == told
    assert text is None or f"{mode:04o}" in text
    assert exposure(tmp_path / "none") is None
