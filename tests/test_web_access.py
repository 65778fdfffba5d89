"""Who may see the page, and which settings of it are refused."""

import base64
from pathlib import Path
from typing import Any

import pytest

from monitor.http_messages import Request
from monitor.secrets import SecretError
from monitor.section import SettingsError
from monitor.settings import PageSettings
from monitor.web.access import Access


def basic(text: str, scheme: str = "Basic") -> dict[str, str]:
    return {"authorization": f"{scheme} {base64.b64encode(text.encode()).decode()}"}


@pytest.fixture
def password(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text("pässword: with colon\n")
    return str(path)


def status(access: Access, headers: dict[str, str] | None = None, peer: str = "192.0.2.7") -> int:
    refusal = access.refusal(Request("GET", "/", "", headers or {}, peer))
    return 200 if refusal is None else refusal.status


def test_without_a_login_everybody_is_let_in() -> None:
    access = Access(PageSettings())
    assert access.is_open
    assert status(access) == 200


def test_a_login_is_asked_for(password: str) -> None:
    access = Access(PageSettings(user="station", password_file=password))
    assert not access.is_open
    assert status(access, basic("station:pässword: with colon")) == 200
    assert status(access, basic("station:pässword: with colon", "bAsIc")) == 200
    refusal = access.refusal(Request("GET", "/"))
    assert refusal is not None
    assert refusal.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("station:wrong"),
        basic("station:"),
        basic("other:pässword: with colon"),
        basic("station"),
        basic(""),
        basic("station:pässword: with colon", "Bearer"),
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic " + "A" * 5},
        {"authorization": "Basic é"},
        {"remote-user": "anna"},
    ],
)
def test_who_does_not_know_it_is_refused(password: str, headers: dict[str, str]) -> None:
    assert status(Access(PageSettings(user="station", password_file=password)), headers) == 401


@pytest.mark.parametrize(
    ("peer", "proxies", "expected"),
    [
        ("127.0.0.1", None, 200),
        ("::1", None, 200),
        ("::ffff:127.0.0.1", None, 200),
        ("192.0.2.7", None, 403),
        ("192.0.2.7", ["192.0.2.0/24"], 200),
        ("127.0.0.1", ["192.0.2.0/24"], 403),
        ("fe80::1%eth0", ["fe80::/10"], 200),
        ("", None, 403),
        ("not an address", None, 403),
    ],
)
def test_a_proxy_is_believed_by_its_address(peer: str, proxies: list[str] | None, expected: int) -> None:
    access = Access(PageSettings(user_header="Remote-User", trusted_proxies=proxies))
    assert status(access, {"remote-user": "anna"}, peer) == expected
    assert status(access, {"remote-user": ""}, peer) == 403
    assert status(access, {}, peer) == 403


def test_either_way_will_do(password: str) -> None:
    access = Access(PageSettings(user="station", password_file=password, user_header="Remote-User"))
    assert status(access, {"remote-user": "anna"}, "127.0.0.1") == 200
    assert status(access, basic("station:pässword: with colon")) == 200
    assert status(access, {"remote-user": "anna"}) == 401


def test_a_password_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="absent"):
        Access(PageSettings(user="station", password_file=str(tmp_path / "absent")))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listen": "localhost:8080"}, "listen is 'localhost:8080'"),
        ({"listen": ""}, "listen is ''"),
        ({"port": 65536}, "port is 65536"),
        ({"user": "station"}, "user is set but password_file is not"),
        ({"password_file": "p"}, "password_file is set but user is not"),
        ({"user": "a:b", "password_file": "p"}, "user is 'a:b'"),
        ({"user": "", "password_file": "p"}, "user is ''"),
        ({"user_header": "Remote User"}, "user_header is 'Remote User'"),
        ({"user_header": ""}, "user_header is ''"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "trusted_proxies holds '10.0.0.1/8'"),
        ({"trusted_proxies": ["proxy.example.org"]}, "trusted_proxies holds 'proxy.example.org'"),
        ({"max_viewers": 0}, "max_viewers is 0"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        PageSettings(**settings)
    assert said in str(refused.value)


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::", "::1", "localhost", "station.local"])
def test_addresses_to_listen_on(listen: str) -> None:
    assert PageSettings(listen=listen, port=None).listen == listen
