"""The settings file and the environment: all that is wrong is named."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.config import ConfigError, read, read_settings, state_directory
from monitor.detector import DetectorSettings
from monitor.settings import Settings
from monitor.toml_lines import key_lines

SERVER = '[[seedlink]]\nhost = "a"\nstations = ["XX.A"]\n'


def settings_from(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "monitor.toml"
    path.write_text(text, encoding="utf-8")
    return read_settings(path, environment=environment)


def problems_of(tmp_path: Path, text: str, **environment: str) -> list[str]:
    """Each problem, with the file's name without its folder."""
    with pytest.raises(ConfigError) as caught:
        settings_from(tmp_path, text, **environment)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_nothing_set_is_the_defaults(tmp_path: Path) -> None:
    assert read_settings(None, environment={}) == Settings()
    assert settings_from(tmp_path, "") == Settings()
    assert Settings().detector == DetectorSettings()


def test_what_is_set_is_set(tmp_path: Path) -> None:
    found = settings_from(tmp_path, '[detector]\nthreshold = 0.8\nhold_s = 4\n[model]\npath = "other.tflite"\n')
    assert found.detector == DetectorSettings(threshold=0.8, hold_s=4.0)
    assert found.model.path == str(tmp_path / "other.tflite")


# -- paths -------------------------------------------------------------------------------------------------------------


def test_an_absolute_model_stays_where_it_is(tmp_path: Path) -> None:
    assert settings_from(tmp_path, '[model]\npath = "/srv/m.tflite"').model.path == "/srv/m.tflite"
    found = read_settings(None, environment={"MONITOR_MODEL__PATH": "m.tflite"})
    assert found.model.path == "m.tflite"


def test_files_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    found = settings_from(
        tmp_path,
        '[state]\ndirectory = "state"\n[mqtt]\nuser = "u"\npassword_file = "p"\nca_file = "tls/ca.pem"\n'
        'cert_file = "c"\nkey_file = "/etc/k"\n'
        '[[seedlink]]\nhost = "a"\nstations = ["XX.A"]\ntoken_file = "../t"\nca_file = "ca"\n',
    )
    assert found.state.directory == str(tmp_path / "state")
    assert found.mqtt.password_file == str(tmp_path / "p")
    assert found.mqtt.ca_file == str(tmp_path / "tls/ca.pem")
    assert (found.mqtt.cert_file, found.mqtt.key_file) == (str(tmp_path / "c"), "/etc/k")
    assert found.seedlink[0].token_file == str(tmp_path / "../t")
    assert found.seedlink[0].ca_file == str(tmp_path / "ca")
    assert found.mqtt.user == "u"


