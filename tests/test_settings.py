"""What settings accept, and how they explain themselves."""

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from monitor.attributes import attribute_texts, attributes, summary
from monitor.detector import DetectorSettings
from monitor.reference import reference, settings_schema
from monitor.section import Section, SettingsError, accepted, accepts_none, example_of
from monitor.settings import HttpSettings, MqttSettings, SeedLinkSettings, Settings
from monitor.validation import section_of

SHIPPED = Path(__file__).parents[1] / "deploy" / "monitor.toml"
SECTIONS: dict[str, type[Section]] = {
    field.name: kind for field in msgspec.structs.fields(Settings) if (kind := section_of(field.type)) is not None
}
NEEDED: dict[type[Section], dict[str, Any]] = {SeedLinkSettings: {"host": "h", "stations": ["XX.A"]}}
KEYS = [
    pytest.param(kind, field, id=f"{name}.{field.name}")
    for name, kind in SECTIONS.items()
    for field in msgspec.structs.fields(kind)
]
NUMBERS = [key for key in KEYS if "number" in accepted(key.values[1])]


def build(kind: type[Section], **values: Any) -> Section:
    return kind(**{**NEEDED.get(kind, {}), **values})


@pytest.mark.parametrize(("kind", "field"), NUMBERS)
def test_every_number_has_its_range(kind: type[Section], field: Any) -> None:
    """A new setting cannot be forgotten: each one refuses what is no number and what is absurd, by its name."""
    for value in (float("nan"), float("inf"), -1e30, 1e30):
        with pytest.raises(SettingsError, match=rf"{field.name} is .*; accepted: a (whole )?number, \S+ to "):
            build(kind, **{field.name: value})


@pytest.mark.parametrize(("kind", "field"), KEYS)
def test_every_key_is_explained_and_can_be_shown(kind: type[Section], field: Any) -> None:
    assert len(attribute_texts(kind)[field.name]) > 5
    assert accepted(field)
    if field.required or field.default is None:
        shown = example_of(field.type)
        assert shown is not None
        assert msgspec.convert(shown, field.type, strict=True) == shown
    else:
        assert example_of(field.type) is None, "an example beside a default would never be seen"


def test_nothing_is_explained_that_does_not_exist() -> None:
    kinds: list[type[Section]] = [Settings, *SECTIONS.values()]
    for kind in kinds:
        names = [name for attribute in attributes(kind) for name in attribute.names]
        assert sorted(names) == sorted(field.name for field in msgspec.structs.fields(kind))


