"""The units: systemd accepts them, the sandbox is tight, and they say what the program means."""

import re
import subprocess
from pathlib import Path

import pytest

from monitor.commands.common import EXIT_FAILED, EXIT_MODEL, EXIT_TEMPORARY, EXIT_USAGE
from tests.systemd_security import MOST_EXPOSURE, exposure

FOLDER = Path(__file__).parent.parent / "systemd"
UNITS = ["monitor.service", "monitor@.service"]


def text(unit: str) -> str:
    return (FOLDER / unit).read_text()


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text(unit), flags=re.MULTILINE)


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_it(unit: str, tmp_path: Path) -> None:
    # The program need not be installed here.
    copy = tmp_path / unit
    copy.write_text(text(unit).replace("/opt/monitor/current/bin/monitor", "/bin/true"))
    result = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    ours = [line for line in result.stderr.splitlines() if "monitor" in line or str(tmp_path) in line]
    assert ours == []


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_the_sandbox_is_tight(unit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(FOLDER / unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert exposure(said) < MOST_EXPOSURE, said


def test_both_units_are_the_same_but_for_names() -> None:
    def told(unit: str) -> list[str]:
        lines = [line for line in text(unit).splitlines() if line and not line.startswith("#")]
        # monitor-%i, monitor@.service and " %i" are what the instance adds.
        return [re.sub(r"%i\.toml", "monitor.toml", line).replace("-%i", "").replace(" %i", "") for line in lines]

    assert told("monitor@.service") == told("monitor.service")


@pytest.mark.parametrize("unit", UNITS)
def test_what_a_restart_cannot_mend_is_not_restarted(unit: str) -> None:
    (prevented,) = values(unit, "RestartPreventExitStatus")
    assert {int(code) for code in prevented.split()} == {EXIT_USAGE, EXIT_MODEL}
    assert not {EXIT_FAILED, EXIT_TEMPORARY} & {int(code) for code in prevented.split()}
    assert values(unit, "Restart") == ["always"]


@pytest.mark.parametrize("unit", UNITS)
def test_the_clock_can_be_read(unit: str) -> None:
    # monitor.clock asks adjtimex; ProtectClock would refuse it.
    assert "adjtimex clock_adjtime" in values(unit, "SystemCallFilter")
    assert values(unit, "ProtectClock") == []
    assert values(unit, "CapabilityBoundingSet") == [""]


@pytest.mark.parametrize("unit", UNITS)
def test_no_line_is_for_a_later_systemd_than_debian_12_has(unit: str) -> None:
    later = {"RestartSteps", "RestartMaxDelaySec", "PrivatePIDs", "ProtectSystem=strict:", "SurviveFinalKillSignal"}
    assert not later & set(re.findall(r"^(\w+)=", text(unit), flags=re.MULTILINE))
    assert values(unit, "Type") == ["notify"]  # notify-reload came with 253
