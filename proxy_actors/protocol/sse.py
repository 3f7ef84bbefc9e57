"""Server-sent events: bytes to events and back (WHATWG HTML, "Interpreting an event stream").

Owns the state of one response body while it is read. Never reconnects, never waits, never looks
into the data of an event. Readers of upstream streams decode with it; streams to clients encode.
Data stays bytes, exactly as sent, except that invalid UTF-8 becomes U+FFFD as the standard asks.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from proxy_actors.errors import FrameTooLargeError

COMMENT_KEEPALIVE: Final = b": keep-alive\n\n"

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# 11 days in milliseconds have nine digits; more are no waiting time, and int() would take for ever.
_RETRY_DIGITS_MAX: Final = 9
# An event as nearly every server writes it: of the usual type, its data on one line.
_PLAIN_EVENT: Final = re.compile(
    rb"(?:event: message\r?\n)?(?:id: ([^\0\r\n]*)\r?\n)?(?:event: message\r?\n)?"
    rb"data: (.*)\n\r?\n"
)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event.

    Attributes:
        data: its data lines joined with LF; empty in a priming event.
        event: its type, "message" if it named none.
        id: the id that this very event set, b"" included; None if it set none.
        retry_ms: the reconnection time that came within it, in milliseconds.
    """

    data: bytes
    event: bytes = b"message"
    id: bytes | None = None
    retry_ms: int | None = None


