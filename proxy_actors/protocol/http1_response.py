"""The client side of HTTP/1.1: bytes of an upstream in, one response out, its body as it arrives.

Owns every rule on what an upstream may answer (RFC 9112 sections 4, 6, 7 and 9), and whether its
connection can carry another exchange. Never buffers a body for its own sake, never decodes content,
never retries. The gateway's lease feeds it and drains it, one parser an exchange.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NoReturn

import msgspec
from httptools import HttpResponseParser

from proxy_actors.errors import Executed, FailedError, FramingError, Reason
from proxy_actors.protocol.headers import Fields, combined, media_type, members, returnable
from proxy_actors.protocol.http1_framing import (
    CONTENT_LENGTH_DIGITS_MAX,
    ChunkedBody,
    HeadReader,
    HttpLimits,
    ends_in_chunked,
    read_fields,
)

# An upstream may inform (1xx) before it answers, but not for ever.
INTERIM_RESPONSES_MAX = 16
# RFC 9110 sections 15.3.5 and 15.4.5: whatever their fields say, no body follows.
_BODILESS = frozenset({204, 304})

_PROTOCOL = b"HTTP/1."
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[ \t,;])timeout[ \t]*=[ \t]*(\d{1,9})(?:$|[ \t,;])", re.I)


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """A final response without its body.

    `content_length` is None when absent or chunked; of a response to HEAD or a 304 it describes a
    body that does not follow. `media_type` is that of Content-Type, in lower case and without
    parameters; empty when absent. `keep_alive_timeout_s` is how long the upstream says that it
    keeps an idle connection. `returned` are the fields that pass on to the client.
    """

    status: int
    fields: Fields
    keep_alive: bool
    content_length: int | None
    chunked: bool
    keep_alive_timeout_s: float | None
    media_type: bytes = b""
    returned: Fields = []


class ResponseParser:
    """Decodes the response of one exchange.

    `head` is None until the final head has arrived. `complete` turns true with the last byte of the
    body. `body_bytes` counts what of the body has arrived; bounding it is the caller's part, since
    a stream of events has no end. `started` says whether any byte was received: if none was, the
    upstream may have closed an idle connection without reading the request.
    """

    # Most responses come in one piece and need no more than this: one parser serves one exchange,
    # so what it begins with costs nothing as long as it stays with the class.
    head: ResponseHead | None = None
    complete = False
    started = False
    body_bytes = 0
    _body: bytes | bytearray = b""
    _chunks: ChunkedBody | None = None
    _left: int | None = None
    _interims = 0
    _failed = False
    # Nothing further can be read from the connection, or nothing that could be trusted.
    _spent = False
    # Made for a response that comes in pieces.
    _heads: HeadReader | None = None
    _buffer: bytearray

    def __init__(self, limits: HttpLimits, request_method: bytes) -> None:
        self._limits = limits
        self._request_method = request_method

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another exchange.

        Bytes behind the body forbid it: they would be taken for the next response. So does an end
        of input that has been noted.
        """
        return (
            self.head is not None
            and self.head.keep_alive
            and self.complete
            and not self._spent
        )

    def feed(self, data: bytes) -> None:
        """Decode what has arrived. What follows a complete response is discarded.

        Raises:
            FailedError: upstream-protocol. The body that came before the fault can still be taken;
                the connection must be closed.
        """
        if not data or self._failed:
            return
        self.started = True
        if self.complete:
            self._spent = True
            return
        try:
            if self._heads is None:
                if self._is_whole(data):
                    return
                self._heads = HeadReader(self._limits)
                self._buffer = bytearray()
            elif self._chunks is not None and not (self._buffer or self._body):
                self._body = self._chunks.sole(data)
                if self._body:
                    self.body_bytes += len(self._body)
                    return
            self._buffer += data
            if self.head is None:
                self._read_heads(self._heads)
            if self.head is not None:
                self._read_body()
        except FramingError as error:
            self._fail(error.text, error)

    def take_body(self) -> bytes:
        """Return the part of the body that has arrived since the last call, b"" if none."""
        body, self._body = self._body, b""
        return bytes(body)

    def end_of_input(self) -> None:
        """Note that the upstream closed: the end of a body that no length delimits.

        Raises:
            FailedError: upstream-closed, when the response is truncated (RFC 9112 section 8).
        """
        self._spent = True
        if self.complete or self._failed:
            return
        if self.head is None or self._chunks is not None or self._left is not None:
            self._failed = True
            raise FailedError(
                Reason.UPSTREAM_CLOSED,
                "The upstream closed the connection before its response was complete.",
                executed=Executed.UNKNOWN,
            )
        self.complete = True

    def _fail(self, text: str, cause: FramingError) -> NoReturn:
        self._failed = True
        self._buffer = bytearray()
        raise FailedError(
            Reason.UPSTREAM_PROTOCOL,
            f"The upstream's response is not valid HTTP. {text}",
            executed=Executed.UNKNOWN,
        ) from cause

    def _is_whole(self, data: bytes) -> bool:
        """Take a response that has come in one piece; False, nothing taken, when it has not."""
        limits = self._limits
        end = data.find(b"\r\n\r\n") + 4
        if (
            end < 4
            or end > limits.head_bytes_max
            or end > limits.start_line_bytes_max  # within these, no line exceeds them either
            or end > limits.field_bytes_max
        ):
            return False
        head = _read_head(data[:end], limits.fields_max)
        if (
            head.content_length != len(data) - end
            or head.status < 200
            or head.status in _BODILESS
            or self._request_method == b"HEAD"
        ):
            return False
        self.head = head
        self._body = data[end:]
        self.body_bytes = head.content_length
        self.complete = True
        return True

    def _read_heads(self, heads: HeadReader) -> None:
        """Read up to the final head. Interim ones are dropped: we never ask for them."""
        while (raw := heads.take(self._buffer)) is not None:
            head = _read_head(raw, self._limits.fields_max)
            if head.status >= 200:
                self.head = head
                self._expect_body(head)
                return
            self._interims += 1
            if head.status == 101 or self._interims > INTERIM_RESPONSES_MAX:
                raise FramingError(400, "An interim response was not asked for.")
        # What can never become a head: its sender has said all, and waits for us.
        if not _PROTOCOL.startswith(self._buffer[: len(_PROTOCOL)]):
            raise FramingError(400, "The status line is malformed.")

    def _expect_body(self, head: ResponseHead) -> None:
        if self._request_method == b"HEAD" or head.status in _BODILESS:
            self._left = 0
        elif head.chunked:
            self._chunks = ChunkedBody(self._limits, None)
        else:
            self._left = head.content_length

    def _read_body(self) -> None:
        buffer = self._buffer
        body = self._body if isinstance(self._body, bytearray) else bytearray(self._body)
        self._body = body
        held_bytes = len(body)
        try:
            if self._chunks is not None:
                self._chunks.decode(buffer, body)
                self.complete = self._chunks.complete
            elif self._left is not None:
                body += buffer[: self._left]
                del buffer[: self._left]
                self._left -= len(body) - held_bytes
                self.complete = not self._left
            else:
                body += buffer
                buffer.clear()
        finally:
            self.body_bytes += len(body) - held_bytes
        if self.complete and self._buffer:
            self._spent = True
            self._buffer.clear()


