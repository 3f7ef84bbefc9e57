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
from proxy_actors.protocol.headers import Fields, combined, media_type, members
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

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[ \t,;])timeout[ \t]*=[ \t]*(\d{1,9})(?:$|[ \t,;])", re.I)


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """A final response without its body.

    `content_length` is None when absent or chunked; of a response to HEAD or a 304 it describes a
    body that does not follow. `media_type` is that of Content-Type, in lower case and without
    parameters; empty when absent. `keep_alive_timeout_s` is how long the upstream says that it
    keeps an idle connection.
    """

    status: int
    fields: Fields
    keep_alive: bool
    content_length: int | None
    chunked: bool
    keep_alive_timeout_s: float | None
    media_type: bytes = b""


class ResponseParser:
    """Decodes the response of one exchange.

    `head` is None until the final head has arrived. `complete` turns true with the last byte of the
    body. `body_bytes` counts what of the body has arrived; bounding it is the caller's part, since
    a stream of events has no end. `started` says whether any byte was received: if none was, the
    upstream may have closed an idle connection without reading the request.
    """

    __slots__ = (
        "body_bytes", "complete", "head", "started", "_body", "_buffer", "_chunks", "_failed",
        "_heads", "_interims", "_left", "_limits", "_request_method", "_spent",
    )  # fmt: skip

    def __init__(self, limits: HttpLimits, request_method: bytes) -> None:
        self.head: ResponseHead | None = None
        self.complete = False
        self.started = False
        self.body_bytes = 0
        self._limits = limits
        self._request_method = request_method
        self._heads = HeadReader(limits)
        self._buffer = bytearray()
        self._body = bytearray()
        self._chunks: ChunkedBody | None = None
        self._left: int | None = None
        self._interims = 0
        self._failed = False
        # Nothing further can be read from the connection, or nothing that could be trusted.
        self._spent = False

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
        self._buffer += data
        try:
            if self.head is None:
                self._read_heads()
            if self.head is not None:
                self._read_body()
        except FramingError as error:
            self._fail(error.text, error)

    def take_body(self) -> bytes:
        """Return the part of the body that has arrived since the last call, b"" if none."""
        body = bytes(self._body)
        self._body.clear()
        return body

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
        self._buffer.clear()
        raise FailedError(
            Reason.UPSTREAM_PROTOCOL,
            f"The upstream's response is not valid HTTP. {text}",
            executed=Executed.UNKNOWN,
        ) from cause

    def _read_heads(self) -> None:
        """Read up to the final head. Interim ones are dropped: we never ask for them."""
        while (raw := self._heads.take(self._buffer)) is not None:
            head = _read_head(raw, self._limits)
            if head.status >= 200:
                self.head = head
                self._expect_body(head)
                return
            self._interims += 1
            if head.status == 101 or self._interims > INTERIM_RESPONSES_MAX:
                raise FramingError(400, "An interim response was not asked for.")

    def _expect_body(self, head: ResponseHead) -> None:
        if self._request_method == b"HEAD" or head.status in (204, 304):
            self._left = 0
        elif head.chunked:
            self._chunks = ChunkedBody(self._limits, None)
        else:
            self._left = head.content_length

    def _read_body(self) -> None:
        buffer = self._buffer
        held_bytes = len(self._body)
        try:
            if self._chunks is not None:
                self._chunks.decode(buffer, self._body)
                self.complete = self._chunks.complete
            elif self._left is not None:
                if not held_bytes and len(buffer) == self._left:
                    self._body, self._buffer = buffer, self._body  # all of it at once: no copy
                else:
                    self._body += buffer[: self._left]
                    del buffer[: self._left]
                self._left -= len(self._body) - held_bytes
                self.complete = not self._left
            else:
                self._body += buffer
                buffer.clear()
        finally:
            self.body_bytes += len(self._body) - held_bytes
        if self.complete and self._buffer:
            self._spent = True
            self._buffer.clear()


# An upstream's heads repeat for a second at least, until their Date moves on.
@lru_cache(maxsize=256)
def _read_head(raw: bytes, limits: HttpLimits) -> ResponseHead:
    match = _STATUS_LINE.match(raw)
    if match is None:
        raise FramingError(400, "The status line is malformed.")
    is_1_1 = match[1] == b"1"
    status = int(match[2])
    fields = read_fields(HttpResponseParser, raw, limits)
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
