"""Event streams, rule by rule, each fed whole, byte by byte and cut at every offset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from proxy_actors.errors import FrameTooLargeError
from proxy_actors.protocol import sse
from proxy_actors.protocol.sse import COMMENT_KEEPALIVE, Event, SseDecoder, encode_event
from tests.defects import Defect, planted
from tests.protocol.metered import metered

BOM = b"\xef\xbb\xbf"
FFFD = "\ufffd".encode()


def ev(data: bytes, id: bytes | None = None, event: bytes = b"message") -> Event:
    return Event(data, event, id)


@dataclass(frozen=True)
class Stream:
    """What is fed, and what must have come of it at the end."""

    rule: str
    about: str
    data: bytes
    events: list[Event] = field(default_factory=list)
    last_event_id: bytes = b""
    retry_ms: int | None = None
    comments: int = 0

    def __str__(self) -> str:
        return f"{self.rule}: {self.about}"


STREAMS = [
    Stream("SSE-S1", "a byte order mark at the beginning is dropped",
           BOM + b"data: a\n\n", [ev(b"a")]),
    Stream("SSE-S1", "one, not two", BOM + BOM + b"data: a\n\ndata: b\n\n", [ev(b"b")]),
    Stream("SSE-S1", "later ones are data",
           b"data: " + BOM + b"a\n\n" + BOM + b"data: b\n\n", [ev(BOM + b"a")]),
    Stream("SSE-S1", "a mark may be all there is", BOM),
    Stream("SSE-S1", "two bytes of a mark are none",
           b"\xef\xbb\ndata: a\n\n", [ev(b"a")]),
    Stream("SSE-S1", "a mark before a line end", BOM + b"\n\ndata:a\n\n", [ev(b"a")]),
    Stream("SSE-S1", "what is no UTF-8 is replaced and harms nothing else",
           b"data: a\xffb\ndata: \xc3\n\ndata: c\n\n",
           [ev(b"a" + FFFD + b"b\n" + FFFD), ev(b"c")]),
    Stream("SSE-S1", "half a character is replaced once",
           b"data: \xe2\x82\ndata: \xf0\x9f\x98\n\n", [ev(FFFD + b"\n" + FFFD)]),
    Stream("SSE-S1", "an encoded surrogate is none, an overlong form is none",
           b"data: \xed\xa0\x80\xc0\xaf\n\n", [ev(FFFD * 5)]),
    Stream("SSE-S1", "types and ids are replaced as well",
           b"event: \xff\nid: \xff\ndata: a\n\n", [ev(b"a", FFFD, FFFD)], FFFD),
    Stream("SSE-S1", "characters of several bytes arrive whole",
           "data: žluťoučký \U0001f600\n\n".encode(), [ev("žluťoučký \U0001f600".encode())]),
    Stream("SSE-S2", "LF, CR and CRLF end lines",
           b"data: a\n\ndata: b\r\rdata: c\r\n\r\n", [ev(b"a"), ev(b"b"), ev(b"c")]),
    Stream("SSE-S2", "mixed as they come",
           b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\r\n\ndata: e\n\r",
           [ev(b"a\nb\nc"), ev(b"d"), ev(b"e")]),
    Stream("SSE-S2", "CRLF is one end: nothing is dispatched in its middle",
           b"data: a\r\ndata: b\r\n\r\n", [ev(b"a\nb")]),
    Stream("SSE-S2", "LF CR is two", b"data: a\n\rdata: b\n\n", [ev(b"a"), ev(b"b")]),
    Stream("SSE-S2", "nothing else ends a line",
           b"data: a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\0g\n\n",
           [ev(b"a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\0g")]),
    Stream("SSE-S3", "comments are no fields", b": hello\n:\n::data: a\ndata: a\n: data: b\n\n",
           [ev(b"a")], comments=4),
    Stream("SSE-S3", "one space is no part of the value",
           b"data:  a\ndata:b\ndata:\tc\ndata: \n\n", [ev(b" a\nb\n\tc\n")]),
    Stream("SSE-S3", "the first colon divides", b"data: a: b:c\nid: 1:2\n\n",
           [ev(b"a: b:c", b"1:2")], b"1:2"),
    Stream("SSE-S3", "a line without colon is a field without value",
           b"data\ndata\nid\nevent\n\n", [ev(b"\n", b"")]),
    Stream("SSE-S4", "data lines are joined, and one line end goes",
           b"data: a\ndata:\ndata: b\ndata:\n\n", [ev(b"a\n\nb\n")]),
    Stream("SSE-S4", "empty data is an event", b"data:\n\ndata\n\ndata: \n\n",
           [ev(b""), ev(b""), ev(b"")]),
    Stream("SSE-S4", "a priming event: an id and empty data", b"id: 1\ndata:\n\n",
           [ev(b"", b"1")], b"1"),
    Stream("SSE-S4", "no data, no event, but the id is taken", b"id: 1\n\n", [], b"1"),
    Stream("SSE-S4", "no data, and the type is forgotten",
           b"event: x\n\ndata: a\n\n", [ev(b"a")]),
    Stream("SSE-S4", "an id without data is not set by the next event",
           b"id: 1\n\ndata: a\n\n", [ev(b"a")], b"1"),
    Stream("SSE-S4", "blank lines alone are nothing", b"\n\r\n\r\n\n\r"),
    Stream("SSE-S5", "the type is of one event", b"event: x\ndata: a\n\ndata: b\n\n",
           [ev(b"a", event=b"x"), ev(b"b")]),
    Stream("SSE-S5", "the last type holds, and an empty one is message",
           b"event: x\nevent: y\ndata: a\n\nevent: x\nevent:\ndata: b\n\n",
           [ev(b"a", event=b"y"), ev(b"b")]),
    Stream("SSE-S5", "type and id may follow the data", b"data: a\nevent: x\nid: 1\n\n",
           [ev(b"a", b"1", b"x")], b"1"),
    Stream("SSE-S6", "an id lasts", b"id: 1\ndata: a\n\ndata: b\n\n",
           [ev(b"a", b"1"), ev(b"b")], b"1"),
    Stream("SSE-S6", "an empty one resets it", b"id: 1\ndata: a\n\nid\ndata: b\n\n",
           [ev(b"a", b"1"), ev(b"b", b"")]),
    Stream("SSE-S6", "one with NUL is ignored", b"id: 1\n\nid: a\0b\nid: \0\ndata: a\n\n",
           [ev(b"a")], b"1"),
    Stream("SSE-S6", "the last one of an event holds", b"id: 1\nid: 2\nid: \0\ndata: a\n\n",
           [ev(b"a", b"2")], b"2"),
    Stream("SSE-S6", "it is committed by the blank line", b"id: 1\ndata: a\n\nid: 2\ndata: b\n",
           [ev(b"a", b"1")], b"1"),
    Stream("SSE-S7", "retry is digits", b"retry: 1500\n\n", retry_ms=1500),
    Stream("SSE-S7", "anything else is ignored",
           b"retry: 1\nretry: -1\nretry: +1\nretry: 1.5\nretry: 1 \nretry:  1\nretry: 0x1\n"
           b"retry:\nretry\nretry: \xd9\xa1\nretry: 1_0\nretry: \xc2\xb2\n\n", retry_ms=1),
    Stream("SSE-S7", "leading zeros are digits", b"retry: 0010\n", retry_ms=10),
    Stream("SSE-S7", "it needs no blank line", b"retry: 7\n", retry_ms=7),
    Stream("SSE-S7", "eleven days and a half is as long as anybody waits",
           b"retry: 999999999\nretry: 1000000000\n\n", retry_ms=999_999_999),
    Stream("SSE-S7", "the event that it came with tells it", b"retry: 5\ndata: a\n\ndata: b\n\n",
           [Event(b"a", retry_ms=5), ev(b"b")], retry_ms=5),
    Stream("SSE-S8", "unknown fields are ignored",
           b"foo: 1\n foo\ndata : a\n data: a\nDATA: a\nEvent: x\nIDs: 1\n" + BOM + b": 1\n"
           b"data: b\n\n", [ev(b"b")]),
    Stream("SSE-S9", "an event that the end cuts off is discarded", b"data: a\n\ndata: b\n",
           [ev(b"a")]),
    Stream("SSE-S9", "a line that the end cuts off as well", b"data: a\n\ndata: b", [ev(b"a")]),
    Stream("SSE-S9", "half a line end ends the line", b"data: a\r\n\r", [ev(b"a")]),
]  # fmt: skip


def fed(pieces: Iterable[bytes], bytes_max: int = 1 << 20) -> tuple[SseDecoder, list[Event]]:
    decoder = SseDecoder(bytes_max)
    events: list[Event] = []
    for piece in pieces:
        if decoder.overflowed:
            break
        events += decoder.feed(piece)
    return decoder, events


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("stream", STREAMS, ids=str)
class TestStreams:
    """SSE-S1 to SSE-S9 (WHATWG HTML, "Interpreting an event stream"); MCP-H-13."""

    def check(self, stream: Stream, pieces: list[bytes]) -> None:
        decoder, events = fed(pieces)
        assert events == stream.events
        assert decoder.last_event_id == stream.last_event_id
        assert decoder.retry_ms == stream.retry_ms
        assert decoder.comments == stream.comments
        assert not decoder.overflowed

    def test_whole(self, stream: Stream) -> None:
        self.check(stream, [stream.data])

    def test_byte_by_byte(self, stream: Stream) -> None:
        self.check(stream, byte_by_byte(stream.data))

    def test_in_three_pieces_cut_anywhere(self, stream: Stream) -> None:
        """The one in the middle may be empty, or the LF of a CRLF."""
        data = stream.data
        for first in range(len(data) + 1):
            for second in (first, first + 1, first + 2):
                self.check(stream, [data[:first], data[first:second], data[second:]])

    def test_truncated_anywhere_yields_nothing_else(self, stream: Stream) -> None:
        """SSE-S9."""
        for cut in range(len(stream.data)):
            _, events = fed([stream.data[:cut]])
            assert events == stream.events[: len(events)], f"cut at {cut}"


def test_event_arrives_with_its_blank_line() -> None:
    """SSE-S2: with the CR, whose LF may never come, and not a byte earlier."""
    for end in (b"\n\n", b"\r\r", b"\r\n\r", b"\n\r"):
        decoder = SseDecoder(100)
        for byte in byte_by_byte(b"data: a" + end[:-1]):
            assert decoder.feed(byte) == []
        assert decoder.feed(end[-1:]) == [ev(b"a")]


def test_reader_that_reconnects_carries_its_id_over() -> None:
    """SSE-S6, SSE-S9: what to send as Last-Event-ID; the half event's id is not it."""
    decoder = SseDecoder(100, b"41")
    assert decoder.last_event_id == b"41"
    assert decoder.feed(b"data: a\n\n") == [ev(b"a")]
    assert decoder.last_event_id == b"41"
    decoder.feed(b"id: 42\ndata: b\n")
    assert decoder.last_event_id == b"41"
    decoder.feed(b"\n")
    assert decoder.last_event_id == b"42"


