"""What both HTTP/1.1 parsers share: limits, where a head ends, its fields, and chunked bodies.

A head is given to httptools only when all of it is there, with a fresh parser each time. So no
state outlives a message, a field trickling in costs linear time, and httptools never sees a body,
a pipelined message or a trailer: where a message ends is decided here and nowhere else.

Owns the grammar that requests and responses have in common (RFC 9112 sections 2, 5 and 7). Never
decides whose fault an error is: everything here raises `FramingError`, which `http1_request` and
`http1_response` turn into answers.
"""

from __future__ import annotations

import re

import msgspec
from httptools import (
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from proxy_actors.errors import ConfigurationError, FramingError
from proxy_actors.protocol.headers import Fields, members

# More digits can only be an attempt to overflow somebody's integer; int() itself refuses 4,301.
CONTENT_LENGTH_DIGITS_MAX = 19
_CHUNK_SIZE_DIGITS_MAX = 16
_CHUNK_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_PLAIN_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_TRAILER_LINE = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*)?\r\n")


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what one connection can make a parser hold; each at least 1.

    `head_bytes_max` counts the start line too, and bounds the trailers of a chunked body as well,
    as does `fields_max`. `chunk_extension_bytes_max` is the sum over one body.
    """

    start_line_bytes_max: int = 8 * 1024
    field_bytes_max: int = 8 * 1024
    head_bytes_max: int = 32 * 1024
    fields_max: int = 100
    body_bytes_max: int = 4 * 1024 * 1024
    chunk_extension_bytes_max: int = 1024

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1")


class HeadReader:
    """Cuts complete heads off the front of a buffer that grows in pieces of any size."""

    __slots__ = ("_limits", "_scanned")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._scanned = 0

    def take(self, buffer: bytearray) -> bytes | None:
        """Remove and return the head, its empty line included, or None until it is complete.

        Raises:
            FramingError: a bound is passed, or a line ends in a bare CR or LF.
        """
        limits = self._limits
        # The empty line may have begun in the last three bytes that were scanned before.
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            self._scan_unfinished(buffer)
            return None
        end += 4
        if end > limits.start_line_bytes_max:
            self._check_start_line(buffer)
        if end > limits.head_bytes_max:
            raise FramingError(431, "The header section is too large.")
        head = bytes(buffer[:end])
        del buffer[:end]
        self._scanned = 0
        if end > limits.field_bytes_max:
            longest = max(len(line) for line in head.split(b"\r\n")[1:])
            if longest > limits.field_bytes_max:
                raise FramingError(431, "A header field is too large.")
        return head

    def _scan_unfinished(self, buffer: bytearray) -> None:
        """Refuse early what can never become a head: peers that end lines in LF wait for us."""
        self._check_start_line(buffer)
        # A CR at the end may be half a CRLF: it is left for the next piece.
        end = len(buffer) - buffer.endswith(b"\r")
        pairs = buffer.count(b"\r\n", self._scanned, end)
        if (
            buffer.count(b"\n", self._scanned, end) != pairs
            or buffer.count(b"\r", self._scanned, end) != pairs
        ):
            raise FramingError(400, "A line does not end in CRLF.")
        self._scanned = end
        if len(buffer) >= self._limits.head_bytes_max:
            raise FramingError(431, "The header section is too large.")

    def _check_start_line(self, buffer: bytearray) -> None:
        bytes_max = self._limits.start_line_bytes_max
        if len(buffer) > bytes_max and buffer.find(b"\n", 0, bytes_max) < 0:
            # RFC 9112 section 3: a method longer than any known is 501, a long target 414.
            status = 414 if b" " in buffer[:bytes_max] else 501
            raise FramingError(status, "The start line is too long.")


class _FieldSink:
    """What httptools calls. It has stripped leading white space of values, and that only."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: Fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip()))


def read_fields(
    parser: type[HttpRequestParser] | type[HttpResponseParser], head: bytes, fields_max: int
) -> Fields:
    """Return the fields of one complete head.

    Raises:
        FramingError: 400 when httptools refuses the head, 431 for too many fields.
    """
    sink = _FieldSink()
    try:
        parser(sink).feed_data(head)
    except HttpParserUpgrade:
        pass  # Raised once the head is read. We never upgrade, and no body was passed.
    except HttpParserError as error:
        raise FramingError(400, f"The head is malformed: {error}.") from error
    fields = sink.fields
    # One line a field, besides the start line and the empty one: whatever folds, splits or merges
    # lines in the eyes of httptools but not in ours (or the reverse) breaks this sum.
    if head.count(b"\r\n") != len(fields) + 2:
        raise FramingError(400, "The head is malformed: a line is not a field.")
    if len(fields) > fields_max:
        raise FramingError(431, "There are too many header fields.")
    return fields


def ends_in_chunked(value: bytes) -> bool:
    """Say whether Transfer-Encoding is exactly `chunked`, the one coding that we decode.

    Raises:
        FramingError: 400 when chunked is not last or not alone of its kind, so that the length of
            the body is unknowable; 501 when it follows a coding that we do not decode
            (RFC 9112 sections 6.1 and 6.3).
    """
    codings = members(value)
    if codings == (b"chunked",):
        return True
    if codings[-1:] != (b"chunked",) or codings.count(b"chunked") > 1:
        raise FramingError(400, "The final transfer coding is not chunked.")
    raise FramingError(501, "The transfer coding is not supported.")


