"""Are the locks pinned, and is anything in them known to be vulnerable? `make audit`, or `python deploy/audit.py`.

Asks pip-audit (https://pypi.org/project/pip-audit/), first with the registry's own database, then with OSV's. Where
neither can be reached that is said, and what can be said without them: whether every requirement is pinned to one
version with hashes. Exit codes: 0 nothing is known against them, or nobody could be asked; 1 something is.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from lockfile import LockError, read_lock

ROOT = Path(__file__).resolve().parent.parent
_SERVICES = ("pypi", "osv")
# For one lock and one database.
_LIMIT_S = 300.0


class Answer(NamedTuple):
    """What one database says of one lock.

    Attributes:
        vulnerable: "NAME VERSION: IDS, mended in VERSIONS" each.
        asked: How many requirements it knew.
        silent: How many it did not.
    """

    vulnerable: tuple[str, ...]
    asked: int
    silent: int


def ask(program: str, lock: Path, service: str) -> Answer | None:
    """Ask one database about a lock; None where it cannot be asked."""
    command = [program, "--requirement", str(lock), "--require-hashes", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--vulnerability-service", service]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
        found = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    bad = []
    for item in found:
        for vulnerability in item.get("vulns", []):
            names = ", ".join([vulnerability["id"], *vulnerability.get("aliases", [])])
            mended = ", ".join(vulnerability.get("fix_versions", [])) or "no version yet"
            bad.append(f"{item['name']} {item['version']}: {names}, mended in {mended}")
    silent = sum("skip_reason" in item for item in found)
    return Answer(tuple(bad), len(found) - silent, silent)


def audit(lock: Path, program: str) -> tuple[bool, list[str]]:
    """Look at one lock; is all well, and what there is to say."""
    try:
        requirements = read_lock(lock)
    except (LockError, OSError) as error:
        return False, [f"NOT PINNED  {error}"]
    said = [f"pinned      {lock.name}: {len(requirements)} requirements, each of one version with SHA-256 hashes"]
    for service in _SERVICES:
        answer = ask(program, lock, service)
        if answer is None or not answer.asked:
            continue
        said += [f"VULNERABLE  {lock.name}: {text}" for text in answer.vulnerable]
        if not answer.vulnerable:
            said.append(f"audited     {lock.name}: nothing is known against {answer.asked} ({service})")
        if answer.silent:
            said.append(f"NOT AUDITED {lock.name}: {answer.silent} that {service} does not know")
        return not answer.vulnerable, said
    said.append(f"NOT AUDITED {lock.name}: no database of vulnerabilities can be reached from here")
    return True, said


def main() -> int:
    """Audit the locks."""
    parser = argparse.ArgumentParser(description="Audit the locks.")
    parser.add_argument("locks", type=Path, nargs="*", default=sorted(ROOT.glob("requirements*.lock")))
    parser.add_argument("--pip-audit", default="pip-audit", metavar="PROGRAM", help="where it is")
    arguments = parser.parse_args()
    well = True
    for lock in arguments.locks:
        fine, said = audit(lock, arguments.pip_audit)
        well = well and fine
        sys.stdout.write("\n".join(said) + "\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
