"""The client side of HTTP/1.1: what the transcripts of tests/wire cannot say about the parser."""

from __future__ import annotations

import pytest

from proxy_actors.errors import Executed, FailedError, Reason
from proxy_actors.protocol.http1_framing import HttpLimits
from proxy_actors.protocol.http1_response import INTERIM_RESPONSES_MAX, ResponseParser

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def parser_of(data: bytes, method: bytes = b"POST") -> ResponseParser:
    parser = ResponseParser(HttpLimits(), method)
    parser.feed(data)
    return parser


def failure(parser: ResponseParser, data: bytes) -> FailedError:
    with pytest.raises(FailedError) as failed:
        parser.feed(data)
    return failed.value


def test_head_carries_all_that_was_sent() -> None:
    """HTTP-F3: names in lower case, order kept."""
    head = parser_of(
        b"HTTP/1.1 404 Not Found\r\nX-A: 1 \r\nKeep-Alive: timeout=5, max=10\r\nx-a: 2\r\n"
        b"Content-Length: 7\r\n\r\n"
    ).head
    assert head is not None
    assert (head.status, head.content_length, head.chunked) == (404, 7, False)
    assert head.fields == [
        (b"x-a", b"1"),
        (b"keep-alive", b"timeout=5, max=10"),
        (b"x-a", b"2"),
        (b"content-length", b"7"),
    ]
    assert head.keep_alive
    assert head.keep_alive_timeout_s == 5.0


@pytest.mark.parametrize(
    ("fields", "media_type"),
    [
        (b"Content-Type: Text/Event-Stream;charset=utf-8\r\n", b"text/event-stream"),
        (b"content-type: application/json \r\n", b"application/json"),
        (b"", b""),
        (b"Content-Type: a/b\r\nContent-Type: text/event-stream\r\n", b"a/b, text/event-stream"),
    ],
)
def test_media_type_is_read_without_parameters(fields: bytes, media_type: bytes) -> None:
    """SSE-S10, MCP-H-10: two are none."""
    head = parser_of(b"HTTP/1.1 200 OK\r\n%s\r\n" % fields).head
    assert head is not None
    assert head.media_type == media_type


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        (b"timeout=5", 5.0),
        (b"max=100, Timeout = 60", 60.0),
        (b"timeout=", None),
        (b"xtimeout=5", None),
        (b"timeout=5s", None),
        (b"timeout=9999999999", None),
        (b"", None),
    ],
)
def test_keep_alive_timeout(value: bytes, expected_s: float | None) -> None:
    head = parser_of(b"HTTP/1.1 204 N\r\nKeep-Alive: %s\r\n\r\n" % value).head
    assert head is not None
    assert head.keep_alive_timeout_s == expected_s


def test_events_are_there_as_soon_as_their_bytes_are() -> None:
    """HTTP-F9: half a chunk is delivered too, and taken once."""
    parser = parser_of(STREAM)
    assert parser.head is not None
    assert parser.take_body() == b""
    parser.feed(b"9\r\ndata")
    assert parser.take_body() == b"data"
    parser.feed(b": a\n\n\r\n2\r\n\n\n\r\n")
    assert parser.take_body() == b": a\n\n\n\n"
    assert parser.take_body() == b""
    assert (parser.body_bytes, parser.complete, parser.reusable) == (11, False, False)
    parser.feed(b"0\r\n\r\n")
    assert parser.complete
    assert parser.reusable


def test_no_more_than_the_stated_length_is_body() -> None:
    """FLT-N11: extra bytes are never matched to the next request, in whichever feed they come."""
    together = parser_of(JSON + b"X")
    apart = parser_of(JSON)
    assert apart.reusable
    apart.feed(b"X")
    for parser in (together, apart):
        assert parser.take_body() == b"{}"
        assert parser.complete
        assert not parser.reusable


def test_close_after_a_complete_response_is_no_failure() -> None:
    """HTTP-F7; but the connection carries nothing more."""
    parser = parser_of(JSON)
    parser.end_of_input()
    assert parser.complete
    assert not parser.reusable


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", JSON[:-1], STREAM])
def test_close_before_the_end_is_a_failure_of_unknown_effect(data: bytes) -> None:
    """HTTP-F7: the body that came can be taken, but is never complete."""
    parser = parser_of(data)
    assert parser.started == bool(data)
    with pytest.raises(FailedError) as failed:
        parser.end_of_input()
    assert failed.value.reason is Reason.UPSTREAM_CLOSED
    assert failed.value.executed is Executed.UNKNOWN
    assert not failed.value.retryable
    assert not parser.complete
    assert not parser.reusable


def test_syntax_error_is_a_failure_of_unknown_effect_and_ends_the_parser() -> None:
    """HTTP-F8: 502."""
    parser = parser_of(STREAM)
    error = failure(parser, b"2\r\nhi\r\nzz\r\n")
    assert (error.reason, error.status) == (Reason.UPSTREAM_PROTOCOL, 502)
    assert error.executed is Executed.UNKNOWN
    assert parser.take_body() == b"hi"
    parser.feed(b"0\r\n\r\n")
    parser.end_of_input()
    assert not parser.complete
    assert not parser.reusable


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 102 Processing\r\n\r\n"])
@pytest.mark.parametrize("garbage", [b"\0", b"HTTP/2", b"h", b" ", b"HTTP/1/"])
def test_what_can_never_become_a_head_is_refused_at_once(garbage: bytes, before: bytes) -> None:
    """HTTP-F8: whoever says that says no more, and no line of it may ever end."""
    parser = parser_of(before)
    for byte in garbage[:-1]:
        parser.feed(bytes([byte]))
    assert failure(parser, garbage[-1:]).reason is Reason.UPSTREAM_PROTOCOL


def test_head_may_come_byte_by_byte() -> None:
    parser = parser_of(b"")
    for byte in b"HTTP/1.1 102 Processing\r\n\r\n" + JSON:
        parser.feed(bytes([byte]))
    assert parser.complete


def test_interim_responses_are_bounded() -> None:
    """HTTP-H19."""
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    assert parser_of(interim * INTERIM_RESPONSES_MAX + JSON).complete
    failure(parser_of(b""), interim * (INTERIM_RESPONSES_MAX + 1) + JSON)


def test_content_coding_passes_untouched() -> None:
    """FLT-N20: nothing here inflates what an upstream sends."""
    parser = parser_of(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08"
    )
    assert parser.take_body() == b"\x1f\x8b\x08"


def test_upgrade_offered_in_passing_is_ignored() -> None:
    """HTTP-H20."""
    data = JSON.replace(b"\r\n", b"\r\nUpgrade: h2c\r\nConnection: upgrade\r\n", 1)
    assert parser_of(data).take_body() == b"{}"