# An upstream's heads repeat for a second at least, until their Date moves on.
@lru_cache(maxsize=256)
def _read_head(raw: bytes, fields_max: int) -> ResponseHead:
    match = _STATUS_LINE.match(raw)
    if match is None:
        raise FramingError(400, "The status line is malformed.")
    is_1_1 = match[1] == b"1"
    status = int(match[2])
    fields = read_fields(HttpResponseParser, raw, fields_max)
    by_name = combined(fields)
    chunked = _is_chunked(by_name, is_1_1)
    content_length = _content_length(by_name.get(b"content-length"))
    options = members(by_name.get(b"connection", b""))
    keep_alive = b"close" not in options and (is_1_1 or b"keep-alive" in options)
    if status == 204 and (chunked or content_length):
        # RFC 9112 section 6.1 forbids both. What may follow is nobody's response.
        keep_alive = False
    return ResponseHead(
        status, fields, keep_alive, content_length, chunked,
        _keep_alive_timeout_s(by_name.get(b"keep-alive")),
        media_type(by_name.get(b"content-type", b"")),
        returnable(fields),
    )  # fmt: skip


def _is_chunked(by_name: dict[bytes, bytes], is_1_1: bool) -> bool:
    value = by_name.get(b"transfer-encoding")
    if value is None:
        return False
    if b"content-length" in by_name:
        raise FramingError(400, "Transfer-Encoding and Content-Length exclude each other.")
    if not is_1_1:
        raise FramingError(400, "Transfer-Encoding does not exist in HTTP/1.0.")
    return ends_in_chunked(value)


def _content_length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > CONTENT_LENGTH_DIGITS_MAX:
        raise FramingError(400, "The Content-Length is malformed.")
    return int(value)


def _keep_alive_timeout_s(value: bytes | None) -> float | None:
    match = None if value is None else _KEEP_ALIVE_TIMEOUT.search(value)
    return None if match is None else float(match[1])
