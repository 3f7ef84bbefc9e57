"""The server side of HTTP/1.1: bytes of a client in, requests and refusals out, in their order.

Owns every rule on what a client may send: request line, Host, framing, expectations and bounds
(RFC 9112; RFC 9110 sections 7, 8.4, 9 and 10.1.1). At most one request is decoded ahead of the one
being served; pipelined bytes behind it stay undecoded. Never answers, and never decides what a
method may do to a resource. The server's connection loop feeds it.

The caller's loop: `feed`, then `take` until it returns None; then, before reading on, look at
`head` to refuse early or to send 100 (Continue). While `queued` is not 0, serve instead of reading.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec
from httptools import HttpRequestParser

from proxy_actors.errors import FramingError, RefusedError
from proxy_actors.protocol.headers import Fields, combined, members
from proxy_actors.protocol.http1_framing import (
    CONTENT_LENGTH_DIGITS_MAX,
    ChunkedBody,
    HeadReader,
    HttpLimits,
    ends_in_chunked,
    read_fields,
)

__all__ = ("HttpLimits", "Request", "RequestHead", "RequestParser")

_METHODS = frozenset(
    {b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE", b"CONNECT"}
)
_VERSIONS = {b"HTTP/1.1": (1, 1), b"HTTP/1.0": (1, 0)}
_OTHER_VERSION = re.compile(rb"HTTP/\d\.\d")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# RFC 3986, with the brackets that clients leave unescaped in queries. No fragment, no white space.
_URI = rb"A-Za-z0-9\-._~!$&'()*+,;=:@%\[\]/"
_PATH_AND_QUERY = rb"(/[" + _URI + rb"]*)?(?:\?([" + _URI + rb"?]*))?"
_TARGET = re.compile(rb"(?:(?i:https?)://([^/?]*))?" + _PATH_AND_QUERY)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)

# Method, target, version, authority (None in origin-form), path and query.
_RequestLine = tuple[bytes, bytes, tuple[int, int], bytes | None, bytes, bytes]

_RARE = frozenset({b"content-encoding", b"expect", b"transfer-encoding"})


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """A request without its body.

    `target` is as it came, `path` and `query` its parts, undecoded. `host` is the authority asked
    for, and the Host field among `fields` agrees with it; empty only from a 1.0 client. `query` is
    empty when absent. `content_length` is None when absent or chunked. `expects_continue` means
    that the client may hold back the body until it sees 100 (Continue).
    """

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    version: tuple[int, int]
    fields: Fields
    keep_alive: bool
    expects_continue: bool
    content_length: int | None
    chunked: bool
    host: bytes


class Request(msgspec.Struct, frozen=True, gc=False):
    """A complete request. Trailers were dropped (RFC 9110 section 6.5.1)."""

    head: RequestHead
    body: bytes


class RequestParser:
    """Decodes the requests of one client connection, one ahead at most.

    A refusal ends the connection: nothing behind it is decoded, and it asks for `close`. So does
    a request that cannot keep the connection alive.
    """

    __slots__ = (
        "_blank_line_skipped", "_body", "_buffer", "_chunks", "_error", "_head", "_heads",
        "_last_head", "_last_raw", "_limits", "_ready", "_stopped",
    )  # fmt: skip

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._heads = HeadReader(limits)
        self._buffer = bytearray()
        self._blank_line_skipped = False
        self._head: RequestHead | None = None
        self._chunks: ChunkedBody | None = None
        self._body = bytearray()
        self._ready: Request | None = None
        self._error: RefusedError | None = None
        self._stopped = False
        # A client repeats its head for hours, so that the last one is remembered once accepted.
        self._last_raw = b""
        self._last_head: RequestHead | None = None

    @property
    def head(self) -> RequestHead | None:
        """The head of the request whose body is being received, None while there is none."""
        return self._head

    @property
    def mid_message(self) -> bool:
        """Whether part of a request has arrived and nothing is queued: end of input truncates it.

        An empty line before a request is no part of it.
        """
        return (
            (self._head is not None or bool(self._buffer))
            and self._ready is None
            and self._error is None
        )

    @property
    def body_bytes_buffered(self) -> int:
        """Bytes held: the bodies of what is queued and being received, and what is undecoded."""
        queued = 0 if self._ready is None else len(self._ready.body)
        return queued + len(self._body) + len(self._buffer)

    @property
    def queued(self) -> int:
        """How many results `take` has ready, a refusal counted: 0 or 1."""
        return int(self._ready is not None or self._error is not None)

    def feed(self, data: bytes) -> None:
        """Decode what has arrived. Never raises: a refusal waits its turn in `take`."""
        if self._stopped or self._repeats_whole(data):
            return
        self._buffer += data
        if self._ready is None:
            self._advance()

    def take(self) -> Request | None:
        """Return the next complete request, None if there is none yet.

        Raises:
            RefusedError: once, in its turn; the connection must be closed after its answer.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        ready, self._ready = self._ready, None
        if ready is not None and self._buffer:
            self._advance()
        return ready

    def stop(self) -> None:
        """Decode nothing further and forget what has arrived (RFC 9112 section 9.6)."""
        self._forget_input()
        self._ready = None
        self._error = None

    def _forget_input(self) -> None:
        self._stopped = True
        self._head = None
        self._chunks = None
        self._buffer.clear()
        self._body.clear()

    def _repeats_whole(self, data: bytes) -> bool:
        """Take a request that has come in one piece under the same head as the last one."""
        head, raw = self._last_head, self._last_raw
        if (
            head is None
            or self._buffer
            or self._head is not None
            or self._ready is not None
            or not head.keep_alive
            or head.content_length is None
            or len(data) != len(raw) + head.content_length
            or not data.startswith(raw)
        ):
            return False
        self._blank_line_skipped = False
        self._ready = Request(head, data[len(raw):])
        return True

    def _advance(self) -> None:
        try:
            head = self._head or self._read_head()
            if head is not None:
                self._read_body(head)
        except FramingError as error:
            self._refuse(RefusedError(error.status, error.text, close=True))
        except RefusedError as error:
            self._refuse(error)

    def _refuse(self, error: RefusedError) -> None:
        self._forget_input()
        # The traceback would tie this parser to itself and leave it to the cyclic collector.
        self._error = error.with_traceback(None)

    def _read_head(self) -> RequestHead | None:
        buffer = self._buffer
        if not self._blank_line_skipped and buffer.startswith(b"\r\n"):
            # RFC 9112 section 2.2: old clients send one after the body of a POST. One, not many.
            self._blank_line_skipped = True
            del buffer[:2]
        raw = self._heads.take(buffer)
        if raw is None:
            return None
        self._blank_line_skipped = False
        head = self._last_head
        if head is None or raw != self._last_raw:
            head = _read_head(raw, self._limits)
            self._last_raw, self._last_head = raw, head
        self._head = head
        if head.chunked:
            self._chunks = ChunkedBody(self._limits, self._limits.body_bytes_max)
        return head

    def _read_body(self, head: RequestHead) -> None:
        if self._chunks is not None:
            self._chunks.decode(self._buffer, self._body)
            if not self._chunks.complete:
                return
            body = bytes(self._body)
            self._chunks = None
            self._body.clear()
        elif head.content_length:
            if len(self._buffer) < head.content_length:
                return
            body = bytes(self._buffer[: head.content_length])
            del self._buffer[: head.content_length]
        else:
            body = b""
        self._head = None
        if not head.keep_alive:
            self._forget_input()
        self._ready = Request(head, body)


