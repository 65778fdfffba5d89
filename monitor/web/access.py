"""Who may see the page: everybody, who knows the password, or whom a reverse proxy has let in."""

import base64
import binascii
import hmac
from http import HTTPStatus
from ipaddress import ip_address, ip_network

from monitor.http_messages import Request, Response, plain
from monitor.secrets import Secret, read_secret
from monitor.settings import PageSettings

_THIS_COMPUTER = ("127.0.0.1", "::1")


class Access:
    """Judges requests.

    Args:
        settings: Of the page.

    Raises:
        SecretError: The password cannot be read.
    """

    def __init__(self, settings: PageSettings) -> None:
        self._user = settings.user
        self._password = Secret("") if settings.password_file is None else read_secret(settings.password_file)
        self._header = None if settings.user_header is None else settings.user_header.lower()
        proxies = _THIS_COMPUTER if settings.trusted_proxies is None else settings.trusted_proxies
        self._proxies = [ip_network(proxy) for proxy in proxies]

    @property
    def is_open(self) -> bool:
        """Is everybody let in who reaches the port?"""
        return self._user is None and self._header is None

    def refusal(self, request: Request) -> Response | None:
        """What to answer to who may not; None where they may."""
        if self.is_open or self._is_vouched_for(request) or self._knows_the_password(request):
            return None
        if self._user is None:
            return plain(HTTPStatus.FORBIDDEN, "log in at the reverse proxy")
        answer = plain(HTTPStatus.UNAUTHORIZED, "user name and password, please")
        challenge = {"WWW-Authenticate": 'Basic realm="seismic monitor", charset="UTF-8"'}
        return Response(answer.status, answer.content_type, answer.body, challenge)

    def _is_vouched_for(self, request: Request) -> bool:
        if self._header is None or not request.headers.get(self._header):
            return False
        try:
            peer = ip_address(request.peer.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in network for network in self._proxies)

    def _knows_the_password(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if self._user is None or scheme.lower() != "basic":
            return False
        try:
            text = base64.b64decode(given.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        # Both are always compared, in a time that does not tell where they differ.
        return hmac.compare_digest(text, f"{self._user}:{self._password.reveal()}".encode())