class SseDecoder:
    """Push decoder of one stream, in time linear in the bytes fed.

    An event that the end of input cuts off is dropped with the decoder, as the standard asks.

    Args:
        event_bytes_max: bound on the data lines of an event and on any line, in bytes.
        last_event_id: what a reconnecting reader carries over from the stream before.
    """

    __slots__ = (
        "overflowed", "last_event_id", "retry_ms", "comments", "_event_bytes_max",
        "_partial", "_after_cr", "_at_start", "_in_event", "_id_seen", "_data", "_data_bytes",
        "_event", "_event_id", "_event_retry_ms",
    )

    def __init__(self, event_bytes_max: int, last_event_id: bytes = b"") -> None:
        self.overflowed = False
        """Whether an event was too large. Those before it have been returned; none follows."""
        self.last_event_id = last_event_id
        """What to send as Last-Event-ID; taken at a blank line, with or without an event."""
        self.retry_ms: int | None = None
        """The latest reconnection time, taken as soon as its line ends."""
        self.comments = 0
        """Comment lines so far: a silent stream whose heart beats."""
        self._event_bytes_max = event_bytes_max
        self._partial = bytearray()
        self._after_cr = False
        self._at_start = True
        self._in_event = False
        self._id_seen = last_event_id
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = b""
        self._event_id: bytes | None = None
        self._event_retry_ms: int | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes.

        An event too large sets `overflowed` at once, and not an error, so that those before it are
        not lost; how the bytes were cut into reads makes no difference.

        Raises:
            FrameTooLargeError: fed again after `overflowed`.
        """
        if self.overflowed:
            raise FrameTooLargeError(f"an event exceeds {self._event_bytes_max} bytes")
        events: list[Event] = []
        if self._in_event or self._partial:
            # What follows the event that was cut may be plain again.
            end = data.find(b"\n\n") + 2
            if end >= 2:
                self._read(data[:end], events)
                data = data[end:]
        if not (
            self._in_event
            or self._partial
            or self._after_cr
            or self._at_start
            or self.overflowed
        ):
            data = data[self._read_plain(data, events):]
        if data and not self.overflowed:
            self._read(data, events)
        return events

    def _read_plain(self, data: bytes, events: list[Event]) -> int:
        """Read the plain events at the front, a short way; return where what follows begins."""
        at, end = 0, len(data)
        if end > self._event_bytes_max or not data.isascii():
            return 0
        while at < end and (found := _PLAIN_EVENT.match(data, at)) is not None:
            id, text = found.groups()
            text = text.removesuffix(b"\r")
            if 13 in text:
                break
            if id is not None:
                self._id_seen = self.last_event_id = id
            events.append(Event(text, b"message", id))
            at = found.end()
        return at

    def _read(self, data: bytes, events: list[Event]) -> None:
        """Read whatever it is."""
        for line in self._lines(data):
            if self._data_bytes + len(line) > self._event_bytes_max:
                self._overflow()
                return
            if line:
                self._in_event = True
                self._read_line(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        if self._data_bytes + len(self._partial) > self._event_bytes_max:
            self._overflow()

    def _lines(self, data: bytes) -> list[bytes]:
        """Cut off the complete lines; bytes.splitlines knows CR, LF and CRLF and nothing else."""
        if self._at_start:
            data = self._without_mark(data)
        elif self._after_cr:
            # The CR has ended its line already: nobody waits for an LF that may never come.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if not data:
            return []
        lines = data.splitlines()
        rest = b"" if data.endswith((b"\r", b"\n")) else lines.pop()
        self._after_cr = data.endswith(b"\r")
        if lines and self._partial:
            lines[0] = bytes(self._partial + lines[0])
            self._partial = bytearray()
        self._partial += rest
        return lines

    def _without_mark(self, data: bytes) -> bytes:
        """Drop one byte order mark from the very beginning, held back while it may yet be one."""
        beginning = bytes(self._partial) + data
        if len(beginning) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(beginning):
            self._partial = bytearray(beginning)
            return b""
        self._at_start = False
        self._partial = bytearray()
        return beginning.removeprefix(_BYTE_ORDER_MARK)

    def _read_line(self, line: bytes) -> None:
        if line.startswith(b":"):
            self.comments += 1
            return
        if not line.isascii():
            line = _valid_utf8(line)
        colon = line.find(b":")
        if colon < 0:
            name, value = line, b""
        else:
            name = line[:colon]
            value = line[colon + 1 + line.startswith(b" ", colon + 1):]
        match name:
            case b"data":
                self._data.append(value)
                self._data_bytes += len(line)
            case b"event":
                self._event = value
            case b"id" if b"\0" not in value:
                self._id_seen = self._event_id = value
            case b"retry" if value.isdigit() and len(value) <= _RETRY_DIGITS_MAX:
                self.retry_ms = self._event_retry_ms = int(value)

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id_seen
        event = None
        if self._data:
            event = Event(
                b"\n".join(self._data),
                self._event or b"message",
                self._event_id,
                self._event_retry_ms,
            )
        self._reset_event()
        return event

    def _reset_event(self) -> None:
        self._in_event = False
        self._data = []
        self._data_bytes = 0
        self._event = b""
        self._event_id = None
        self._event_retry_ms = None

    def _overflow(self) -> None:
        self.overflowed = True
        self._partial = bytearray()
        self._reset_event()


def encode_event(
    data: bytes,
    *,
    event: bytes = b"message",
    id: bytes | None = None,
    retry_ms: int | None = None,
) -> bytes:
    """Return one event; data with line ends becomes several data lines, each end read as LF.

    Args:
        data: UTF-8; empty for a priming event.
        event: its type; b"" leaves the line out, which reads as "message".
        id: the event id; b"" resets the reader's, None leaves it.
        retry_ms: how long the reader shall wait before it reconnects, in milliseconds.

    Raises:
        ValueError: a NUL, CR or LF in `event` or `id`, or a negative `retry_ms`.
    """
    if event == b"message" and id is not None and retry_ms is None:
        if not (10 in data or 13 in data or 10 in id or 13 in id or 0 in id):  # nearly always
            return b"event: message\nid: %b\ndata: %b\n\n" % (id, data)
    parts = []
    if event:
        parts.append(b"event: %b\n" % _checked(event))
    if id is not None:
        parts.append(b"id: %b\n" % _checked(id))
    if retry_ms is not None:
        if retry_ms < 0:
            raise ValueError("retry_ms is negative")
        parts.append(b"retry: %d\n" % retry_ms)
    if 10 in data or 13 in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    parts += (b"data: ", data, b"\n\n")
    return b"".join(parts)


def _checked(value: bytes) -> bytes:
    if 0 in value or 10 in value or 13 in value:
        raise ValueError("NUL, CR or LF in the type or id of an event")
    return value


def _valid_utf8(line: bytes) -> bytes:
    try:
        line.decode()
    except UnicodeDecodeError:
        return line.decode(errors="replace").encode()
    return line