def _read_head(raw: bytes, limits: HttpLimits) -> RequestHead:
    method, target, version, authority, path, query = _read_request_line(raw[: raw.find(b"\r")])
    fields = read_fields(HttpRequestParser, raw, limits.fields_max)
    by_name = combined(fields)
    host = by_name.get(b"host")
    if host is not None:
        _check_authority(host)
    elif version == (1, 1):
        raise _refusal(400, "There is no Host field.")
    if authority is not None:
        # RFC 9112 section 3.2.2: the authority of an absolute-form target replaces Host.
        host = authority
        fields = [(b"host", host), *(field for field in fields if field[0] != b"host")]
    expects_continue = chunked = False
    content_length = _content_length(by_name.get(b"content-length"), limits)
    if not _RARE.isdisjoint(by_name):
        chunked = _is_chunked(by_name, version)
        _check_content_encoding(by_name)
        # Where no body follows there is nothing to wait for.
        expects_continue = _expects_continue(by_name, version) and (
            chunked or bool(content_length)
        )
    # RFC 9112 section 9.3: as a proxy, never a persistent connection with a 1.0 client.
    keep_alive = version == (1, 1) and b"close" not in members(by_name.get(b"connection", b""))
    return RequestHead(
        method, target, path, query, version, fields, keep_alive, expects_continue,
        content_length, chunked, host or b"",
    )  # fmt: skip


