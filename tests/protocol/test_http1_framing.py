"""What is checked although httptools checks it too: each check must hold without the other."""

from __future__ import annotations

import httptools
import pytest

from proxy_actors.errors import FailedError, FramingError, RefusedError
from proxy_actors.protocol import http1_request, http1_response
from proxy_actors.protocol.http1_framing import (
    ChunkedBody,
    HttpLimits,
    ends_in_chunked,
    read_fields,
)

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n"


class LenientParser(httptools.HttpRequestParser):
    """An httptools that lets line folding and bare line ends pass."""

    def __init__(self, protocol: object) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_lf_after_cr=True,
            lenient_optional_cr_before_lf=True,
        )  # fmt: skip


class CredulousParser:
    """Takes any line with a colon for a field, and no interest in what it says."""

    def __init__(self, sink: httptools.HTTPProtocol) -> None:
        self._sink = sink

    def feed_data(self, head: bytes) -> None:
        for line in head.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b": ")
            self._sink.on_header(name, value)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: +5"],
        [b"Content-Length: 5_0"],
        [b"Content-Length: 5", b"Content-Length: 5"],
        [b"Content-Length: "],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    ],
)
def test_no_ambiguous_length_passes_on_the_word_of_httptools(
    monkeypatch: pytest.MonkeyPatch, lines: list[bytes]
) -> None:
    """HTTP-H10, HTTP-H11, HTTP-H12."""
    monkeypatch.setattr(http1_request, "HttpRequestParser", CredulousParser)
    monkeypatch.setattr(http1_response, "HttpResponseParser", CredulousParser)
    rest = b"\r\n".join([b"Host: a", *lines, b"", b"hello"])
    requests = http1_request.RequestParser(HttpLimits())
    requests.feed(b"POST / HTTP/1.1\r\n" + rest)
    with pytest.raises(RefusedError):
        requests.take()
    response = http1_response.ResponseParser(HttpLimits(), b"POST")
    with pytest.raises(FailedError):
        response.feed(b"HTTP/1.1 200 OK\r\n" + rest)


@pytest.mark.parametrize("parser", [httptools.HttpRequestParser, LenientParser])
@pytest.mark.parametrize("ending", [b"\r\n c", b"\nc: d", b"\r\n\tc"])
def test_every_line_of_a_head_is_one_field(
    parser: type[httptools.HttpRequestParser], ending: bytes
) -> None:
    """HTTP-H1, HTTP-H8: whatever httptools makes of a line, it counts as a line."""
    assert read_fields(parser, HEAD, 100) == [(b"host", b"a"), (b"x-a", b"b")]
    with pytest.raises(FramingError):
        read_fields(parser, HEAD.replace(b"b\r\n", b"b" + ending + b"\r\n"), 100)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"", 400),
        (b"chunked, chunked", 400),
        (b"gzip", 400),
        (b"chunked, gzip", 400),
        (b"chunked, gzip, chunked", 400),
        (b"gzip, chunked", 501),
        (b"identity, Chunked", 501),
        (b"chunked;a=b", 400),
    ],
)
def test_only_chunked_alone_is_decoded(value: bytes, status: int) -> None:
    """HTTP-H11."""
    with pytest.raises(FramingError) as error:
        ends_in_chunked(value)
    assert error.value.status == status


@pytest.mark.parametrize("value", [b"chunked", b"CHUNKED", b",chunked ,"])
def test_chunked_is_known_in_any_case(value: bytes) -> None:
    """HTTP-H11; empty members of a list count for nothing (RFC 9110 section 5.6.1)."""
    assert ends_in_chunked(value)


def test_decoder_leaves_what_is_behind_the_body() -> None:
    """HTTP-H17."""
    chunks = ChunkedBody(HttpLimits(), None)
    buffer = bytearray(b"2\r\nab\r\n0\r\nX: y\r\n\r\nGET /")
    body = bytearray()
    chunks.decode(buffer, body)
    assert (bytes(body), bytes(buffer)) == (b"ab", b"GET /")
    assert chunks.complete
    assert chunks.body_bytes == 2
    chunks.decode(buffer, body)
    assert buffer == b"GET /"