# Bounds (SSE-S12).


@pytest.mark.parametrize(
    "data",
    [
        b"data: %b\n\n", b":%b\n\n", b"foo%b\n\n", b"event:%b\n\n", b"id:%b\n\n",
        b"retry:%b\n\n", b"data: a\ndata:%b\n\n",
    ],
)  # fmt: skip
def test_line_and_event_are_bounded_exactly(data: bytes) -> None:
    """SSE-S12: by the lines of data with their names, and by each other line."""
    bytes_max = 100
    around = len((data % b"").replace(b"\n", b""))
    fits, exceeds = (
        b"data: 1\n\n" + data % (b"x" * (bytes_max - around + more)) + b"data: 2\n\n"
        for more in (0, 1)
    )
    for cut in range(len(exceeds) + 1):
        decoder, events = fed([fits[:cut], fits[cut:]], bytes_max)
        assert (events[0], events[-1], decoder.overflowed) == (ev(b"1"), ev(b"2"), False)
        decoder, events = fed([exceeds[:cut], exceeds[cut:]], bytes_max)
        assert (events, decoder.overflowed) == ([ev(b"1")], True), f"cut at {cut}"


def test_many_short_lines_are_one_large_event() -> None:
    """SSE-S12: empty ones too, or they would be kept for nothing."""
    for line in (b"data\n", b"data:\r\n", b"data: x\r"):
        decoder, events = fed([line * 1000], 1000)
        assert (events, decoder.overflowed) == ([], True)
    decoder, events = fed([b"data: xxxx\n\n" * 1000], 10)
    assert (len(events), decoder.overflowed) == (1000, False)


