"""The server side of HTTP/1.1: what the transcripts of tests/wire cannot say about the parser."""

from __future__ import annotations

import pytest

from proxy_actors.errors import INVALID_REQUEST, ConfigurationError, RefusedError
from proxy_actors.protocol.http1_request import HttpLimits, Request, RequestHead, RequestParser

GET = b"GET /mcp HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /mcp?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def parser_of(data: bytes, limits: HttpLimits = HttpLimits()) -> RequestParser:
    parser = RequestParser(limits)
    parser.feed(data)
    return parser


def taken(parser: RequestParser) -> Request:
    request = parser.take()
    assert request is not None
    return request


def refusal(parser: RequestParser) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        parser.take()
    return refused.value


def test_request_carries_all_that_was_sent() -> None:
    """HTTP-F3: names in lower case, values and order as sent."""
    request = taken(
        parser_of(
            b"POST /mcp?x=%20&y=[1] HTTP/1.1\r\nHost: A:80\r\nX-B: Two  words \r\n"
            b"x-b: 3\r\nContent-Length: 2\r\nX-Empty:\r\n\r\n{}"
        )
    )
    assert request.body == b"{}"
    assert request.head == RequestHead(
        method=b"POST",
        target=b"/mcp?x=%20&y=[1]",
        path=b"/mcp",
        query=b"x=%20&y=[1]",
        version=(1, 1),
        fields=[
            (b"host", b"A:80"),
            (b"x-b", b"Two  words"),
            (b"x-b", b"3"),
            (b"content-length", b"2"),
            (b"x-empty", b""),
        ],
        keep_alive=True,
        expects_continue=False,
        content_length=2,
        chunked=False,
        host=b"A:80",
    )


def test_authority_of_the_target_replaces_host() -> None:
    """HTTP-H5: everywhere, so that nobody downstream can look at the other one."""
    head = taken(
        parser_of(b"GET HTTP://b:8080?q=1 HTTP/1.1\r\nAccept: */*\r\nHost: a\r\n\r\n")
    ).head
    assert head.host == b"b:8080"
    assert head.fields == [(b"host", b"b:8080"), (b"accept", b"*/*")]
    assert (head.path, head.query) == (b"/", b"q=1")


def test_old_client_may_omit_host_and_never_persists() -> None:
    """HTTP-H5, HTTP-H15."""
    parser = parser_of(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET)
    head = taken(parser).head
    assert (head.version, head.host, head.keep_alive) == ((1, 0), b"", False)
    assert parser.take() is None
    assert not parser.mid_message


def test_pipelined_requests_wait_undecoded() -> None:
    """HTTP-H17: one is decoded ahead, the rest stays bytes, whatever one feed held."""
    parser = parser_of(GET * 1000)
    assert parser.queued == 1
    assert parser.body_bytes_buffered == len(GET) * 999
    for _ in range(1000):
        assert not parser.mid_message
        assert taken(parser).head.path == b"/mcp"
    assert parser.take() is None
    assert parser.queued == 0
    assert parser.body_bytes_buffered == 0


def test_refusal_comes_after_the_requests_before_it_and_once() -> None:
    """HTTP-H4, HTTP-H17."""
    parser = parser_of(GET + b"BAD\r\n\r\n" + GET)
    assert taken(parser).head.method == b"GET"
    assert parser.queued == 1
    error = refusal(parser)
    assert (error.status, error.code, error.close) == (400, INVALID_REQUEST, True)
    assert parser.take() is None
    parser.feed(GET)
    assert parser.take() is None
    assert not parser.mid_message


def test_nothing_is_decoded_after_stop() -> None:
    """HTTP-H18: not even what was queued."""
    parser = parser_of(GET + GET + b"GET /half")
    taken(parser)
    parser.stop()
    parser.feed(GET)
    assert parser.take() is None
    assert (parser.queued, parser.body_bytes_buffered, parser.mid_message) == (0, 0, False)


def test_stop_forgets_a_refusal() -> None:
    """HTTP-H18."""
    parser = parser_of(GET + b"BAD\r\n\r\n")
    taken(parser)
    parser.stop()
    assert parser.take() is None


def test_head_is_known_before_its_body() -> None:
    """HTTP-H19: so that the caller can send 100 (Continue) or refuse."""
    parser = parser_of(POST[:-5].replace(b"Content", b"Expect: 100-continue\r\nContent"))
    assert parser.head is not None
    assert parser.head.expects_continue
    assert parser.take() is None
    assert parser.mid_message
    parser.feed(b"hel")
    assert parser.body_bytes_buffered == 3
    parser.feed(b"lo")
    assert parser.head is None
    assert taken(parser).body == b"hello"