class ChunkedBody:
    """Decodes one chunked body (RFC 9112 section 7.1). Extensions and trailers are dropped.

    `body_bytes` is what the size lines read so far announce together.

    Args:
        limits: bounds on extensions and trailers.
        body_bytes_max: the most that `body_bytes` may become, None for no bound.
    """

    __slots__ = (
        "complete", "body_bytes", "_limits", "_body_bytes_max", "_left", "_data_ended",
        "_in_trailers", "_extension_bytes", "_trailer_bytes", "_trailers",
    )  # fmt: skip

    def __init__(self, limits: HttpLimits, body_bytes_max: int | None) -> None:
        self.complete = False
        self.body_bytes = 0
        self._limits = limits
        self._body_bytes_max = body_bytes_max
        self._left = 0
        self._data_ended = False
        self._in_trailers = False
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._trailers = 0

    def decode(self, buffer: bytearray, body: bytearray) -> None:
        """Move data from the front of `buffer` to the end of `body`, up to the end of the trailers.

        What was decoded before an error is in `body` when the error is raised.

        Raises:
            FramingError: 400 for bad grammar, 413, or 431.
        """
        at = 0
        while not self.complete:
            if self._left:
                after = self._take_data(buffer, at, body)
            elif self._data_ended:
                after = self._skip_data_end(buffer, at)
            elif self._in_trailers:
                after = self._skip_trailer(buffer, at)
            else:
                at = self._take_whole_chunks(buffer, at, body)
                after = self._read_size(buffer, at)
            if after == at:
                break
            at = after
        del buffer[:at]

    def sole(self, data: bytes) -> bytes:
        """Return the data of the one chunk that `data` is, a short way; b"" where it is not so."""
        if self._left or self._data_ended or self._in_trailers:
            return b""
        match = _PLAIN_SIZE_LINE.match(data)
        if match is None or self._body_bytes_max is not None:
            return b""
        size, begin = int(match[1], 16), match.end()
        if not size or len(data) - begin != size + 2 or not data.endswith(b"\r\n"):
            return b""
        self.body_bytes += size
        return data[begin:-2]

    def _take_whole_chunks(self, buffer: bytearray, at: int, body: bytearray) -> int:
        """Take the chunks at the front that are all there, a short way; the others are left."""
        while (match := _PLAIN_SIZE_LINE.match(buffer, at)) is not None:
            size, begin = int(match[1], 16), match.end()
            end = begin + size
            if not size or buffer[end : end + 2] != b"\r\n":
                break
            if self._body_bytes_max is not None and self.body_bytes + size > self._body_bytes_max:
                break
            self.body_bytes += size
            body += buffer[begin:end]
            at = end + 2
        return at

    def _take_data(self, buffer: bytearray, at: int, body: bytearray) -> int:
        data = buffer[at : at + self._left]
        body += data
        self._left -= len(data)
        self._data_ended = not self._left
        return at + len(data)

    def _skip_data_end(self, buffer: bytearray, at: int) -> int:
        end = buffer[at : at + 2]
        if not b"\r\n".startswith(end):
            raise FramingError(400, "A chunk is longer than its size.")
        if len(end) < 2:
            return at
        self._data_ended = False
        return at + 2

    def _read_size(self, buffer: bytearray, at: int) -> int:
        extension_left = self._limits.chunk_extension_bytes_max - self._extension_bytes
        end = buffer.find(b"\n", at) + 1
        if not end:
            if len(buffer) - at > _CHUNK_SIZE_DIGITS_MAX + extension_left + 2:
                raise FramingError(400, "The chunk extensions are too long.")
            return at
        match = _CHUNK_SIZE_LINE.fullmatch(buffer, at, end)
        if match is None:
            raise FramingError(400, "The size line of a chunk is malformed.")
        digits, extension = match.groups()
        if extension is not None:
            self._extension_bytes += len(extension)
            if len(extension) > extension_left:
                raise FramingError(400, "The chunk extensions are too long.")
        size = int(digits, 16)
        self.body_bytes += size
        if self._body_bytes_max is not None and self.body_bytes > self._body_bytes_max:
            raise FramingError(413, "The body is too large.")
        self._left = size
        self._in_trailers = not size
        return end

    def _skip_trailer(self, buffer: bytearray, at: int) -> int:
        end = buffer.find(b"\n", at) + 1
        waiting = (end or len(buffer)) - at
        if self._trailer_bytes + waiting > self._limits.head_bytes_max:
            raise FramingError(431, "The trailer section is too large.")
        if not end:
            return at
        if _TRAILER_LINE.fullmatch(buffer, at, end) is None:
            raise FramingError(400, "A trailer field is malformed.")
        self._trailer_bytes += waiting
        self._trailers += 1
        self.complete = waiting == 2
        if self._trailers > self._limits.fields_max + 1:
            raise FramingError(431, "There are too many trailer fields.")
        return end