def test_replaced_bytes_count_as_what_they_become() -> None:
    """SSE-S1, SSE-S12: each becomes three."""
    decoder, events = fed([b"data: " + b"\xff" * 50 + b"\n\n"], 100)
    assert (events, decoder.overflowed) == ([], True)


def test_endless_line_is_given_up_when_it_is_too_long() -> None:
    """SSE-S12: not when it ends, and nothing of it is kept."""
    decoder = SseDecoder(10)
    assert decoder.feed(b"data: 4567") == []
    assert not decoder.overflowed
    assert decoder.feed(b"8") == []
    assert decoder.overflowed
    with pytest.raises(FrameTooLargeError):
        decoder.feed(b"\n\ndata: a\n\n")


def test_overflow_leaves_the_last_id_that_was_committed() -> None:
    """SSE-S6: a reader may resume before the event that was too large."""
    decoder, _ = fed([b"id: 1\ndata: a\n\nid: 2\ndata: %b\n\n" % (b"x" * 100)], 50)
    assert (decoder.overflowed, decoder.last_event_id) == (True, b"1")


def test_comments_are_free_of_the_bound_of_events() -> None:
    """SSE-S12: a stream may beat for ever."""
    decoder, events = fed([COMMENT_KEEPALIVE * 1000 + b"data: a\n\n"], 20)
    assert (decoder.comments, events) == (1000, [ev(b"a")])


