"""HTTP/1.1 (RFC 9112) as pure functions of bytes: a request's head in, a response's head out."""

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class BadRequestError(Exception):
    """The client's fault.

    Attributes:
        status: What to answer.
    """

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for.

    Attributes:
        method: `GET`, `HEAD` or another.
        path: Decoded, begins with `/`, without `.` and `..` elements.
        query: After the question mark, as it was sent.
        headers: Names in lower case; repeated ones joined with a comma.
        peer: Address of who connected; empty where it is not known.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What a client gets.

    Attributes:
        status: HTTP status code.
        content_type: Media type of the body.
        body: All of it, or pieces as they come: such a response ends when the generator does or the client goes.
        headers: Further ones, such as `Cache-Control`.
    """

    status: int = 200
    content_type: str = TEXT
    body: bytes | AsyncGenerator[bytes, None] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def parse_head(head: bytes) -> Request:
    """Parse request line and header fields (RFC 9112).

    Args:
        head: Up to and with the empty line.

    Raises:
        BadRequestError: It is no request, one for another protocol, or one with a body.
    """
    lines = head.decode("latin-1").split("\r\n")
    found = _REQUEST_LINE.fullmatch(lines[0])
    if found is None:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "not an HTTP request")
    method, target, major, minor = found.groups()
    if major != "1":
        raise BadRequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "accepted: HTTP/1.1 and HTTP/1.0")
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "a header field is malformed")
        key = name.lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    if minor != "0" and "host" not in headers:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "the Host header is missing")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "a request with a body; accepted: none")
    path, query = _split_target(target)
    return Request(method, path, query, headers)


def _split_target(target: str) -> tuple[str, str]:
    """Path, decoded, and query; the absolute form that proxies use is accepted too."""
    if target.lower().startswith(("http://", "https://")):
        target = "/" + target.split("//", 1)[1].partition("/")[2]
    raw_path, _, query = target.partition("#")[0].partition("?")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "the path is not UTF-8") from error
    if not path.startswith("/") or _CONTROL.search(path) or {".", ".."} & set(path.split("/")) or "\\" in path:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "accepted paths begin with / and have no dot elements")
    return path, query


def response_head(response: Response) -> bytes:
    """Encode status line and header fields, with the empty line."""
    status = HTTPStatus(response.status)
    fields = {
        "Content-Type": response.content_type,
        "Connection": "close",
        "X-Content-Type-Options": "nosniff",
        **response.headers,
    }
    # A 304 would have to tell the length of what it does not send (RFC 9110, section 8.6).
    if isinstance(response.body, bytes) and status is not HTTPStatus.NOT_MODIFIED:
        fields["Content-Length"] = str(len(response.body))
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def plain(status: HTTPStatus, text: str) -> Response:
    """Answer with one line of text."""
    return Response(status.value, TEXT, f"{text}\n".encode())
