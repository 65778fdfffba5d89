"""The bill of materials and the audit: from the locks, the same every time, and honest about what is not known."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EDGE = ROOT / "requirements-edge.lock"
DIGEST = "ab" * 32


def run(script: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "deploy" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    done = run("sbom.py")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_requirement_of_the_edge_lock_is_in_it_with_its_hashes(bill: dict[str, Any]) -> None:
    text = EDGE.read_text()
    libraries = [component for component in bill["components"] if component["type"] == "library"]
    assert len(libraries) == sum("==" in line and not line.startswith((" ", "#")) for line in text.splitlines())
    for component in libraries:
        assert f"\n{component['name']}=={component['version']}" in text
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
    assert sum(len(component["hashes"]) for component in libraries) == text.count("--hash=sha256:")
    assert all(h["content"] in text and h["alg"] == "SHA-256" for c in libraries for h in c["hashes"])


def test_licences_are_those_that_the_distributions_state(bill: dict[str, Any]) -> None:
    licences = {component["name"]: component.get("licenses") for component in bill["components"]}
    assert "Apache" in json.dumps(licences["ai-edge-litert"])
    assert licences["paho-mqtt"]
    # Only what this computer has no use for is unknown: colorama is for Windows.
    unknown = {c["name"] for c in bill["components"] if c["type"] == "library" and "licenses" not in c}
    assert unknown <= {c["name"] for c in bill["components"] if c.get("scope") == "optional"}


def test_the_program_needs_what_pyproject_asks_for_and_the_model(bill: dict[str, Any]) -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    main = bill["metadata"]["component"]
    assert (main["name"], main["version"]) == (asked["name"], asked["version"])
    needs = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    names = {reference.removeprefix("pkg:pypi/").partition("@")[0] for reference in needs[main["bom-ref"]]}
    assert {d.replace(">", " ").replace("=", " ").split()[0].lower() for d in asked["dependencies"]} <= names
    (model,) = [component for component in bill["components"] if component["type"] == "machine-learning-model"]
    assert model["bom-ref"] in needs[main["bom-ref"]]
    assert needs.keys() == {main["bom-ref"], *(component["bom-ref"] for component in bill["components"])}


def test_the_same_inputs_give_the_same_bytes(bill: dict[str, Any], tmp_path: Path) -> None:
    assert bill["specVersion"] == "1.5"
    assert "timestamp" not in bill["metadata"]
    target = tmp_path / "new" / "sbom.json"
    assert run("sbom.py", EDGE, "--output", target).returncode == 0
    assert json.loads(target.read_text()) == bill
    other = tmp_path / EDGE.name
    other.write_text(EDGE.read_text().replace("--hash=sha256:0", "--hash=sha256:1"))
    assert json.loads(run("sbom.py", other).stdout)["serialNumber"] != bill["serialNumber"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"numpy>=2 --hash=sha256:{DIGEST}", "numpy>=2: not pinned"),
        ("numpy==2.0", "numpy==2.0: no SHA-256"),
        ("numpy==2.0 --hash=sha256:ab", "numpy==2.0: no SHA-256"),
        ("-e .", "-e .: not pinned"),
        ("--index-url x", "--index-url x: not pinned"),
    ],
)
def test_what_is_not_pinned_with_hashes_is_refused(tmp_path: Path, line: str, said: str) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"a==1 --hash=sha256:{DIGEST}\n{line}\n")
    audit, sbom = run("audit.py", lock, "--pip-audit", "/bin/false"), run("sbom.py", lock)
    assert (audit.returncode, sbom.returncode) == (1, 1)
    assert said in audit.stdout
    assert said in sbom.stderr


def pip_audit(folder: Path, answer: object, code: int = 0) -> Path:
    """A program that answers as pip-audit does."""
    program = folder / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'JSON'\n{json.dumps(answer)}\nJSON\nexit {code}\n")
    program.chmod(0o755)
    return program


def test_every_lock_of_this_project_is_pinned_and_who_cannot_ask_says_so() -> None:
    done = run("audit.py", "--pip-audit", "/nowhere/pip-audit")
    locks = sorted(path.name for path in ROOT.glob("requirements*.lock"))
    assert done.returncode == 0
    for lock in locks:
        assert f"pinned      {lock}: " in done.stdout
        assert f"NOT AUDITED {lock}: no database of vulnerabilities can be reached from here" in done.stdout


def test_what_is_known_to_be_vulnerable_fails(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"a==1 \\\n    --hash=sha256:{DIGEST}\n    # via b\nb==2 --hash=sha256:{DIGEST}\n")
    well: dict[str, Any] = {"name": "b", "version": "2", "vulns": []}
    bad = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}]}
    done = run("audit.py", lock, "--pip-audit", pip_audit(tmp_path, {"dependencies": [bad, well]}, 1))
    assert done.returncode == 1
    assert "VULNERABLE  requirements.lock: a 1: PYSEC-1, CVE-1, mended in 1.1" in done.stdout
    silent = {"name": "a", "skip_reason": "not found"}
    done = run("audit.py", lock, "--pip-audit", pip_audit(tmp_path, {"dependencies": [silent, well]}))
    assert done.returncode == 0
    assert "nothing is known against 1 (pypi)" in done.stdout
    assert "NOT AUDITED requirements.lock: 1 that pypi does not know" in done.stdout
