"""Serialisation of HTTP/1.1 heads and chunks, in our own version of HTTP (RFC 9110 section 2.5).

Owns the guarantee that nothing written can be read as more lines or more fields than were meant.
Never adds fields but Date, never decides framing, never tells the time. The gateway's lease and
relay, and the rescue point, call it.
"""

from __future__ import annotations

from http import HTTPStatus

from proxy_actors.errors import FramingError
from proxy_actors.protocol.headers import Fields, first

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOKEN_CHARACTERS = (
    b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
_VISIBLE_CHARACTERS = bytes(range(0x21, 0x7F))
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


def request_head(method: bytes, target: bytes, fields: Fields) -> bytes:
    """Return a request's head, its empty line included.

    Raises:
        FramingError: method, target or a field could be read as something else.
    """
    if not _is_token(method) or not target or target.translate(None, _VISIBLE_CHARACTERS):
        raise FramingError(500, "A request line to be written is malformed.")
    return _head(b"%s %s HTTP/1.1" % (method, target), fields)


def response_head(status: int, fields: Fields, *, date: bytes) -> bytes:
    """Return a response's head, its empty line included.

    Args:
        status: 100 to 599.
        fields: in the order in which they are to be written.
        date: the value of Date, if `fields` has none (RFC 9110 section 6.6.1).

    Raises:
        FramingError: the status is out of range, or a field could be read as something else.
    """
    line = _STATUS_LINES.get(status)
    if line is None:
        if not 100 <= status <= 599:
            raise FramingError(500, "A status to be written is out of range.")
        line = b"HTTP/1.1 %d " % status
    if first(fields, b"date") is None:
        fields = [*fields, (b"date", date)]
    return _head(line, fields)


def chunk(data: bytes) -> bytes:
    """Return one chunk, nothing for no data: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _head(start_line: bytes, fields: Fields) -> bytes:
    names = [name for name, _ in fields]
    if b"" in names or b"".join(names).translate(None, _TOKEN_CHARACTERS):
        raise FramingError(500, "A field name to be written is malformed.")
    lines = [start_line, *[name + b": " + value for name, value in fields], b"", b""]
    head = b"\r\n".join(lines)
    # As many line ends as were joined, and so none that came within a value.
    line_ends = len(fields) + 2
    if head.count(b"\r") != line_ends or head.count(b"\n") != line_ends or b"\0" in head:
        raise FramingError(500, "A field value to be written is malformed.")
    return head


def _is_token(value: bytes) -> bool:
    return bool(value) and not value.translate(None, _TOKEN_CHARACTERS)