def test_head_of_a_later_request_waits_for_its_turn() -> None:
    """HTTP-H17, HTTP-H19: 100 (Continue) must not overtake the answer before it."""
    parser = parser_of(GET + POST[:-5])
    assert parser.head is None
    taken(parser)
    assert parser.head is not None
    assert parser.head.method == b"POST"


@pytest.mark.parametrize(
    ("expect", "version", "length", "expected"),
    [
        (b"100-continue", b"1.1", b"5", True),
        (b"100-CONTINUE", b"1.1", b"5", True),
        (b"100-continue", b"1.1", b"0", False),
        (b"100-continue", b"1.0", b"5", False),
        (b"", b"1.1", b"5", False),
    ],
)
def test_expectation_holds_for_bodies_of_new_clients_only(
    expect: bytes, version: bytes, length: bytes, expected: bool
) -> None:
    """HTTP-H19."""
    head = b"POST / HTTP/%s\r\nHost: a\r\nExpect: %s\r\nContent-Length: %s\r\n\r\n"
    parser = parser_of(head % (version, expect, length))
    seen = parser.head or taken(parser).head
    assert seen.expects_continue is expected


def test_chunked_body_with_expectation_is_waited_for() -> None:
    """HTTP-H19."""
    parser = parser_of(CHUNKED.replace(b"Transfer", b"Expect: 100-continue\r\nTransfer"))
    assert parser.head is not None
    assert parser.head.expects_continue
    assert parser.head.chunked
    assert parser.head.content_length is None


def test_unsupported_coding_is_answered_with_what_is_supported() -> None:
    """HTTP-H21: RFC 9110 section 15.5.16 lets the answer name the codings."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: %s\r\nContent-Length: 1\r\n\r\n1"
    error = refusal(parser_of(head % b"identity, br"))
    assert (error.status, error.headers) == (415, ((b"accept-encoding", b"identity"),))
    assert taken(parser_of(head % b"Identity")).body == b"1"


def test_body_limit_counts_what_is_announced() -> None:
    """HTTP-H16: refused at the head or at the size of a chunk, before the bytes arrive."""
    limits = HttpLimits(body_bytes_max=5)
    assert taken(parser_of(POST, limits)).body == b"hello"
    assert refusal(parser_of(POST.replace(b": 5", b": 6")[:-5], limits)).status == 413
    assert taken(parser_of(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", limits)).body == b"abcde"
    assert refusal(parser_of(CHUNKED + b"3\r\nabc\r\n3\r\n", limits)).status == 413


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_bounds_of_a_head_are_exact_in_pieces_of_any_size(step: int) -> None:
    """HTTP-F8, HTTP-H6: the largest head passes, one byte more does not."""
    limits = HttpLimits(
        start_line_bytes_max=20, field_bytes_max=30, head_bytes_max=80, fields_max=3
    )

    def outcome(target_bytes: int, *value_bytes: int) -> int:
        lines = [b"GET /%s HTTP/1.1" % (b"t" * (target_bytes - 1)), b"Host:a"]
        lines += [b"X:" + b"v" * count for count in value_bytes]
        data = b"\r\n".join([*lines, b"", b""])
        parser = RequestParser(limits)
        for at in range(0, len(data), step):
            parser.feed(data[at : at + step])
        try:
            return 200 if parser.take() else 0
        except RefusedError as error:
            return error.status

    assert outcome(5, 0) == 200
    assert outcome(6, 0) == 414
    assert outcome(1, 28) == 200
    assert outcome(1, 29) == 431
    assert outcome(1, 28, 18) == 200
    assert outcome(1, 28, 19) == 431
    assert outcome(1, 1, 1) == 200
    assert outcome(1, 1, 1, 1) == 431


def test_no_more_of_an_endless_head_is_held_than_its_bound() -> None:
    """HTTP-F8: httptools alone would keep all of a value that comes in pieces."""
    limits = HttpLimits()
    parser = parser_of(b"GET / HTTP/1.1\r\nX: ", limits)
    held_bytes = 0
    while not parser.queued:
        parser.feed(b"aaa")
        held_bytes = max(held_bytes, parser.body_bytes_buffered)
    assert held_bytes < limits.head_bytes_max
    assert refusal(parser).status == 431
    assert parser.body_bytes_buffered == 0


def test_body_in_tiny_chunks_is_held_as_its_bytes() -> None:
    """HTTP-H13: an object a chunk would multiply the memory that a client can claim."""
    parser = parser_of(CHUNKED)
    for _ in range(100):
        parser.feed(b"2\r\nab\r\n" * 10)
    assert parser.body_bytes_buffered == 2000
    assert parser.queued == 0


def test_pipelined_half_request_is_mid_message() -> None:
    """For the end of input and 408: an empty line alone is no request begun."""
    parser = parser_of(GET + b"\r\n")
    taken(parser)
    assert not parser.mid_message
    parser.feed(b"G")
    assert parser.mid_message


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="fields_max"):
        HttpLimits(fields_max=0)
