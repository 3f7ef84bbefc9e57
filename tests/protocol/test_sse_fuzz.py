"""Event streams against two other readers: the standard's text as a program, and sseclient-py.

sseclient-py reads well-formed streams as we do. Where it does not (RELIABILITY 2.2), both readings
stand in a test of their own, so that whoever relies on it knows, and hears when it changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
import sseclient
from hypothesis import given
from hypothesis import strategies as st

from proxy_actors.protocol import sse
from proxy_actors.protocol.sse import Event, SseDecoder, encode_event
from tests.defects import Defect, planted

SEEDS = range(3000)
BYTES_MAX = 1 << 20

# Events, and id, retry and comments at the end of input.
Reading = tuple[list[Event], bytes, int | None, int]

LINES = (
    b"data: a", b"data:b", b"data", b"data:", b"data:  c: d", b"event: x", b"event", b"event:y",
    b"id: 1", b"id:2", b"id", b"id: \0", b"id: 3\0", b"retry: 5", b"retry:-5", b"retry: 5 ",
    b"retry", b": c", b":", b"", b"", b"", b"foo: bar", b"foo", b" data: e", b"data : f",
    b"DATA: g", "data: ž\u2028\x85".encode(), b"data: \xff", b"data: \xe2\x82",
    b"\xef\xbb\xbfdata: h", b"\xef",
    # Whole events, as most servers write them.
    *(b"data: p\n", b"id: 4\ndata: q\n", b"event: message\nid:\ndata: r\n", b"data: \xff\n") * 2,
    *(b"id: 6\r\nevent: message\r\ndata: s\r\n", b"event: message\ndata: t\n") * 2,
)  # fmt: skip
# Pieces of streams; a short way that begins in the wrong place reads the last one otherwise.
PIECES = (
    (b"data: a\n", b"data: p\r\n\r\n"),
    (b"data: a\n\n:", b"data: p\r\n\r\n"),
    (b"data: p\n\n", b"\xef\xbb\xbfdata: h\n\n"),
    (b"data: a\n\ndata: b\n", b"\ndata: p\n\n"),
    (b"data: a\r\n\r", b"\ndata: p\n\n"),
)
ENDS = (b"\n", b"\n", b"\r\n", b"\r")
WELL_FORMED = (
    b"data: a", b"data:b", b"data:  c: d", b"data: {}", b"event: x", b"event:y", b"id: 1", b"id:2",
    b"retry: 5", b": c", b":", b"foo: bar", b"foo", "data: ž".encode(),
)  # fmt: skip


def stream(seed: int) -> bytes:
    """Return lines in any order, with any ends, behind a byte order mark or half of one or none."""
    chance = Random(seed)
    mark = chance.choice((b"", b"", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef\xbb\xbf\xef\xbb\xbf"))
    lines = (chance.choice(LINES) + chance.choice(ENDS) for _ in range(chance.randint(0, 12)))
    data = mark + b"".join(lines)
    return data[: chance.randint(0, len(data))] if chance.random() < 0.2 else data


def interpret(data: bytes) -> Reading:
    """Read a whole stream as WHATWG HTML words it, with no thought of time or memory."""
    text = data.decode(errors="replace").removeprefix("\ufeff")
    *lines, _ = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events: list[Event] = []
    buffer, kind, last, committed, comments = "", "", "", "", 0
    retry = of_event = own = None
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            committed = last
            if buffer:
                told = None if own is None else own.encode()
                data = buffer.removesuffix("\n").encode()
                events.append(Event(data, (kind or "message").encode(), told, of_event))
            buffer, kind, of_event, own = "", "", None, None
        elif line.startswith(":"):
            comments += 1
        elif name == "data":
            buffer += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last = own = value
        elif name == "retry" and value.isascii() and value.isdigit():
            retry = of_event = int(value)
    return events, committed.encode(), retry, comments


def decoded(pieces: Iterable[bytes]) -> Reading:
    decoder = SseDecoder(BYTES_MAX)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    assert not decoder.overflowed
    return events, decoder.last_event_id, decoder.retry_ms, decoder.comments


def split(data: bytes, seed: int) -> list[bytes]:
    chance = Random(seed)
    cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(0, 6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def is_misread(seed: int) -> bool:
    data = stream(seed)
    ways = (split(data, seed), [data[at : at + 1] for at in range(len(data))])
    return any(decoded(pieces) != interpret(data) for pieces in ways)


def test_streams_are_read_as_the_standard_reads_them() -> None:
    """SSE-S1 to SSE-S9, however the bytes arrive."""
    assert [f"stream({seed})" for seed in SEEDS if is_misread(seed)] == []
    assert [pieces for pieces in PIECES if decoded(pieces) != interpret(b"".join(pieces))] == []


@given(st.binary(max_size=60), st.integers(0, 1000))
def test_any_bytes_are_read_as_the_standard_reads_them(data: bytes, seed: int) -> None:
    assert decoded(split(data, seed)) == interpret(data)


@given(st.binary(max_size=60), st.integers(0, 1000), st.integers(3, 30))
def test_overflow_comes_at_the_same_event_however_the_bytes_are_split(
    data: bytes, seed: int, bytes_max: int
) -> None:
    """SSE-S12."""

    def bounded(pieces: list[bytes]) -> tuple[list[Event], bool]:
        decoder = SseDecoder(bytes_max)
        events: list[Event] = []
        for piece in pieces:
            if not decoder.overflowed:
                events += decoder.feed(piece)
        return events, decoder.overflowed

    data += b"\ndata: a\n\n"
    assert bounded(split(data, seed)) == bounded([data])


TEXTS = st.text(max_size=20).map(str.encode)
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=8
).map(str.encode)
SENT = st.builds(
    Event, TEXTS, NAMES, st.none() | NAMES, st.none() | st.integers(0, 999_999_999)
)  # fmt: skip


@given(st.lists(SENT, max_size=4), st.integers(0, 1000))
def test_events_are_read_as_they_were_sent(sent: list[Event], seed: int) -> None:
    """SSE-S11: data with its line ends read as LF, the empty type as message."""
    data = b"".join(
        encode_event(event.data, event=event.event, id=event.id, retry_ms=event.retry_ms)
        for event in sent
    )
    events, last_event_id, _, _ = decoded(split(data, seed))
    for event, read in zip(sent, events, strict=True):
        assert read.data == event.data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        assert read.event == (event.event or b"message")
        assert (read.id, read.retry_ms) == (event.id, event.retry_ms)
    assert last_event_id == next((e.id for e in reversed(sent) if e.id is not None), b"")


DEFECTS = [
    Defect("a mark is kept", SseDecoder, "_without_mark",
           "beginning.removeprefix(_BYTE_ORDER_MARK)", "beginning"),
    Defect("a mark cut in two is kept", SseDecoder, "_without_mark",
           "len(beginning) < len(_BYTE_ORDER_MARK)", "False"),
    Defect("every mark is dropped", SseDecoder, "_without_mark", "self._at_start = False", ""),
    Defect("LF after CR is a line", SseDecoder, "_lines",
           r'data = data.removeprefix(b"\n")', ""),
    Defect("an LF is swallowed later", SseDecoder, "_lines", "self._after_cr = False", ""),
    Defect("the short way begins within an event", SseDecoder, "feed",
           "self._in_event\n", "False\n"),
    Defect("the short way begins within a line", SseDecoder, "feed", "or self._partial\n", "\n"),
    Defect("the short way begins with a mark", SseDecoder, "feed", "or self._at_start\n", "\n"),
    Defect("the short way takes any bytes", SseDecoder, "_read_plain",
           "or not data.isascii()", ""),
    Defect("the short way forgets ids", SseDecoder, "_read_plain",
           "self._id_seen = self.last_event_id = id", "pass"),
    Defect("ids are told too early", SseDecoder, "_read_plain",
           "self._id_seen = self.last_event_id = id", "self.last_event_id = id"),
    Defect("an event has the id of the one before", SseDecoder, "_read_plain",
           'Event(text, b"message", id)', 'Event(text, b"message", id or self._id_seen or None)'),
    Defect("two spaces go", SseDecoder, "_read_line",
           'line[colon + 1 + line.startswith(b" ", colon + 1):]', "line[colon + 1:].lstrip()"),
    Defect("no data, no id", SseDecoder, "_dispatch",
           "self.last_event_id = self._id_seen",
           "self.last_event_id = self._id_seen if self._data else self.last_event_id"),
    Defect("an id is committed at once", SseDecoder, "_read_line",
           "self._id_seen = self._event_id = value",
           "self._id_seen = self._event_id = self.last_event_id = value"),
    Defect("an id may hold NUL", SseDecoder, "_read_line", r'b"\0" not in value', "True"),
    Defect("no data is an event", SseDecoder, "_dispatch", "if self._data:", "if True:"),
    Defect("empty data is none", SseDecoder, "_dispatch",
           "if self._data:", "if any(self._data):"),
    Defect("types last", SseDecoder, "_reset_event", 'self._event = b""', ""),
    Defect("ids are of every later event", SseDecoder, "_reset_event", "self._event_id = None", ""),
    Defect("retry is a number", SseDecoder, "_read_line",
           "value.isdigit()", "value.strip(b' -').isdigit()"),
    Defect("what is no UTF-8 stays", sse, "_valid_utf8",
           'line.decode(errors="replace").encode()', "line"),
    Defect("names are of any case", SseDecoder, "_read_line",
           "name = line[:colon]", "name = line[:colon].lower()"),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert any(decoded(pieces) != interpret(b"".join(pieces)) for pieces in PIECES) or any(
            is_misread(seed) for seed in SEEDS
        )


# sseclient-py.

TheirEvent = tuple[str, str, str | None, str | None]


def theirs(pieces: Iterable[bytes]) -> list[TheirEvent]:
    client = sseclient.SSEClient(pieces)
    return [(event.event, event.data, event.id, event.retry) for event in client.events()]


def ours(pieces: Iterable[bytes]) -> list[TheirEvent]:
    events, _, _, _ = decoded(pieces)
    return [
        (
            event.event.decode(),
            event.data.decode(),
            None if event.id is None else event.id.decode(),
            None if event.retry_ms is None else str(event.retry_ms),
        )
        for event in events
    ]


def well_formed(seed: int) -> bytes:
    """Return events that have data, each ended by a blank line of the ends of the stream."""
    chance = Random(seed)
    end = chance.choice((b"\n", b"\r\n", b"\r"))
    events = []
    for _ in range(chance.randint(0, 4)):
        lines = [chance.choice(WELL_FORMED) for _ in range(chance.randint(0, 5))]
        lines.insert(chance.randint(0, len(lines)), b"data: {}")
        events += [*lines, b""]
    return b"".join(line + end for line in events)


def test_well_formed_streams_are_read_as_by_sseclient() -> None:
    """RELIABILITY 2.2: whole, byte by byte and split at random, each reader in its own way."""
    for seed in SEEDS:
        data = well_formed(seed)
        expected = theirs([data])
        for pieces in ([data], split(data, seed), [data[at : at + 1] for at in range(len(data))]):
            assert ours(pieces) == expected, f"well_formed({seed})"
            assert theirs(filter(None, pieces)) == expected, f"well_formed({seed})"


# What means something to one reader of text or another, and ends no line of a stream.
WORDS = st.text(" :{}\"\ta\x0b\x0c\x1c\x85\u2028\ufeff\U0001f600", max_size=6)
FIELDS = st.one_of(
    st.tuples(st.sampled_from(("data", "event", "id")), WORDS),
    st.tuples(st.just("retry"), st.integers(0, 999_999_999).map(str)),
    st.tuples(st.sampled_from(("", "foo", "Data", "event ")), WORDS),
)
LINE = st.builds(
    lambda field, space: f"{field[0]}:{space}{field[1]}", FIELDS, st.sampled_from(("", " "))
)  # fmt: skip
BLOCK = st.tuples(st.lists(LINE, max_size=5), WORDS.map("data: {}".format), st.integers(0, 5))


@given(st.lists(BLOCK, max_size=4), st.sampled_from(("\n", "\r", "\r\n")), st.integers(0, 1000))
def test_any_well_formed_stream_is_read_as_by_sseclient(
    blocks: list[tuple[list[str], str, int]], end: str, seed: int
) -> None:
    """SSE-S2 to SSE-S8: any text in any field, in any order, with any line end."""
    lines = [line for head, data, at in blocks for line in (*head[:at], data, *head[at:], "")]
    stream = "".join(line + end for line in lines).encode()
    pieces = split(stream, seed)
    assert ours(pieces) == theirs(filter(None, pieces)) == theirs([stream])


def test_what_is_sent_is_read_by_sseclient() -> None:
    """SSE-S11: one event a piece, as our streams are flushed."""
    sent = [
        encode_event(b'{"a":1}'),
        encode_event(b"a\r\nb\n", event=b"x", id=b"0-1", retry_ms=15),
        encode_event("ž".encode(), event=b"", id=b"0-2"),
    ]
    assert theirs(sent) == ours(sent) == [
        ("message", '{"a":1}', None, None),
        ("x", "a\nb\n", "0-1", "15"),
        ("message", "ž", "0-2", None),
    ]


DIVERGENCES: dict[str, tuple[bytes, list[TheirEvent], list[TheirEvent]]] = {
    "SSE-S1: the mark hides the first line": (
        b"\xef\xbb\xbfdata: a\n\ndata: b\n\n",
        [("message", "b", None, None)],
        [("message", "a", None, None), ("message", "b", None, None)],
    ),
    "SSE-S2: mixed ends of an event are none": (
        b"data: a\n\rdata: b\n\n",
        [("message", "a\nb", None, None)],
        [("message", "a", None, None), ("message", "b", None, None)],
    ),
    "SSE-S6: an id with NUL is taken": (
        b"id: a\0b\ndata: a\n\n",
        [("message", "a", "a\0b", None)],
        [("message", "a", None, None)],
    ),
    "SSE-S7: retry is any text": (
        b"retry: soon\ndata: a\n\n",
        [("message", "a", None, "soon")],
        [("message", "a", None, None)],
    ),
    "SSE-S9: half an event is dispatched at the end": (
        b"data: a\n\ndata: {",
        [("message", "a", None, None), ("message", "{", None, None)],
        [("message", "a", None, None)],
    ),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_sseclient_reads_otherwise(name: str) -> None:
    """RELIABILITY 2.2: its reading, then ours."""
    data, read_by_them, read_by_us = DIVERGENCES[name]
    assert theirs([data]) == read_by_them
    assert ours([data]) == read_by_us


def test_sseclient_ends_with_the_first_bad_byte() -> None:
    """SSE-S1: the rest of the stream is lost with it."""
    data = b"data: \xff\n\ndata: b\n\n"
    with pytest.raises(UnicodeDecodeError):
        theirs([data])
    assert [event[1] for event in ours([data])] == ["\ufffd", "b"]


def test_sseclient_loses_what_comes_without_data() -> None:
    """SSE-S4, SSE-S7: an id to resume from and a time to wait, and comments with them."""
    data = b"id: 1\nretry: 5\n\n: beat\n\n"
    assert theirs([data]) == []
    assert decoded([data]) == ([], b"1", 5, 1)


def test_sseclient_has_no_bound() -> None:
    """SSE-S12."""
    data = b"data: %b\n\n" % (b"x" * 100_000)
    assert len(theirs([data])) == 1
    decoder = SseDecoder(1000)
    assert (decoder.feed(data), decoder.overflowed) == ([], True)
