"""Serialisation: what is written reads back as what was meant, or is not written."""

from __future__ import annotations

import pytest

from proxy_actors.errors import FramingError
from proxy_actors.protocol.headers import Fields
from proxy_actors.protocol.http1_write import (
    CONTINUE,
    LAST_CHUNK,
    chunk,
    request_head,
    response_head,
)

DATE = b"Mon, 24 Nov 2025 04:00:00 GMT"


def test_request_head_is_written_in_our_version() -> None:
    """HTTP-F6, HTTP-F3: order kept."""
    fields = [(b"host", b"a:80"), (b"x-a", b"1"), (b"x-empty", b""), (b"x-a", b"2")]
    assert request_head(b"POST", b"/mcp?a=b", fields) == (
        b"POST /mcp?a=b HTTP/1.1\r\nhost: a:80\r\nx-a: 1\r\nx-empty: \r\nx-a: 2\r\n\r\n"
    )


def test_response_head_gets_a_date_if_it_has_none() -> None:
    """HTTP-F5."""
    assert response_head(200, [(b"a", b"b")], date=DATE) == (
        b"HTTP/1.1 200 OK\r\na: b\r\ndate: " + DATE + b"\r\n\r\n"
    )
    assert response_head(404, [(b"date", b"x")], date=DATE) == (
        b"HTTP/1.1 404 Not Found\r\ndate: x\r\n\r\n"
    )


def test_adding_a_date_leaves_the_callers_fields_alone() -> None:
    fields: Fields = []
    response_head(200, fields, date=DATE)
    assert fields == []


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (421, b"HTTP/1.1 421 Misdirected Request"),
        (431, b"HTTP/1.1 431 Request Header Fields Too Large"),
        (299, b"HTTP/1.1 299 "),
    ],
)
def test_reason_phrases(status: int, line: bytes) -> None:
    """RFC 9112 section 4: the space stays where the phrase is missing."""
    assert response_head(status, [], date=DATE).split(b"\r\n")[0] == line


@pytest.mark.parametrize("status", [0, 99, 600, 1000])
def test_status_out_of_range_is_not_written(status: int) -> None:
    with pytest.raises(FramingError):
        response_head(status, [], date=DATE)


@pytest.mark.parametrize(
    "field",
    [
        (b"a", b"b\r\nc: d"),
        (b"a", b"b\nc: d"),
        (b"a", b"b\rc: d"),
        (b"a", b"b\r\n"),
        (b"a", b"\0"),
        (b"a: b\r\nc", b"d"),
        (b"a: b", b"c"),
        (b"a ", b"c"),
        (b"a\0", b"c"),
        (b"\xe9", b"c"),
        (b"", b"c"),
    ],
)
def test_no_field_can_smuggle_another(field: tuple[bytes, bytes]) -> None:
    """HTTP-H9: response splitting, and its counterpart towards upstreams."""
    fields = [(b"host", b"a"), field, (b"x", b"y")]
    with pytest.raises(FramingError):
        response_head(200, fields, date=DATE)
    with pytest.raises(FramingError):
        request_head(b"GET", b"/", fields)
    with pytest.raises(FramingError):
        response_head(200, [], date=b"\r\n")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"", b"/"),
        (b"GET /", b"/"),
        (b"G\r\n", b"/"),
        (b"GET", b""),
        (b"GET", b"/a b"),
        (b"GET", b"/a\r\nx: y"),
        (b"GET", b"/\x7f"),
        (b"GET", b"/\xe9"),
    ],
)
def test_no_request_line_can_smuggle_another(method: bytes, target: bytes) -> None:
    """HTTP-H4."""
    with pytest.raises(FramingError):
        request_head(method, target, [])


def test_chunks() -> None:
    """HTTP-F7: no data is no chunk, since an empty one would end the body."""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert chunk(b"") == b""
    assert LAST_CHUNK == b"0\r\n\r\n"
    assert CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"