def _refusal(status: int, text: str) -> RefusedError:
    return RefusedError(status, text, close=True)


# One client repeats its request line and Host for hours, so both are remembered once accepted.
@lru_cache(maxsize=256)
def _read_request_line(line: bytes) -> _RequestLine:
    """Read a request line (RFC 9112 section 3): single spaces, no leniency."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise _refusal(400, "The request line is malformed.")
    method, target, version_text = parts
    version = _VERSIONS.get(version_text)
    if version is None:
        if _OTHER_VERSION.fullmatch(version_text):
            raise _refusal(505, "The HTTP version is not supported.")
        raise _refusal(400, "The request line is malformed.")
    if method not in _METHODS:
        if _TOKEN.fullmatch(method) is None:
            raise _refusal(400, "The request line is malformed.")
        raise _refusal(501, "The method is not known.")
    if method == b"CONNECT":
        raise _refusal(501, "This server is not a tunnel.")
    return (method, target, version, *_split_target(method, target))


def _split_target(method: bytes, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Return authority (None in origin-form), path and query (RFC 9112 section 3.2)."""
    if target == b"*" and method == b"OPTIONS":
        return None, target, b""
    match = _TARGET.fullmatch(target)
    if match is None or _BAD_ESCAPE.search(target):
        raise _refusal(400, "The request target is malformed.")
    authority, path, query = match.groups()
    if authority is not None:
        _check_authority(authority)
    elif path is None:
        raise _refusal(400, "The request target is malformed.")
    return authority, path or b"/", query or b""


@lru_cache(maxsize=256)
def _check_authority(authority: bytes) -> None:
    if _AUTHORITY.fullmatch(authority) is None:
        raise _refusal(400, "The Host is malformed.")


def _is_chunked(by_name: dict[bytes, bytes], version: tuple[int, int]) -> bool:
    value = by_name.get(b"transfer-encoding")
    if value is None:
        return False
    if b"content-length" in by_name:
        raise _refusal(400, "Transfer-Encoding and Content-Length exclude each other.")
    if version == (1, 0):
        raise _refusal(400, "Transfer-Encoding does not exist in HTTP/1.0.")
    return ends_in_chunked(value)


def _content_length(value: bytes | None, limits: HttpLimits) -> int | None:
    """Return the body's length, having refused what is no number or too large."""
    if value is None:
        return None
    # bytes.isdigit() knows ASCII digits only: no sign, underscore, white space or list passes.
    if not value.isdigit():
        raise _refusal(400, "The Content-Length is malformed.")
    if len(value) > CONTENT_LENGTH_DIGITS_MAX or int(value) > limits.body_bytes_max:
        raise _refusal(413, "The body is too large.")
    return int(value)


def _check_content_encoding(by_name: dict[bytes, bytes]) -> None:
    """Refuse coded bodies: nothing here inflates what a client sends."""
    if any(coding != b"identity" for coding in members(by_name.get(b"content-encoding", b""))):
        raise RefusedError(
            415,
            "The content coding is not supported.",
            headers=((b"accept-encoding", b"identity"),),
            close=True,
        )


def _expects_continue(by_name: dict[bytes, bytes], version: tuple[int, int]) -> bool:
    """Say whether 100-continue is expected; a 1.0 client's is ignored (RFC 9110 section 10.1.1)."""
    expectations = members(by_name.get(b"expect", b""))
    if any(expectation != b"100-continue" for expectation in expectations):
        raise _refusal(417, "The expectation is not supported.")
    return bool(expectations) and version == (1, 1)
