"""HTTP/1.1 over asyncio: parse requests, hand them to an application, write its replies.

It knows nothing of Lambda. An application is a function `(request, reply)`; it calls `reply` at once or later, and
the connection stays open meanwhile, so a waiting request costs no task. Invariant: the application gets the requests of
one connection one at a time, and its replies go out in the same order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

import httptools

log = logging.getLogger(__name__)
MAX_BODY_BYTES = 8 * 2**20  # above every payload limit of Lambda, so that Lambda's own errors come first


@dataclass(slots=True)
class Request:
    """One request.

    Attributes:
        method: Method in upper case.
        target: Path as sent, still percent-encoded.
        query_string: Query as sent, without the question mark.
        headers: Values by lower-case name; those of a repeated header are joined by a comma.
        body: Complete body.
    """

    method: str
    target: str
    query_string: str
    headers: dict[str, str]
    body: bytes

    @property
    def segments(self) -> list[str]:
        """The decoded parts of the path, without empty ones."""
        return [unquote(part) for part in self.target.split("/") if part]

    @property
    def query(self) -> dict[str, str]:
        """The decoded query parameters."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True)) if self.query_string else {}


@dataclass(slots=True)
class Response:
    """One answer; `Content-Length` is added when it is written."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Reply = Callable[[Response], None]
Application = Callable[[Request, Reply], None]
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


@lru_cache(maxsize=256)
def _header_name(name: bytes) -> str:
    """The name in lower case; remembered, since every request has the same few names."""
    return name.decode("latin-1").lower()


def encode(response: Response) -> bytes:
    """Give the bytes of a response as they go on the wire."""
    head = [_STATUS_LINES[response.status]]
    head += [f"{name}: {value}\r\n" for name, value in response.headers.items()]
    if response.status != HTTPStatus.NO_CONTENT:  # RFC 9110 §8.6: no Content-Length with 204
        head.append(f"Content-Length: {len(response.body)}\r\n")
    head.append("\r\n")
    return "".join(head).encode("latin-1") + response.body


class HttpProtocol(asyncio.Protocol):
    """Server side of one connection."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[tuple[Request, bool]] = deque()
        self._answering = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio has set TCP_NODELAY on it."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the `on_…` methods below."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(HTTPStatus.NOT_IMPLEMENTED)
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)

    def on_message_begin(self) -> None:
        """Forget the previous request."""
        self._url = b""
        self._headers = {}
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        key, text = _header_name(name), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]},{text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """Ask for the body if the client waits to be asked."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, up to the limit."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Queue the request, and hand it over if none is being answered."""
        target, _, query = self._url.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, target, query, self._headers, b"".join(self._body))
        self._requests.append((request, self._parser.should_keep_alive()))
        if not self._answering:
            self._next()

    def _next(self) -> None:
        while self._requests and not self._answering and not self._transport.is_closing():
            request, keep_alive = self._requests.popleft()
            self._answering = True
            try:
                self._application(request, self._reply_once(keep_alive))
            except Exception:  # a defect of the application; the parser would blame the request for it
                log.exception("%s %s could not be answered", request.method, request.target)
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _reply_once(self, keep_alive: bool) -> Reply:
        def reply(response: Response) -> None:
            if self._transport.is_closing():  # the client has gone
                return
            self._transport.write(encode(response))
            self._answering = False
            if not keep_alive:
                self._transport.close()
            elif self._requests:
                self._next()

        return reply

    def _refuse(self, status: HTTPStatus) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode(Response(status, headers={"Connection": "close"})))
            self._transport.close()