@pytest.mark.parametrize(
    ("kind", "values", "parts"),
    [
        (SeedLinkSettings, {"host": "a b"}, ["host is 'a b'; accepted: a host name"]),
        (
            SeedLinkSettings,
            {"host": "a:18000"},
            ["host is 'a:18000'; accepted: a host name or an address, without a port"],
        ),
        (SeedLinkSettings, {"host": ""}, ["host is ''"]),
        (SeedLinkSettings, {"name": " "}, ["name is ' '"]),
        (SeedLinkSettings, {"stations": []}, ["stations is empty; accepted: at least one"]),
        (SeedLinkSettings, {"stations": ["A", "XX.A", ".B"]}, ["stations holds 'A'", "stations holds '.B'"]),
        (SeedLinkSettings, {"user": "u"}, ["user is set but password_file is not"]),
        (SeedLinkSettings, {"password_file": "p"}, ["password_file is set but user is not"]),
        (SeedLinkSettings, {"user": "u", "password_file": "p", "token_file": "t"}, ["accepted: one way to log in"]),
        (MqttSettings, {"host": "a:1883"}, ["host is 'a:1883'"]),
        (MqttSettings, {"root": "a/#"}, ["root is 'a/#'; accepted: topic levels"]),
        (MqttSettings, {"home_assistant_prefix": "/a"}, ["home_assistant_prefix is '/a'"]),
        (MqttSettings, {"client_id": "a/b"}, ["client_id is 'a/b'"]),
        (MqttSettings, {"cert_file": "c"}, ["cert_file is set but key_file is not; accepted: both or neither"]),
        (MqttSettings, {"key_file": "c"}, ["key_file is set but cert_file is not"]),
        (MqttSettings, {"password_file": "p"}, ["password_file is set but user is not"]),
        (DetectorSettings, {"threshold": 0.5, "false_alarms_per_day": 1.0}, ["are both set; accepted: one of them"]),
        (MqttSettings, {"port": 0, "keepalive_s": 1}, ["port is 0", "keepalive_s is 1"]),
    ],
)
def test_what_contradicts_itself_is_refused_with_all_its_reasons(
    kind: type[Section], values: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        build(kind, **values)
    for part in parts:
        assert part in str(caught.value)
    assert len(caught.value.refusals) == len(parts)


@pytest.mark.parametrize("host", ["example.org", "192.0.2.1", "::1", "2001:db8::1"])
def test_hosts(host: str) -> None:
    assert SeedLinkSettings(host=host, stations=["XX.A"]).host == host
    assert MqttSettings(host=host).host == host


def test_servers_need_names_of_their_own() -> None:
    servers = [SeedLinkSettings(host="a", stations=["XX.A"]), SeedLinkSettings(host="b", stations=["XX.A"])]
    assert Settings(seedlink=servers).seedlink == servers
    with pytest.raises(SettingsError, match="two seedlink servers are called 'a:18000'"):
        Settings(seedlink=[servers[0], servers[0]])
    again = msgspec.structs.replace(servers[0], name="again")
    assert [server.label for server in Settings(seedlink=[servers[0], again]).seedlink] == ["a:18000", "again"]


def test_ports_follow_encryption() -> None:
    assert SeedLinkSettings(host="a", stations=["XX.A"]).port_used == 18000
    assert SeedLinkSettings(host="a", stations=["XX.A"], tls=True).port_used == 18500
    assert (MqttSettings().port_used, MqttSettings(tls=True).port_used, MqttSettings(port=5).port_used) == (
        1883,
        8883,
        5,
    )


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().detector.threshold = 0.5  # type: ignore[misc]


# -- the reference file ------------------------------------------------------------------------------------------------


def uncommented(text: str) -> dict[str, Any]:
    return tomllib.loads(re.sub(r"^#(\w+ = |\[\[)", r"\1", text, flags=re.MULTILINE))


def test_the_shipped_reference_is_what_the_code_says() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == reference(), "run: monitor check --reference > deploy/monitor.toml"


def test_the_reference_sets_nothing() -> None:
    assert msgspec.convert(tomllib.loads(reference()), Settings) == Settings()


def test_the_reference_has_every_key_with_its_default() -> None:
    table = uncommented(reference())
    assert list(table) == list(SECTIONS)
    for name, kind in SECTIONS.items():
        section = table[name][0] if isinstance(table[name], list) else table[name]
        assert set(section) == {field.name for field in msgspec.structs.fields(kind)}
        for field in msgspec.structs.fields(kind):
            shown = section[field.name]
            if field.required or field.default is None:
                assert shown == example_of(field.type)
            else:
                assert shown == field.default
                assert type(shown) is type(field.default)


@pytest.mark.parametrize(("kind", "field"), KEYS)
def test_what_the_reference_shows_is_accepted(kind: type[Section], field: Any) -> None:
    name = next(name for name in SECTIONS if SECTIONS[name] is kind)
    table = uncommented(reference())[name]
    shown = (table[0] if isinstance(table, list) else table)[field.name]
    needed = {"user": "u", "password_file": "p"} if field.name in {"user", "password_file"} else {}
    needed |= {"cert_file": "c", "key_file": "k"} if field.name in {"cert_file", "key_file"} else {}
    assert getattr(build(kind, **{**needed, field.name: shown}), field.name) == shown


def test_the_reference_fits_a_terminal() -> None:
    assert max(map(len, reference().splitlines())) <= 100


# -- the schema --------------------------------------------------------------------------------------------------------


def test_the_schema_accepts_what_the_settings_accept() -> None:
    schema = settings_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(msgspec.to_builtins(Settings()))
    validator.validate(uncommented(reference()))
    validator.validate({"http": {"port": "none"}})
    for wrong in ({"detector": {"hold_s": -1}}, {"detector": {"x": 1}}, {"seedlink": [{"host": "a"}]}, {"log": 5}):
        assert not validator.is_valid(wrong)


def test_the_schema_explains_every_key() -> None:
    for definition in settings_schema()["$defs"].values():
        for name, entry in definition["properties"].items():
            assert "$ref" in entry or entry["description"], name
        assert "Attributes" not in definition["description"]


# -- how docstrings are read -------------------------------------------------------------------------------------------


def test_attributes_of_a_docstring() -> None:
    class Example:
        """Say what
        it is.

        Attributes:
            one: First: with a colon,
                and a second line: so.
            two, three: Both.

        Returns:
            four: Not one of them.
        """

    assert summary(Example) == "Say what it is."
    assert [tuple(found) for found in attributes(Example)] == [
        (("one",), "First: with a colon, and a second line: so."),
        (("two", "three"), "Both."),
    ]
    assert attribute_texts(int) == {}


def test_what_types_accept_in_words() -> None:
    class Example(Section, frozen=True, kw_only=True):
        flag: bool | None = None
        count: int = 0
        names: list[str] = msgspec.field(default_factory=list)

    found = {field.name: (accepted(field), accepts_none(field.type)) for field in msgspec.structs.fields(Example)}
    assert found == {
        "flag": ("true or false", True),
        "count": ("a whole number", False),
        "names": ("a list of texts", False),
    }
    port = next(field for field in msgspec.structs.fields(HttpSettings) if field.name == "port")
    assert accepted(port) == 'a whole number, 0 to 65535, or "none"'
