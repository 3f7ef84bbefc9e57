"""Header fields: look-up, hop-by-hop rules (HTTP-F1), Accept (MCP-H-7), Retry-After."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_actors.errors import RefusedError
from proxy_actors.protocol.headers import (
    Fields,
    accepts,
    all_of,
    combined,
    first,
    forwardable,
    media_type,
    members,
    retry_after_s,
)

BOTH = b"application/json, text/event-stream"
END_TO_END = [
    b"authorization", b"Content-Type", b"content-length", b"Mcp-Session-Id", b"mcp-param-x",
    b"MCP-Protocol-Version", b"X-Forwarded-For", b"x-forwarded-host", b"x-real-ip", b"host",
    b"COOKIE", b"set-cookie", b"origin", b"forwarded", b"via", b"last-event-id", b"traceparent",
]  # fmt: skip


def test_look_up_keeps_the_order_of_the_wire() -> None:
    """HTTP-F3."""
    fields = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert first(fields, b"a") == b"1"
    assert first(fields, b"c") is None
    assert all_of(fields, b"a") == [b"1", b"3"]
    assert all_of(fields, b"c") == []


def test_lines_of_one_name_combine_into_one_list() -> None:
    fields = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert combined(fields) == {b"a": b"1, 3", b"b": b"2"}


def test_members_of_a_list_are_lower_case_and_never_empty() -> None:
    assert members(b" Close ,,\tX-Hop,") == (b"close", b"x-hop")
    assert members(b"") == ()


def test_fields_of_the_hop_are_removed_and_the_rest_keeps_its_order() -> None:
    """HTTP-F1, HTTP-F3, HTTP-H14, HTTP-H19, HTTP-H20."""
    fields = [
        (b"host", b"a"),
        (b"x-unknown", b"1"),
        (b"connection", b"keep-alive, X-Hop"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"proxy-authorization", b"Basic x"),
        (b"proxy-authenticate", b"Basic"),
        (b"te", b"trailers"),
        (b"trailer", b"x-check"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"5"),
        (b"upgrade", b"h2c"),
        (b"expect", b"100-continue"),
        (b"x-hop", b"1"),
        (b"connection", b"X-Other"),
        (b"x-other", b"1"),
        (b"mcp-param-city", b"Bern"),
        (b"x-unknown", b"2"),
    ]
    kept = [
        (b"host", b"a"), (b"x-unknown", b"1"), (b"mcp-param-city", b"Bern"), (b"x-unknown", b"2"),
    ]  # fmt: skip
    assert forwardable(fields) == kept


@pytest.mark.parametrize("name", END_TO_END)
def test_nominating_an_end_to_end_field_is_refused(name: bytes) -> None:
    """HTTP-F1: present or not, on whichever line of Connection."""
    fields = [(b"connection", b"close"), (b"connection", b"x-hop , " + name)]
    with pytest.raises(RefusedError) as refused:
        forwardable(fields)
    assert refused.value.status == 400
    assert refused.value.close


def test_media_type_ignores_case_and_parameters() -> None:
    """MCP-H-10."""
    assert media_type(b"Application/JSON ; charset=utf-8") == b"application/json"
    assert media_type(b"text/event-stream") == b"text/event-stream"
    assert media_type(b"") == b""


@pytest.mark.parametrize(
    "value",
    [
        BOTH,
        b"Application/Json,TEXT/event-stream",
        b"*/*",
        b"application/*, text/*",
        b"application/json;charset=utf-8, text/event-stream;q=0.001",
        b"application/json ; q=1.000 , text/event-stream ; Q=0.5",
        b'text/plain;x="a,b;q=0", */*;q=0.1',
        b"*/*;q=0, application/*;q=0.2, text/event-stream",
        b", ,application/json,,text/event-stream,",
        b"text/html;q=x, " + BOTH,
    ],
)
def test_accept_admits_both_types(value: bytes) -> None:
    """MCP-H-7."""
    assert accepts(value, b"application/json")
    assert accepts(value, b"text/event-stream")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"text/html",
        b"text/*",
        b"application/jsonx",
        b"application/json;q=0",
        b"application/json;q=0.000, */*",
        b"application/*;q=0, */*;q=1",
        b"application/json;q=2",
        b"application/json;q=0.0001",
        b"application/json;q=",
        b'text/plain;x=", application/json',
        b"*/json",
    ],
)
def test_accept_lacks_json(value: bytes) -> None:
    """MCP-H-7: the most specific range decides, and a weight of 0 refuses."""
    assert not accepts(value, b"application/json")


@given(st.binary(max_size=60))
def test_accept_never_raises(value: bytes) -> None:
    assert accepts(value, b"application/json") in (True, False)


DATE = (b"date", b"Mon, 24 Nov 2025 04:00:00 GMT")


@pytest.mark.parametrize(
    ("fields", "expected_s"),
    [
        ([(b"retry-after", b"0")], 0.0),
        ([(b"retry-after", b"120")], 120.0),
        ([(b"retry-after", b"Mon, 24 Nov 2025 04:00:30 GMT"), DATE], 30.0),
        ([(b"retry-after", b"Monday, 24-Nov-25 04:01:00 GMT"), DATE], 60.0),
        ([(b"retry-after", b"Mon Nov 24 04:00:10 2025"), DATE], 10.0),
        ([(b"retry-after", b"Mon, 24 Nov 2025 03:00:00 GMT"), DATE], 0.0),
        ([(b"retry-after", b"Mon, 24 Nov 2025 04:00:30 GMT")], None),
        ([(b"retry-after", b"-5"), DATE], None),
        ([(b"retry-after", b"1.5"), DATE], None),
        ([(b"retry-after", b"9" * 400)], None),
        ([(b"retry-after", b"soon"), DATE], None),
        ([(b"retry-after", b"\xff"), DATE], None),
        ([], None),
    ],
)
def test_retry_after(fields: Fields, expected_s: float | None) -> None:
    """HTTP-F8: seconds, or a date counted from the response's own Date."""
    assert retry_after_s(fields) == expected_s


@given(st.text(max_size=40), st.text(max_size=40))
def test_retry_after_never_raises(value: str, date: str) -> None:
    retry_after_s([(b"retry-after", value.encode()), (b"date", date.encode())])
