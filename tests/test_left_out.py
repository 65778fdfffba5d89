"""The marker `needs`: what is left out is named, and a run that had to be complete fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import left_out, programs

ABSENT = "no-such-seismometer"
ABSENT_TOO = "no-such-broker"
PRESENT = "sh"

ONE_OF_EACH = f"""
    import pytest

    @pytest.fixture
    def server():
        raise AssertionError("started although its program is absent")

    def test_plain():
        pass

    @pytest.mark.needs("{PRESENT}")
    def test_present():
        pass

    @pytest.mark.needs("{ABSENT}")
    def test_absent(server):
        raise AssertionError("ran although its program is absent")
"""


@pytest.fixture(autouse=True)
def known_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {PRESENT: "dash", ABSENT: "seismometer-package", ABSENT_TOO: "broker-package"}
    monkeypatch.setattr(programs, "PROGRAMS", table)
    monkeypatch.delenv(left_out.REQUIRE_ALL_VARIABLE, raising=False)


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    return pytester.runpytest_inprocess("-p", left_out.__name__, "--strict-markers", *args)


def test_a_test_without_its_program_is_left_out_and_named(pytester: pytest.Pytester) -> None:
    result = run(pytester, ONE_OF_EACH)
    result.assert_outcomes(passed=2, skipped=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "*= left out =*",
            f"*::test_absent  needs {ABSENT}",
            "to run it: apt install seismometer-package",
        ]
    )


@pytest.mark.parametrize(("value", "expected"), [("", 0), ("0", 0), ("1", 1)])
def test_a_run_that_must_be_complete_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setenv(left_out.REQUIRE_ALL_VARIABLE, value)
    assert run(pytester, ONE_OF_EACH).ret == expected


def test_a_complete_run_passes_and_says_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(left_out.REQUIRE_ALL_VARIABLE, "1")
    result = run(pytester, ONE_OF_EACH, "-k", "not absent")
    result.assert_outcomes(passed=2, deselected=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*left out*")


def test_a_failure_is_still_reported_as_one(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(left_out.REQUIRE_ALL_VARIABLE, "1")
    result = run(pytester, ONE_OF_EACH + "\n    def test_wrong():\n        assert False\n")
    result.assert_outcomes(passed=2, skipped=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_one_apt_line_brings_back_all_tests(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        f"""
        import pytest

        pytestmark = pytest.mark.needs("{ABSENT}")

        def test_one():
            pass

        @pytest.mark.needs("{ABSENT_TOO}", "{PRESENT}")
        def test_two():
            pass
        """,
    )
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        [
            f"*::test_one  needs {ABSENT}",
            f"*::test_two  needs {ABSENT_TOO}, {ABSENT}",
            "to run them: apt install broker-package seismometer-package",
        ]
    )


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('needs("unheard-of")', "*needs 'unheard-of', whose Debian package is unknown*known: no-such-broker,*"),
        ("needs()", "*needs() takes the names of programs*"),
        ('needs(program="sh")', "*needs() takes the names of programs*"),
    ],
)
def test_a_marker_that_names_no_known_program_is_refused(pytester: pytest.Pytester, marker: str, message: str) -> None:
    result = run(pytester, f"import pytest\n@pytest.mark.{marker}\ndef test_it(): pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_an_unknown_value_of_the_variable_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(left_out.REQUIRE_ALL_VARIABLE, "yes")
    result = run(pytester, ONE_OF_EACH, "-k", "plain")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*MONITOR_TESTS_REQUIRE_ALL='yes'; accepted: 0 and 1*"])


def test_a_server_outside_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "sbin" / "broker"
    server.parent.mkdir()
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setattr(programs, "SERVER_FOLDERS", (str(server.parent),))
    assert programs.find_program("broker") == str(server)
    assert programs.find_program(ABSENT) is None


def test_the_table_prints_what_to_install_before_anything_is() -> None:
    # -S -E: no site-packages, no settings of this environment; .ci/run reads it with a bare python3.
    command = [sys.executable, "-S", "-E", programs.__file__]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env={"PATH": os.defpath}).stdout
    assert printed.endswith("\n")
    assert printed.count("\n") == 1
