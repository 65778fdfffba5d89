"""`monitor check`: what is wrong, what there is to set, and what answers."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from monitor.check_connect import (
    Outcome,
    duration,
    try_clock,
    try_everything,
    try_model,
    try_mqtt,
    try_port,
    try_seedlink,
    try_state,
)
from monitor.clock import Discipline, FixedClock
from monitor.commands.check import check
from monitor.model import attach_metadata, default_model_path, read_metadata
from monitor.playback.protocol import Access
from monitor.playback.server import PlaybackServer, PlaybackSettings
from monitor.records import ChannelId, Segment
from monitor.settings import (
    HttpSettings,
    ModelSettings,
    MqttSettings,
    OutboxSettings,
    PageSettings,
    SeedLinkSettings,
    Settings,
    StateSettings,
)
from monitor.timebase import NS_PER_SECOND
from tests.mosquitto import Mosquitto, free_port
from tests.programs import find_program
from tests.waveforms import T0

app = typer.Typer()
app.command()(check)
SERVER = '[[seedlink]]\nhost = "localhost"\nstations = ["XX.A"]\n'
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MONITOR_"):
            monkeypatch.delenv(name)


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def run_on(tmp_path: Path, text: str) -> tuple[int, list[str]]:
    """Check a file; the lines without its folder."""
    file = tmp_path / "monitor.toml"
    file.write_text(text, encoding="utf-8")
    code, output = run(file)
    assert SECRET not in output
    return code, output.replace(f"{tmp_path}/", "").splitlines()


# -- settings and the files they name ----------------------------------------------------------------------------------


def test_good_settings_are_described(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(SECRET)
    (tmp_path / "pw").chmod(0o600)
    code, lines = run_on(
        tmp_path,
        SERVER + '[mqtt]\nhost = "localhost"\nclient_id = "me"\nuser = "u"\npassword_file = "pw"\n'
        '[state]\ndirectory = "state"\n[detector]\nthreshold = 0.75\n[http]\nport = "none"\n',
    )
    assert code == 0
    assert lines == [
        "monitor.toml: fine",
        f"  model     {read_metadata(default_model_path().read_bytes(), source='').name} "
        f"{read_metadata(default_model_path().read_bytes(), source='').version} (shipped), threshold 0.75",
        "  seedlink  localhost:18000: XX.A",
        "  mqtt      localhost:1883 as me, topics below monitor/v1",
        "  page      http://127.0.0.1:9465/, no login",
        "  state     state",
    ]


def test_everything_wrong_is_told(tmp_path: Path) -> None:
    code, lines = run_on(tmp_path, '[detector]\nhold_s = 0\nthresold = 1\n[mqtt]\nport = "x"\n')
    assert code == 2
    assert [line.partition(";")[0] for line in lines] == [
        "monitor.toml:2: [detector] hold_s is 0",
        "monitor.toml:3: [detector] thresold: unknown key",
        "monitor.toml:5: [mqtt] port is 'x'",
        "monitor.toml: 3 problems",
    ]


def test_what_a_file_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    code, lines = run_on(tmp_path, '[detector]\n"a\\u001b[2Jb" = 0\n')
    assert (code, lines[0].partition(":")[0]) == (2, "monitor.toml")
    assert "a?[2Jb: unknown key" in lines[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[model]\npath = "none.tflite"', "2: [model] path is 'none.tflite', which cannot be read: No such file"),
        ('[model]\npath = "text"', "2: [model] path: text: not a TensorFlow Lite model"),
        ("[detector]\nfalse_alarms_per_day = 1e-6", "2: [detector] false_alarms_per_day is 1e-06; accepted: "),
        ('[mqtt]\nuser = "u"\npassword_file = "none"', "3: [mqtt] password_file: none: cannot be read: No such file"),
        ('[page]\nuser = "u"\npassword_file = "none"', "3: [page] password_file: none: cannot be read: No such file"),
        ("[http]\nport = 9465", " [page] port is 9465, which [http] has, too; accepted: another one"),
        ('[http]\nlisten = "0.0.0.0"\n[page]\nport = 9464', "4: [page] port is 9464, which [http] has, too"),
        ('[mqtt]\nuser = "u"\npassword_file = "empty"', "3: [mqtt] password_file: empty: its first line is empty"),
        (SERVER + 'token_file = "none"', "4: [[seedlink]] 1 token_file: none: cannot be read"),
        (SERVER + 'tls = true\nca_file = "none"', "5: [[seedlink]] 1 ca_file: none: cannot be read: No such file"),
        (SERVER + 'tls = true\nca_file = "text"', "5: [[seedlink]] 1 ca_file: text: "),
        ('[mqtt]\ntls = true\nca_file = "text"', "3: [mqtt] ca_file: text: "),
        (
            '[mqtt]\ntls = true\ncert_file = "text"\nkey_file = "none"',
            "4: [mqtt] key_file: none: cannot be read: No such file",
        ),
        (
            '[mqtt]\ntls = true\ncert_file = "text"\nkey_file = "text"',
            "3: [mqtt] cert_file and key_file: text and text: ",
        ),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello")
    for name in ("empty", "text"):
        (tmp_path / name).chmod(0o600)
    code, lines = run_on(tmp_path, text)
    assert code == 2
    assert lines[0].startswith(f"monitor.toml:{expected}")
    assert lines[-1] == "monitor.toml: 1 problem"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[mqtt]\nhost = "localhost"\nuser = "u"\npassword_file = "open"',
            "4: warning: [mqtt] password_file: open: every user of this computer can read",
        ),
        (
            '[mqtt]\nhost = "example.org"\nuser = "u"\npassword_file = "closed"',
            "4: warning: [mqtt] password_file is set but tls is not: the network carries it in the clear",
        ),
        (
            SERVER.replace("localhost", "192.0.2.1") + 'token_file = "closed"',
            "4: warning: [[seedlink]] 1 token_file is set but tls is not",
        ),
        (SERVER + 'ca_file = "/etc/ssl/cert.pem"', "4: warning: [[seedlink]] 1 ca_file is set but tls is not"),
        ('[page]\nlisten = "0.0.0.0"', "2: warning: [page] listen is '0.0.0.0' and nobody has to log in: whoever"),
        ('[page]\nlisten = "station"', "2: warning: [page] listen is 'station' and nobody has to log in: whoever"),
        (
            '[page]\nlisten = "::"\nuser = "u"\npassword_file = "closed"',
            "4: warning: [page] password_file is set and listen is '::': the page speaks no TLS",
        ),
        (
            '[page]\nuser = "u"\npassword_file = "open"',
            "3: warning: [page] password_file: open: every user of this computer can read",
        ),
        ('[page]\ntrusted_proxies = ["::1"]', "2: warning: [page] trusted_proxies is set but user_header is not"),
        (
            '[page]\nuser_header = "X"\ntrusted_proxies = ["::1", "0.0.0.0/0"]',
            "3: warning: [page] trusted_proxies holds '0.0.0.0/0': anybody can send X and is let in",
        ),
        ("[live]\nlateness_s = 15", "2: warning: [live] lateness_s is 15, not more than component_wait_s and"),
        ("", " note: no [[seedlink]]: `monitor run` has nothing to listen to"),
        (SERVER, " note: no host in [mqtt]: detections are not published"),
    ],
)
def test_what_is_odd_is_told_and_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    for name, mode in (("open", 0o644), ("closed", 0o600)):
        (tmp_path / name).write_text(SECRET)
        (tmp_path / name).chmod(mode)
    # Not every computer has certificates there.
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    code, lines = run_on(tmp_path, text)
    assert code == 0
    assert any(line.startswith(f"monitor.toml:{expected}") for line in lines), lines
    assert "monitor.toml: fine" in lines


def test_secrets_to_this_computer_need_no_encryption(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(SECRET)
    (tmp_path / "pw").chmod(0o600)
    for host in ("localhost", "127.0.0.1", "::1"):
        _, lines = run_on(tmp_path, f'[mqtt]\nhost = "{host}"\nuser = "u"\npassword_file = "pw"')
        assert not any("warning" in line for line in lines)


@pytest.mark.parametrize(
    ("more", "described"),
    [
        ("", "http://127.0.0.1:9465/, no login"),
        ('listen = "::1"\nport = 80\n', "http://[::1]:80/, no login"),
        ('user = "u"\npassword_file = "pw"\n', "http://127.0.0.1:9465/, login as u"),
        ('user_header = "X"\nlisten = "0.0.0.0"\n', "http://0.0.0.0:9465/, whom a reverse proxy names in X"),
        ('port = "none"\nlisten = "0.0.0.0"\n', None),
    ],
)
def test_a_page_that_nobody_else_sees_is_nothing_to_warn_of(tmp_path: Path, more: str, described: str | None) -> None:
    (tmp_path / "pw").write_text(SECRET)
    (tmp_path / "pw").chmod(0o600)
    code, lines = run_on(tmp_path, f"[page]\n{more}")
    assert code == 0
    assert not any("warning" in line for line in lines)
    assert [line.removeprefix("  page      ") for line in lines if line.startswith("  page")] == (
        [] if described is None else [described]
    )


def test_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITOR_SEEDLINK__0__HOST", "localhost")
    monkeypatch.setenv("MONITOR_SEEDLINK__0__STATIONS", '["XX.A"]')
    code, output = run()
    assert code == 0
    assert "settings: fine" in output
    monkeypatch.setenv("MONITOR_LOG__LEVEL", "loud")
    code, output = run()
    assert code == 2
    assert "MONITOR_LOG__LEVEL: [log] level is 'loud'; accepted: " in output


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert run(tmp_path / "none.toml") == (
        2,
        f"{tmp_path}/none.toml: cannot be read: No such file or directory\n{tmp_path}/none.toml: 1 problem\n",
    )


# -- reference and schemas ---------------------------------------------------------------------------------------------


def test_the_reference_is_the_shipped_file() -> None:
    shipped = Path(__file__).parents[1] / "deploy" / "monitor.toml"
    assert run("--reference") == (0, shipped.read_text(encoding="utf-8"))
    code, output = run(shipped)
    assert (code, "fine" in output) == (0, True)


def test_schemas() -> None:
    code, output = run("--schema")
    assert code == 0
    every = json.loads(output)
    assert {"monitor.detection/1", "monitor.status/1"} <= every.keys()
    for name, schema in every.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert json.loads(run("--schema", name)[1]) == schema
    assert json.loads(run("--schema", "detection")[1]) == every["monitor.detection/1"]
    assert "MqttSettings" in json.loads(run("--schema", "settings")[1])["$defs"]
    code, output = run("--schema", "zzz")
    assert code == 2
    assert "no such schema; accepted: detection, " in output


def test_one_thing_at_a_time() -> None:
    for options in (("--schema", "--reference"), ("--connect", "--schema")):
        code, output = run(*options)
        assert (code, "exclude each other" in output) == (2, True)
    code, output = run("--running")
    assert (code, "--running goes with --connect" in output) == (2, True)


# -- --connect: this computer ------------------------------------------------------------------------------------------


def test_the_model_is_run(tmp_path: Path) -> None:
    (found,) = try_model(Settings())
    assert (found.state, found.subject) == ("ok", "model")
    content = default_model_path().read_bytes()
    metadata = read_metadata(content, source="model")
    output = [(value + 100) % 128 for value in metadata.reference.output]
    wrong = msgspec.structs.replace(metadata, reference=msgspec.structs.replace(metadata.reference, output=output))
    other = tmp_path / "wrong.tflite"
    other.write_bytes(attach_metadata(content[: content.rindex(b"PK\x03\x04")], wrong))
    (found,) = try_model(Settings(model=ModelSettings(path=str(other))))
    assert found.state == "failed"
    assert "reference answer" in found.text
    (found,) = try_model(Settings(model=ModelSettings(path=str(tmp_path))))
    assert found.state == "failed"


def test_the_state_directory(tmp_path: Path) -> None:
    def state(path: Path, max_bytes: int = 2**20) -> Outcome:
        settings = Settings(state=StateSettings(directory=str(path)), outbox=OutboxSettings(max_bytes=max_bytes))
        (found,) = try_state(settings)
        return found

    assert state(tmp_path).state == "ok"
    assert "can be written to" in state(tmp_path).text
    assert f"can be made in {tmp_path}," in state(tmp_path / "a" / "b").text
    assert not list(tmp_path.iterdir())
    assert state(tmp_path, max_bytes=2**40).state == "warning"
    (tmp_path / "file").touch()
    assert state(tmp_path / "file").state == "failed"
    assert state(Path("/proc/self/monitor")).state == "failed"


@pytest.mark.parametrize("kind", [HttpSettings, PageSettings])
def test_the_ports_for_metrics_and_page(kind: type[HttpSettings | PageSettings]) -> None:
    assert not list(try_port("it", kind(port=None)))
    (found,) = try_port("it", kind(port=0))
    assert (found.state, found.subject) == ("ok", "it")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (found,) = try_port("it", kind(port=taken.getsockname()[1]))
        assert (found.state, "in use" in found.text) == ("warning", True)
        # Unless it is known whose it is.
        (found,) = try_port("it", kind(port=taken.getsockname()[1]), running=True)
        assert (found.state, "the monitor that runs" in found.text) == ("ok", True)
    (found,) = try_port("it", kind(port=free_port()), running=True)
    assert (found.state, "nobody listens" in found.text) == ("warning", True)
    assert not list(try_port("it", kind(port=0), running=True))
    # 192.0.2.0/24 is nobody's (RFC 5737).
    (found,) = try_port("it", kind(listen="192.0.2.1", port=0))
    assert found.state == "failed"


@pytest.mark.parametrize(
    ("discipline", "state", "text"),
    [
        (None, "warning", "does not say"),
        (Discipline(False, 0, 0, 0), "warning", "nothing keeps it on time"),
        (Discipline(True, -2 * NS_PER_SECOND, 0, 0), "warning", "still -2.000 s off"),
        (Discipline(True, 1000, 1000, NS_PER_SECOND // 100), "ok", "at most 0.010 s off"),
    ],
)
def test_the_clock(discipline: Discipline | None, state: str, text: str) -> None:
    (found,) = try_clock(FixedClock(T0, discipline=discipline))
    assert found.state == state
    assert text in found.text


def test_durations_for_people() -> None:
    assert [duration(s) for s in (0.0, 3.21, 59.0, 119.0, 120.0, 3600.0, 7200.0, 86400.0, 2e6)] == [
        "0.0 s",
        "3.2 s",
        "59 s",
        "119 s",
        "2 min",
        "60 min",
        "2 h",
        "24 h",
        "23 d",
    ]


# -- --connect: SeedLink -----------------------------------------------------------------------------------------------


def playing(*, versions: tuple[int, ...] = (3, 4), access: Access | None = None) -> PlaybackServer:
    """XX.A with three components and XX.B with one, of a minute; XX.B ends 10 minutes earlier."""
    samples = np.arange(6000, dtype=np.int32)
    segments = [Segment(ChannelId("XX", "A", "00", f"HH{code}"), T0, 100.0, samples) for code in "ZNE"]
    segments.append(Segment(ChannelId("XX", "B", "", "EHZ"), T0 - 600 * NS_PER_SECOND, 100.0, samples))
    segments.append(Segment(ChannelId("XX", "C", "", "LCQ"), T0, 100.0, samples))
    settings = PlaybackSettings(preload_s=float("inf"), versions=versions, access=access or Access())
    return PlaybackServer.play(segments, settings=settings)


def seedlink(
    *stations: str, now_s: float = 65.0, server: PlaybackServer | None = None, **settings: object
) -> list[Outcome]:
    async def ask() -> list[Outcome]:
        async with server or playing() as running:
            chosen = msgspec.convert(
                {"host": "127.0.0.1", "port": running.port, "stations": list(stations), "name": "s", **settings},
                SeedLinkSettings,
            )
            return await try_seedlink(chosen, now_ns=T0 + round(now_s * NS_PER_SECOND))

    return asyncio.run(ask())


@pytest.mark.parametrize("version", [3, 4])
def test_a_server_that_has_what_is_wanted(version: int) -> None:
    hello, found = seedlink("XX.A", server=playing(versions=(version,)))
    assert (hello.state, found.state) == ("ok", "ok")
    assert hello.text.endswith(f", monitor serve, version {version}")
    assert found.subject == "seedlink s"
    assert found.text == "XX.A: 3 channels (00.HHE, 00.HHN, 00.HHZ), last data 5.0 s old"


@pytest.mark.parametrize(
    ("pattern", "now_s", "state", "text"),
    [
        ("XX.A.00.HHZ", 65, "ok", "XX.A.00.HHZ: 1 channel (00.HHZ), last data 5.0 s old"),
        ("XX.?", 65, "warning", "XX.?: 4 channels of 2 stations, last data 5.0 s old; of 1 channel up to 10 min"),
        ("XX.B", 65, "warning", "XX.B: 1 channel (EHZ), last data 10 min old"),
        ("XX.A", -60, "warning", "last data 2 min ahead of this computer's clock"),
        ("XX.AA", 65, "failed", "has no XX.AA; it has XX.A"),
        ("YY.NONE", 65, "failed", "has no YY.NONE; it has XX.A, XX.B, XX.C"),
        ("XX.C", 65, "failed", "has XX.C, but no channel for XX.C; it has LCQ"),
        ("XX.A.00.BH?", 65, "failed", "has XX.A, but no channel for XX.A.00.BH?; it has HHE, HHN, HHZ"),
    ],
)
def test_what_a_server_has(pattern: str, now_s: float, state: str, text: str) -> None:
    hello, found = seedlink(pattern, now_s=now_s)
    assert hello.state == "ok"
    assert found.state == state
    assert text in found.text


@pytest.mark.parametrize(("password", "state"), [(SECRET, "ok"), (f"wrong {SECRET}"[:5], "failed")])
def test_logins_are_tried(tmp_path: Path, password: str, state: str) -> None:
    (tmp_path / "pw").write_text(password)
    found = seedlink(
        "XX.A",
        server=playing(access=Access(users=(("u", SECRET),))),
        user="u",
        password_file=str(tmp_path / "pw"),
    )
    assert found[0].state == state
    assert not any(SECRET in outcome.text for outcome in found)
    assert ("login accepted" in found[0].text) == (state == "ok")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (found,) = asyncio.run(try_seedlink(SeedLinkSettings(host="127.0.0.1", port=port, stations=["XX.A"]), now_ns=T0))
    assert (found.state, found.subject) == ("failed", f"seedlink 127.0.0.1:{port}")
    assert "refused" in found.text


# -- --connect: MQTT ---------------------------------------------------------------------------------------------------


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("version", ["auto", "3.1.1", "5"])
def test_a_broker_that_answers(tmp_path: Path, version: str) -> None:
    with Mosquitto(tmp_path) as broker:
        port = broker.port
        settings = msgspec.convert(
            {"host": "127.0.0.1", "port": port, "client_id": "me", "version": version}, MqttSettings
        )
        (found,) = asyncio.run(try_mqtt(settings))
    used = "5" if version == "auto" else version
    assert found == Outcome("ok", f"mqtt 127.0.0.1:{port}", f"connected as me-check with MQTT {used}")


@pytest.mark.needs("mosquitto", "mosquitto_passwd")
@pytest.mark.parametrize(("password", "state"), [(SECRET, "ok"), ("wrong", "failed")])
def test_a_broker_that_wants_a_login(tmp_path: Path, password: str, state: str) -> None:
    program = find_program("mosquitto_passwd")
    assert program is not None
    subprocess.run([program, "-b", "-c", tmp_path / "users", "u", SECRET], check=True, capture_output=True)
    (tmp_path / "pw").write_text(password)
    login = f"allow_anonymous false\npassword_file {tmp_path / 'users'}\n"
    with Mosquitto(tmp_path, settings=login) as broker:
        settings = MqttSettings(host="127.0.0.1", port=broker.port, user="u", password_file=str(tmp_path / "pw"))
        (found,) = asyncio.run(try_mqtt(settings))
    assert found.state == state
    assert ("login as u accepted" if state == "ok" else "auth") in found.text
    assert SECRET not in found.text


def test_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (found,) = asyncio.run(try_mqtt(MqttSettings(host="127.0.0.1", port=port)))
    assert (found.state, "refused" in found.text) == ("failed", True)


# -- --connect: all of it ----------------------------------------------------------------------------------------------


def test_everything_is_tried_in_the_order_of_the_settings(tmp_path: Path) -> None:
    told: list[Outcome] = []

    async def ask() -> None:
        async with playing() as first, playing() as second:
            servers = [
                SeedLinkSettings(host="127.0.0.1", port=server.port, stations=["XX.A"], name=name)
                for name, server in (("one", first), ("two", second))
            ]
            settings = Settings(
                seedlink=servers,
                http=HttpSettings(port=0),
                page=PageSettings(port=0),
                state=StateSettings(directory=str(tmp_path)),
            )
            await try_everything(settings, tell=told.append, clock=FixedClock(T0 + 65 * NS_PER_SECOND))

    asyncio.run(ask())
    subjects = [outcome.subject for outcome in told]
    assert subjects == ["model", "state", "http", "page", "clock", *["seedlink one"] * 2, *["seedlink two"] * 2]


def test_the_exit_code_says_whether_everything_answered(tmp_path: Path) -> None:
    shutil.copy(default_model_path(), tmp_path / "model.tflite")
    text = '[model]\npath = "model.tflite"\n[http]\nport = 0\n[page]\nport = 0\n[state]\ndirectory = "."\n'
    file = tmp_path / "monitor.toml"
    file.write_text(text)
    code, output = run(file, "--connect")
    assert code == 0
    assert "ok       state: " in output
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file.write_text(text + f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n')
    code, output = run(file, "--connect")
    assert code == 1
    assert f"failed   mqtt 127.0.0.1:{port}: refused" in output