def test_a_credential_of_systemd_wins_over_a_file_of_its_name(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("secret", "state"):
        (credentials / name).write_text("x")
        (tmp_path / name).write_text("x")
    text = '[state]\ndirectory = "state"\n[mqtt]\nuser = "u"\npassword_file = "{}"\n'
    for file, expected in (
        ("secret", credentials / "secret"),
        ("other", tmp_path / "other"),
        ("./secret", tmp_path / "secret"),
        (str(tmp_path / "secret"), tmp_path / "secret"),
    ):
        found = settings_from(tmp_path, text.format(file), CREDENTIALS_DIRECTORY=str(credentials))
        assert found.mqtt.password_file == str(expected)
        assert found.state.directory == str(tmp_path / "state")
    assert settings_from(tmp_path, text.format("secret")).mqtt.password_file == str(tmp_path / "secret")


def test_where_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory(Settings(), environment={}) == tmp_path / ".local/state/monitor"
    assert state_directory(Settings(), environment={"STATE_DIRECTORY": "/var/lib/m:/var/lib/n"}) == Path("/var/lib/m")
    found = settings_from(tmp_path, '[state]\ndirectory = "s"')
    assert state_directory(found, environment={"STATE_DIRECTORY": "/var/lib/m"}) == tmp_path / "s"


# -- what is wrong in a file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[detector]\nthresold = 0.8", "2: [detector] thresold: unknown key; did you mean threshold?"),
        ("[detector]\nzzz = 1", "2: [detector] zzz: unknown key; accepted: threshold, false_alarms_per_day, "),
        ("[detectr]\nthreshold = 0.8", "1: detectr: unknown key; did you mean detector?"),
        ("qqq = 1", "1: qqq: unknown key; accepted: model, detector, seedlink, "),
        ("[model]\nhost = 1", "2: [model] host: unknown key; it belongs to [[seedlink]] or [mqtt]"),
        ('[mqtt]\npassword = "hunter2"', "2: [mqtt] password: unknown key; did you mean password_file?"),
        ("[detector]\nthreshold = 2.0", "2: [detector] threshold is 2.0; accepted: a number, 1e-06 to 0.999999"),
        ("[detector]\nthreshold = nan", "2: [detector] threshold is nan; accepted: a number, "),
        ("detector.hold_s = -1", "1: [detector] hold_s is -1; accepted: a number, 0.2 to 120"),
        ('detector = {threshold = "high"}', "1: [detector] threshold is 'high'; accepted: a number, "),
        ("[detector]\nthreshold = true", "2: [detector] threshold is True; accepted: a number, "),
        ("[model]\npath = 5", "2: [model] path is 5; accepted: text"),
        ('[model]\npath = "a\\u0000b"', "2: [model] path is 'a\\x00b'; accepted: text"),
        ("detector = 5", "1: detector is 5; accepted: a table"),
        ("[[detector]]", "1: detector is a list of tables; accepted: a table"),
        ("[seedlink]", "1: seedlink is one table; accepted: [[seedlink]], with two brackets"),
        ("seedlink = 5", "1: seedlink is 5; accepted: a list of tables"),
        ('[log]\nlevel = "INFO"', '2: [log] level is \'INFO\'; accepted: "debug", "info", "warning" or "error"'),
        ('[http]\nport = "any"', "2: [http] port is 'any'; accepted: a whole number, 0 to 65535, or \"none\""),
        ('[mqtt]\nhost = "none"\nport = "none"', "3: [mqtt] port is 'none'; accepted: a whole number, 1 to 65535"),
        ('[[seedlink]]\nhost = "a"', "1: [[seedlink]] 1 stations is not set; accepted: a list of texts"),
        (SERVER + "port = 0", "4: [[seedlink]] 1 port is 0; accepted: a whole number, 1 to 65535"),
        (SERVER + 'user = "u"', "4: [[seedlink]] 1 user is set but password_file is not; accepted: both or neither"),
        (SERVER + SERVER, "1: two seedlink servers are called 'a:18000'; accepted: each with a name of its own"),
        ("[detector\n", " not TOML: "),
        ("[detector]\nhold_s = 1\nhold_s = 2\n", " not TOML: "),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = problems_of(tmp_path, text)
    assert found.startswith(f"monitor.toml:{expected}")
    assert "hunter2" not in found
    assert "$" not in found


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
[mqtt]
host = "a b"
port = "x"
root = "#"
pasword_file = "p"

[detector]
hold_s = 0
threshold = 0.5
false_alarms_per_day = 1

[[seedlink]]
stations = []

[[seedlink]]
host = "b"
stations = ["XX.B", 5]
user = 5
password_file = "p"
"""
    assert [line.partition(";")[0] for line in problems_of(tmp_path, text, MONITOR_LOG__LEVEL="loud")] == [
        "monitor.toml:2: [mqtt] host is 'a b'",
        "monitor.toml:3: [mqtt] port is 'x'",
        "monitor.toml:4: [mqtt] root is '#'",
        "monitor.toml:5: [mqtt] pasword_file: unknown key",
        "monitor.toml:8: [detector] hold_s is 0",
        "monitor.toml:9: [detector] threshold and false_alarms_per_day are both set",
        "monitor.toml:12: [[seedlink]] 1 host is not set",
        "monitor.toml:13: [[seedlink]] 1 stations is empty",
        "monitor.toml:17: [[seedlink]] 2 stations is ['XX.B', 5]",
        # Not that user is missing beside password_file: it is there, if wrong.
        "monitor.toml:18: [[seedlink]] 2 user is 5",
        "MONITOR_LOG__LEVEL: [log] level is 'loud'",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(ConfigError, match=reason) as caught:
            read_settings(path, environment={})
        assert str(path) in str(caught.value)
        assert caught.value.__cause__ is not None
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[detector]\n# \xff\n")
    with pytest.raises(ConfigError, match=r"binary\.toml: not UTF-8 text: .* at byte 13"):
        read_settings(binary, environment={})


def test_what_is_long_is_cut_short(tmp_path: Path) -> None:
    (found,) = problems_of(tmp_path, f"[log]\nlevel = {'x' * 5000!r}")
    assert len(found) < 250


def test_no_listener(tmp_path: Path) -> None:
    assert settings_from(tmp_path, '[http]\nport = "none"').http.port is None
    assert settings_from(tmp_path, "[http]\nport = 80", MONITOR_HTTP__PORT="none").http.port is None
    assert settings_from(tmp_path, '[mqtt]\nhost = "none"').mqtt.host == "none"


# -- the environment ---------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    found = settings_from(
        tmp_path,
        "[detector]\nthreshold = 0.8\nhold_s = 4.0",
        MONITOR_DETECTOR__THRESHOLD="0.7",
        MONITOR_MODEL__PATH="m.tflite",
        MONITOR_LOG_LEVEL="debug",
        OTHER_DETECTOR__HOLD_S="9",
    )
    assert found.detector == DetectorSettings(threshold=0.7, hold_s=4.0)
    assert found.model.path == str(tmp_path / "m.tflite")


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITOR_DETECTOR__CONFIRM_S", "0.6")
    assert read_settings(None).detector.confirm_s == 0.6
    assert read_settings(None, environment={}).detector.confirm_s == DetectorSettings().confirm_s


def test_elements_of_lists_are_set_by_their_index(tmp_path: Path) -> None:
    found = settings_from(
        tmp_path,
        SERVER,
        MONITOR_SEEDLINK__0__HOST="c",
        MONITOR_SEEDLINK__0__STATIONS__1="XX.B",
        MONITOR_SEEDLINK__1__HOST="d",
        MONITOR_SEEDLINK__1__STATIONS='["XX.C", "XX.D"]',
        **{f"MONITOR_SEEDLINK__{n}__HOST": f"h{n}" for n in range(2, 12)},
        **{f"MONITOR_SEEDLINK__{n}__STATIONS__0": f"XX.H{n}" for n in range(2, 12)},
    )
    assert [server.host for server in found.seedlink] == ["c", "d", *(f"h{n}" for n in range(2, 12))]
    assert found.seedlink[0].stations == ["XX.A", "XX.B"]
    assert found.seedlink[1].stations == ["XX.C", "XX.D"]
    assert found.seedlink[11].stations == ["XX.H11"]


@pytest.mark.parametrize(
    ("name", "text", "key", "expected"),
    [
        ("MONITOR_MQTT__CLIENT_ID", "5", "client_id", "5"),
        ("MONITOR_MQTT__CLIENT_ID", "true", "client_id", "true"),
        ("MONITOR_MQTT__CLIENT_ID", "2024-01-01", "client_id", "2024-01-01"),
        ("MONITOR_MQTT__CLIENT_ID", '"5"', "client_id", "5"),
        ("MONITOR_MQTT__CLIENT_ID", "a = 5", "client_id", "a = 5"),
        ("MONITOR_MQTT__VERSION", "5", "version", "5"),
        ("MONITOR_MQTT__TLS", "true", "tls", True),
        ("MONITOR_MQTT__PORT", "1884", "port", 1884),
        ("MONITOR_MQTT__BACKOFF_S", "2", "backoff_s", 2.0),
    ],
)
def test_the_type_of_a_key_says_how_a_variable_is_read(name: str, text: str, key: str, expected: object) -> None:
    assert getattr(read_settings(None, environment={name: text}).mqtt, key) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MONITOR_DETECTOR__THRESHOLD", "3", "[detector] threshold is '3'; accepted: a number, "),
        ("MONITOR_DETECTOR__THRESHOLD", "high", "[detector] threshold is 'high'; accepted: a number, "),
        ("MONITOR_DETECTOR__THRESHOLD", "", "[detector] threshold is ''; accepted: a number, "),
        ("MONITOR_DETECTOR__TRESHOLD", "0.5", "[detector] treshold: unknown key; did you mean threshold?"),
        ("MONITOR_DETECTR__THRESHOLD", "0.5", "detectr: unknown key; did you mean detector?"),
        ("MONITOR_MQTT__PASSWORD", "hunter2", "[mqtt] password: unknown key; did you mean password_file?"),
        ("MONITOR_SEEDLINK__1__HOST", "a", "[seedlink] has 0 elements; accepted: 0 to 0"),
        ("MONITOR_SEEDLINK__HOST", "a", "seedlink is one table; accepted: [[seedlink]], with two brackets"),
        ("MONITOR_SEEDLINK__0__HOST", "a", "[[seedlink]] 1 stations is not set; accepted: a list of texts"),
        ("MONITOR_DETECTOR__THRESHOLD__0", "1", "[detector] threshold is ['1']; accepted: a number, "),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(name: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(None, environment={name: value})
    assert str(caught.value).startswith(f"{name}: {expected}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("detector = 5", "MONITOR_DETECTOR__THRESHOLD", "[detector] is 5; accepted: a table"),
        ("[seedlink]", "MONITOR_SEEDLINK__0__HOST", "[seedlink] is a table; accepted: a list"),
        (SERVER, "MONITOR_SEEDLINK__HOST", "[seedlink] is a list of tables; accepted: a table"),
        (SERVER, "MONITOR_SEEDLINK__2__HOST", "[seedlink] has 1 elements; accepted: 0 to 1"),
    ],
)
def test_a_variable_that_does_not_fit_into_the_file(tmp_path: Path, text: str, name: str, expected: str) -> None:
    assert f"{name}: {expected}" in problems_of(tmp_path, text, **{name: "0.5"})


def test_where_settings_come_from(tmp_path: Path) -> None:
    path = tmp_path / "monitor.toml"
    path.write_text(SERVER + "[mqtt]\nport = 5\n")
    found = read(path, environment={"MONITOR_MQTT__HOST": "b", "MONITOR_LOG__LEVEL": "debug"})
    assert found.where("seedlink", 0, "host") == f"{path}:2"
    assert found.where("seedlink", 0, "name") == f"{path}:1"
    assert found.where("mqtt", "host") == "MONITOR_MQTT__HOST"
    assert found.where("mqtt", "root") == f"{path}:4"
    assert found.where("http", "port") == str(path)


# -- lines -------------------------------------------------------------------------------------------------------------

TRICKY = '''\
# c = 1
title = "a = [ # \\" "  # [x]
empty = ""
[model]
path = """
[nope]
x = 1 \\""" still
"""  # end
[detector] # hi [
"threshold" = 0.5
a.b."c d" = 3
list = [
  1, # ]
  "]", \'[\', # =
  {x = "}"},
]

[[seedlink]]
host = \'\'\'h
= # [\'\'\'
stations = ["a",
 "b"]
[seedlink.sub]
k = 1
[[ seedlink ]]
host = 'i'
inline = {a = 1, b = [2]}
 [ "odd name".x ]
 y=1'''


def test_lines_of_keys() -> None:
    tomllib.loads(TRICKY)
    lines = TRICKY.splitlines()
    found = key_lines(TRICKY)
    expected: dict[tuple[str | int, ...], str] = {
        ("title",): "title",
        ("empty",): "empty",
        ("model",): "[model]",
        ("model", "path"): "path",
        ("detector",): "[detector]",
        ("detector", "threshold"): '"threshold"',
        ("detector", "a"): "a.b",
        ("detector", "a", "b"): "a.b",
        ("detector", "a", "b", "c d"): "a.b",
        ("detector", "list"): "list",
        ("seedlink",): "[[seedlink]]",
        ("seedlink", 0): "[[seedlink]]",
        ("seedlink", 0, "host"): "host = '''",
        ("seedlink", 0, "stations"): "stations",
        ("seedlink", 0, "sub"): "[seedlink.sub]",
        ("seedlink", 0, "sub", "k"): "k",
        ("seedlink", 1): "[[ seedlink ]]",
        ("seedlink", 1, "host"): "host = 'i'",
        ("seedlink", 1, "inline"): "inline",
        ("odd name",): ' [ "odd',
        ("odd name", "x"): ' [ "odd',
        ("odd name", "x", "y"): " y",
    }
    assert found.keys() == expected.keys()
    for key, start in expected.items():
        assert lines[found[key] - 1].startswith(start), key


def keys_of(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    if not isinstance(value, dict):
        return {path}
    return {path}.union(*(keys_of(item, (*path, name)) for name, item in value.items()))


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.dictionaries(
            st.text(max_size=5),
            st.text(max_size=8)
            | st.lists(st.text(max_size=5), max_size=3)
            | st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=4,
    )
)
def test_every_key_of_any_file_has_a_line(table: dict[str, dict[str, Any]]) -> None:
    def toml(value: Any) -> str:
        # JSON leaves DEL as it is, TOML does not.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")

    lines = []
    for name, section in table.items():
        lines.append(f"[{toml(name)}] # [x")
        for key, value in section.items():
            lines += [f"{toml(key)} = {toml(float(value) if isinstance(value, float) else value)} # = '"]
    text = "\n".join(lines)
    assert tomllib.loads(text) == table
    found = key_lines(text)
    assert set(found) | {()} == keys_of(table)
    assert sorted(found.values()) == list(range(1, len(lines) + 1))
