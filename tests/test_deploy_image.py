"""Dockerfile.arm64 and what goes into it; `make test-image` builds and runs it."""

import contextlib
import fnmatch
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.test_packaging import pins, project

ROOT = Path(__file__).parent.parent
HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile.arm64").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.partition(" ")[::2] for line in joined.splitlines() if line]
    return [(name, text.strip()) for name, text in pairs]


def last_stage() -> dict[str, list[str]]:
    found = instructions()
    start = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    stage: dict[str, list[str]] = {}
    for name, text in found[start:]:
        stage.setdefault(name, []).append(text)
    return stage


def test_stages_and_their_base() -> None:
    assert [text for name, text in instructions() if name == "FROM"] == [
        "scratch AS wheels",
        "${BASE} AS build",
        "${BASE}",
    ]
    (base,) = [text for name, text in instructions() if name == "ARG" and text.startswith("BASE=")]
    # A day's image: it never changes. Not by its digest, which is another one for what a test makes itself.
    assert re.fullmatch(r"BASE=docker\.io/library/debian:bookworm-\d{8}-slim", base)


def test_one_file_for_every_architecture() -> None:
    text = " ".join(f"{name} {text}" for name, text in instructions())
    assert not re.search(r"arm64|aarch64|amd64|x86|--platform|TARGETARCH", text)


def test_only_locked_wheels_are_installed() -> None:
    parts = [part for name, text in instructions() if name == "RUN" for part in text.split("&&")]
    installs = [part for part in parts if part.strip().startswith("pip ")]
    assert len(installs) == 3
    for command in installs:
        own = "--no-index --no-deps /dist/" in command
        assert own or ("--only-binary=:all:" in command and "--require-hashes" in command), command
    everything = " ".join(text for _, text in instructions())
    assert not re.search(r"\b(gcc|g\+\+|build-essential|python3-dev|curl|wget)\b", everything)


def test_what_the_wheel_is_built_with_is_locked_like_all_else() -> None:
    locked = pins("requirements-build.lock")
    assert locked.items() <= pins("requirements.lock").items()
    for requirement in map(Requirement, project()["dependency-groups"]["build"]):
        assert requirement.specifier.contains(locked[requirement.name]), f"{requirement}: make lock"


def test_what_runs_is_nobody_and_writes_in_one_place() -> None:
    stage = last_stage()
    (user,) = stage["USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert stage["VOLUME"] == ["/var/lib/monitor"]
    assert "STATE_DIRECTORY=/var/lib/monitor" in stage["ENV"][0]
    assert "PYTHONDONTWRITEBYTECODE=1" in stage["ENV"][0]
    assert f"--owner={user.partition(':')[0]}" in stage["RUN"][0]
    assert "apt-get upgrade" in stage["RUN"][0]
    for name in ("title", "description", "licenses", "version", "revision", "source", "base.name"):
        assert f"org.opencontainers.image.{name}=" in stage["LABEL"][0]


def test_commands_are_lists_and_the_health_is_asked_by_python() -> None:
    stage = last_stage()
    for name in ("ENTRYPOINT", "CMD"):
        assert json.loads(stage[name][0])
    _, _, command = stage["HEALTHCHECK"][0].partition(" CMD ")
    assert json.loads(command) == ["/opt/monitor/bin/python", "-I", "/opt/monitor/healthcheck.py"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    copied = [
        source
        for name, text in instructions()
        if name == "COPY" and "--from=" not in text
        for source in [word for word in text.split() if not word.startswith("--")][:-1]
    ]
    assert len(copied) >= 8
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed, source
    assert set(allowed) == set(copied)
    assert not any(fnmatch.fnmatch("monitor/models/seismic.tflite", rule) for rule in rules[1:] if rule[0] != "!")


# -- health ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """A server on loopback that says one thing on /healthz; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def healthcheck(settings: Path, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", str(HEALTHCHECK), str(settings)],
        env={**{name: value for name, value in os.environ.items() if "MONITOR_" not in name}, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


WELL = json.dumps({"ok": True, "checks": {"process": {"ok": True, "reason": "runs"}}}).encode()
STUCK = json.dumps({"ok": False, "checks": {"process": {"ok": False, "reason": "stuck for 99 s"}}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [(200, WELL, 0, "process: runs\n"), (503, STUCK, 1, "process: stuck for 99 s\n"), (200, b"<html>", 1, None)],
)
def test_the_healthcheck_says_what_the_monitor_says(
    status: int, body: bytes, code: int, said: str | None, tmp_path: Path
) -> None:
    settings = tmp_path / "monitor.toml"
    with answering(status, body) as port:
        # The environment wins, a wildcard means loopback, and a proxy is for others.
        settings.write_text("[http]\nport = 1\n")
        found = healthcheck(
            settings, MONITOR_HTTP__PORT=str(port), MONITOR_HTTP__LISTEN="0.0.0.0", http_proxy="http://127.0.0.1:1"
        )
        assert found == (code, said or f"http://127.0.0.1:{port}/healthz: answers something else than health\n")
        settings.write_text(f'[http]\nport = {port}\nlisten = "127.0.0.1"\n')
        assert healthcheck(settings)[0] == code


def test_a_monitor_that_does_not_answer_is_not_well(tmp_path: Path) -> None:
    with answering(200, WELL) as port:
        pass
    code, said = healthcheck(tmp_path / "absent.toml", MONITOR_HTTP__PORT=str(port))
    assert code == 1
    assert "refused" in said
    settings = tmp_path / "monitor.toml"
    settings.write_text('[http]\nport = "none"\n')
    assert healthcheck(settings) == (0, "nothing to ask: [http] port is none\n")


def test_the_healthcheck_knows_where_a_monitor_listens_by_default() -> None:
    from monitor.settings import HttpSettings

    text = HEALTHCHECK.read_text()
    assert f'LISTEN, PORT = "{HttpSettings().listen}", "{HttpSettings().port}"' in text
