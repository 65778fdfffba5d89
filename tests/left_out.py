"""A pytest plugin: tests that need a program which is not installed are left out by name, with the way to get it.

A test says `@pytest.mark.needs("mosquitto")`; `tests.programs` knows the package. Under MONITOR_TESTS_REQUIRE_ALL=1 a
run that left anything out fails.
"""

import os
from collections.abc import Iterator

import pytest

from tests import programs

REQUIRE_ALL_VARIABLE = "MONITOR_TESTS_REQUIRE_ALL"

# Test by node id -> the programs it lacked.
_LEFT_OUT = pytest.StashKey[dict[str, list[str]]]()


def _requires_all() -> bool:
    value = os.environ.get(REQUIRE_ALL_VARIABLE, "0")
    if value not in {"", "0", "1"}:
        raise pytest.UsageError(f"{REQUIRE_ALL_VARIABLE}={value!r}; accepted: 0 and 1")
    return value == "1"


def _apt_line(lacking: list[str]) -> str:
    return "apt install " + " ".join(sorted({programs.PROGRAMS[program] for program in lacking}))


def _needed(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("needs"):
        if not marker.args or marker.kwargs:
            raise pytest.UsageError(f'{item.nodeid}: needs() takes the names of programs, as in needs("mosquitto")')
        for program in marker.args:
            if program not in programs.PROGRAMS:
                raise pytest.UsageError(
                    f"{item.nodeid} needs {program!r}, whose Debian package is unknown; add it to PROGRAMS in "
                    f"{programs.__name__}; known: {', '.join(sorted(programs.PROGRAMS)) or 'none'}"
                )
            yield program


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known and start with nothing left out."""
    config.addinivalue_line(
        "markers", "needs(program, ...): leave the test out, by name, where one of the programs is not installed"
    )
    config.stash[_LEFT_OUT] = {}
    _requires_all()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse markers that name an unknown program, even where the test would not be left out."""
    for item in items:
        list(_needed(item))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that lacks a program, before its fixtures try to start one."""
    lacking = [program for program in _needed(item) if programs.find_program(program) is None]
    if lacking:
        item.config.stash[_LEFT_OUT][item.nodeid] = lacking
        pytest.skip(f"{', '.join(lacking)} not installed: {_apt_line(lacking)}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run that had to be complete and was not."""
    complete = not session.config.stash[_LEFT_OUT]
    if exitstatus == pytest.ExitCode.OK and not complete and _requires_all():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name each test that was left out, and the one command that brings all of them back."""
    left_out = config.stash[_LEFT_OUT]
    if not left_out:
        return
    terminalreporter.section("left out", yellow=True)
    for nodeid, lacking in left_out.items():
        terminalreporter.line(f"{nodeid}  needs {', '.join(lacking)}")
    every_program = [program for lacking in left_out.values() for program in lacking]
    terminalreporter.line(f"to run {'it' if len(left_out) == 1 else 'them'}: {_apt_line(every_program)}")
    if _requires_all():
        terminalreporter.line(f"{REQUIRE_ALL_VARIABLE}=1: a run that leaves tests out fails", red=True)