LONG_LINE = byte_by_byte(b"data: " + b"x" * 20_000 + b"\n\n")


def test_work_is_linear_however_small_the_pieces() -> None:
    """SSE-S12: each byte is put away once and taken out once."""
    with metered(sse) as meter:
        _, events = fed(LONG_LINE)
    assert len(events) == 1
    assert len(LONG_LINE) <= meter.bytes_moved <= 4 * len(LONG_LINE)


@pytest.mark.parametrize(
    "defect",
    [
        Defect("a copy for each read", SseDecoder, "_lines",
               "self._partial += rest", "self._partial = self._partial + rest"),
        Defect("a search for each read", SseDecoder, "_lines",
               "self._partial += rest", "self._partial += rest; self._partial.splitlines()"),
    ],
    ids=str,
)  # fmt: skip
def test_quadratic_work_is_noticed(defect: Defect) -> None:
    with planted(defect), metered(sse) as meter:
        fed(LONG_LINE)
    assert meter.bytes_moved > 100 * len(LONG_LINE)


# The sender's side (SSE-S11).


@pytest.mark.parametrize(
    ("event", "encoded"),
    [
        (Event(b'{"a":1}'), b'event: message\ndata: {"a":1}\n\n'),
        (Event(b"", id=b"0-1"), b"event: message\nid: 0-1\ndata: \n\n"),
        (Event(b"a", retry_ms=0), b"event: message\nretry: 0\ndata: a\n\n"),
        (Event(b"a", b"x", b"", 15), b"event: x\nid: \nretry: 15\ndata: a\n\n"),
        (Event(b"a\nb"), b"event: message\ndata: a\ndata: b\n\n"),
        (Event(b"\n"), b"event: message\ndata: \ndata: \n\n"),
        (Event(b" a", b""), b"data:  a\n\n"),
    ],
)
def test_event_as_sent(event: Event, encoded: bytes) -> None:
    """SSE-S11, MCP-S-19, MCP-S-20: the id of a priming event, and the wait."""
    sent = encode_event(event.data, event=event.event, id=event.id, retry_ms=event.retry_ms)
    assert sent == encoded


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_line_ends_in_data_never_end_a_line_of_the_frame(end: bytes) -> None:
    """SSE-S11, THR-T21: a message behind one stays data."""
    data = end.join([b"{}", b"data: x", b"id: 1", b"", b"event: x", b""])
    decoder, events = fed([encode_event(data)])
    assert events == [ev(data.replace(end, b"\n"))]
    assert decoder.last_event_id == b""


@pytest.mark.parametrize("bad", [b"a\nb", b"a\rb", b"a\0b", b"\n", b"\r\n"])
def test_type_and_id_hold_no_line_end_and_no_nul(bad: bytes) -> None:
    """SSE-S11."""
    with pytest.raises(ValueError):
        encode_event(b"", event=bad)
    with pytest.raises(ValueError):
        encode_event(b"", id=bad)


def test_nobody_waits_for_less_than_nothing() -> None:
    """SSE-S7."""
    with pytest.raises(ValueError):
        encode_event(b"", retry_ms=-1)


def test_keepalive_is_a_comment_and_no_event() -> None:
    """MCP-H-14, HTTP-F9."""
    decoder, events = fed([encode_event(b"a"), COMMENT_KEEPALIVE, encode_event(b"b")])
    assert (events, decoder.comments) == ([ev(b"a"), ev(b"b")], 1)
