"""The lock files: they hold what pyproject.toml asks for, agree with each other, and depend on no one's machine."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKS = {
    "requirements.lock": ({"obspy", "plot", "demo", "train"}, {"build", "dev"}),
    "requirements-demo.lock": ({"obspy", "plot", "demo"}, {"build"}),
    "requirements-edge.lock": (set[str](), set[str]()),
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(lock: str) -> dict[str, str]:
    """Name -> version; that there is one version for every Python is part of what is asserted."""
    found = re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / lock).read_text(), flags=re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_satisfies_what_is_asked_for(lock: str) -> None:
    extras, groups = LOCKS[lock]
    declared = project()
    asked = list(declared["project"]["dependencies"])
    for extra in extras:
        asked += declared["project"]["optional-dependencies"][extra]
    for group in groups:
        asked += declared["dependency-groups"][group]
    locked = pins(lock)
    for requirement in map(Requirement, asked):
        if requirement.name != declared["project"]["name"]:
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), (
                f"{requirement}: make lock"
            )


@pytest.mark.parametrize("lock", ["requirements-demo.lock", "requirements-edge.lock"])
def test_a_smaller_lock_is_a_part_of_the_full_one(lock: str) -> None:
    assert pins(lock).items() <= pins("requirements.lock").items()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_folder(lock: str) -> None:
    assert not re.search(r"://|^--|index-url|find-links|file:", (ROOT / lock).read_text(), flags=re.MULTILINE)


def test_an_edge_install_brings_nothing_that_needs_a_compiler_or_a_workstation() -> None:
    assert not {"obspy", "scipy", "matplotlib", "tensorflow", "pandas"} & pins("requirements-edge.lock").keys()


def test_every_extra_is_in_a_lock() -> None:
    assert project()["project"]["optional-dependencies"].keys() == LOCKS["requirements.lock"][0]
