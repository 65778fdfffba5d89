"""Whom a client of TLS trusts: the same with every Python."""

import ssl
import subprocess
from pathlib import Path

import pytest

from monitor.tls import client_context
from tests.programs import find_program

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority as people make it, without a key usage, and a certificate for localhost."""
    folder = tmp_path_factory.mktemp("certificates")
    program = find_program("openssl")
    assert program is not None
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    authority = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=home"]
    server = ["-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=localhost", "-addext"]
    server += ["subjectAltName=DNS:localhost", "-CA", "ca.crt", "-CAkey", "ca.key"]
    for more in ([*key, *authority], [*key, *server]):
        subprocess.run([program, "req", "-x509", *more], cwd=folder, check=True, capture_output=True)
    return folder


def shake_hands(client: ssl.SSLContext, folder: Path, *, name: str) -> None:
    """Connect a client to a server, both in memory."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(here, there, server_hostname=name), server.wrap_bio(there, here, server_side=True)]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass


@pytest.fixture
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts begin as Python 3.13 makes them."""
    make = ssl.create_default_context

    def strict(*, cafile: str | None = None) -> ssl.SSLContext:
        context = make(cafile=cafile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


@pytest.mark.usefixtures("_strict")
def test_an_authority_without_a_key_usage_is_trusted(certificates: Path) -> None:
    ca = str(certificates / "ca.crt")
    shake_hands(client_context(ca), certificates, name="localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="key usage"):
        shake_hands(ssl.create_default_context(cafile=ca), certificates, name="localhost")


def test_another_name_and_another_authority_are_not(certificates: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client_context(str(certificates / "ca.crt")), certificates, name="example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake_hands(client_context(None), certificates, name="localhost")
