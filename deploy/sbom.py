"""What an edge installation consists of, as a CycloneDX 1.5 document: `make sbom`, or `python deploy/sbom.py [LOCK]`.

Made from the lock (versions, hashes, what needs what), from the metadata of the installed distributions (licences) and
from the shipped model. The same inputs give the same bytes: no time, and a serial number that is a digest of the rest.
https://cyclonedx.org/docs/1.5/json/
"""

import argparse
import hashlib
import json
import sys
import tomllib
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from lockfile import LockError, Requirement, read_lock

ROOT = Path(__file__).resolve().parent.parent
MODEL = Path("monitor/models/seismic.tflite")
_ANY_FILE = "of each published file, any one of which may be installed"


def document(lock: Path, *, root: Path = ROOT) -> tuple[dict[str, Any], list[str]]:
    """Describe an installation.

    Returns:
        The document, and the names whose licence is not known because they are not installed in the lock's version.

    Raises:
        LockError: The lock is not pinned with hashes.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    requirements = read_lock(lock)
    licences = {r.name: _licence(r) for r in requirements}
    program = _reference(project["name"], project["version"])
    references = {project["name"]: program, **{r.name: _reference(r.name, r.version) for r in requirements}}
    needs: dict[str, list[str]] = {reference: [] for reference in references.values()}
    for requirement in requirements:
        for by in requirement.via:
            needs[references[by]].append(references[requirement.name])
    model = _model(root)
    needs[program].append(model["bom-ref"])
    needs[model["bom-ref"]] = []
    body: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": program,
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": program,
            },
            "properties": [{"name": "seismic-monitor:lock", "value": lock.name}],
        },
        "components": [model, *(_component(r, licences[r.name]) for r in requirements)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(needs.items())],
    }
    serial = uuid.UUID(bytes=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()[:16], version=4)
    return {**body, "serialNumber": f"urn:uuid:{serial}"}, [name for name, found in licences.items() if not found]


def _reference(name: str, version: str) -> str:
    # https://github.com/package-url/purl-spec: names of PyPI in lower case with dashes.
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"


def _component(requirement: Requirement, licences: list[dict[str, Any]]) -> dict[str, Any]:
    properties = [{"name": "seismic-monitor:hashes", "value": _ANY_FILE}]
    if requirement.marker is not None:
        properties.append({"name": "seismic-monitor:marker", "value": requirement.marker})
    reference = _reference(requirement.name, requirement.version)
    return {
        "type": "library",
        "bom-ref": reference,
        "name": requirement.name,
        "version": requirement.version,
        "scope": "required" if requirement.marker is None else "optional",
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in requirement.hashes],
        **({"licenses": licences} if licences else {}),
        "purl": reference,
        "properties": properties,
    }


def _licence(requirement: Requirement) -> list[dict[str, Any]]:
    """What the distribution says of itself; nothing where it is not installed in this version."""
    try:
        installed = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return []
    if installed.version != requirement.version:
        return []
    about = installed.metadata
    if expression := about["License-Expression"]:
        return [{"expression": expression}]
    # A text of many lines is a licence's own, not its name.
    if (name := about["License"]) and "\n" not in name.strip() and name.strip() != "UNKNOWN":
        return [{"license": {"name": name.strip()}}]
    classified = {c.rpartition(" :: ")[2] for c in about.get_all("Classifier", []) if c.startswith("License ::")}
    return [{"license": {"name": name}} for name in sorted(classified)]


def _model(root: Path) -> dict[str, Any]:
    content = (root / MODEL).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{digest[:16]}",
        "name": MODEL.name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "properties": [{"name": "seismic-monitor:path", "value": str(MODEL)}],
    }


def main() -> int:
    """Write the document."""
    parser = argparse.ArgumentParser(description="Write a CycloneDX document of an edge installation.")
    parser.add_argument("lock", type=Path, nargs="?", default=ROOT / "requirements-edge.lock")
    parser.add_argument("--output", type=Path, metavar="FILE", help="there instead of standard output")
    arguments = parser.parse_args()
    try:
        made, unknown = document(arguments.lock)
    except (LockError, OSError) as error:
        sys.stderr.write(f"sbom.py: {error}\n")
        return 1
    text = json.dumps(made, indent=2, sort_keys=True) + "\n"
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
        sys.stdout.write(f"{arguments.output}: {len(made['components'])} components\n")
    if unknown:
        sys.stderr.write(f"licence not known, not installed here in this version: {', '.join(unknown)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
