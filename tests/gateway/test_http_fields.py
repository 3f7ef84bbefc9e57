"""What of a client's request reaches the upstream, and what never does (HTTP-F1, THR-T7, T9)."""

from __future__ import annotations

import pytest

from proxy_actors.errors import ConfigurationError, RefusedError
from proxy_actors.gateway.http_fields import (
    Forwarded,
    UpstreamFields,
    UpstreamUrl,
    forwarded_fields,
    session_id_of,
)
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.headers import Fields, all_of, first

PSEUDONYM = b"proxy-actors-1a2b"
HOST = (b"host", b"127.0.0.1:8808")


def passed(*fields: tuple[bytes, bytes]) -> Fields:
    forwarded = forwarded_fields([HOST, *fields], HOST[1], "192.0.2.7", PSEUDONYM)
    return forwarded.fields


def session(version: str = "2025-11-25", id: str | None = "up-1") -> Session:
    return Session("key", "p", "default", "", id, version, b"{}")


def lines(head: bytes) -> list[bytes]:
    return head.removesuffix(b"\r\n\r\n").split(b"\r\n")


@pytest.mark.parametrize(
    "field",
    [
        (b"user-agent", b"node"),
        (b"accept-language", b"*"),
        (b"mcp-method", b"tools/call"),
        (b"mcp-param-tenant", b"7"),
        (b"traceparent", b"00-1-2-01"),
        (b"x-unknown", b"\xff"),
    ],
)
def test_end_to_end_fields_pass(field: tuple[bytes, bytes]) -> None:
    """HTTP-F3: unknown ones too."""
    assert field in passed(field)


@pytest.mark.parametrize(
    "name",
    [
        b"authorization", b"cookie", b"mcp-session-id", b"mcp-protocol-version", b"origin",
        b"referer", b"last-event-id", b"keep-alive", b"proxy-connection", b"proxy-authorization",
        b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"expect",
        b"forwarded", b"x-real-ip", b"x-forwarded-user", b"x-proxy-actors-principal",
        b"sec-fetch-site", b"max-forwards", b"date",
    ],
)  # fmt: skip
def test_what_is_meant_for_the_proxy_never_passes(name: bytes) -> None:
    """HTTP-F1: hop by hop. HTTP-F4, THR-T9: credentials. THR-T7: what upstreams have us say."""
    assert first(passed((name, b"secret")), name) is None


@pytest.mark.parametrize(
    "name",
    [b"mcp_session_id", b"x_forwarded_for", b"x_proxy_actors_principal", b"x-forwarded_user",
     b"transfer_encoding", b"content_length", b"proxy_connection"],
)  # fmt: skip
def test_name_with_underscores_is_its_twin_with_hyphens(name: bytes) -> None:
    """THR-T7: an upstream behind CGI or WSGI takes one for the other."""
    assert first(passed((name, b"forged")), name) is None
    assert first(passed((b"x_own", b"1")), b"x_own") == b"1"


def test_nominated_field_is_dropped_with_connection() -> None:
    """HTTP-F1."""
    fields = passed((b"connection", b"X-Hop, keep-alive"), (b"x-hop", b"1"), (b"x-end", b"1"))
    assert first(fields, b"x-hop") is None
    assert first(fields, b"connection") is None
    assert first(fields, b"x-end") == b"1"


@pytest.mark.parametrize("name", [b"authorization", b"mcp-session-id", b"x-forwarded-for", b"host"])
def test_client_cannot_have_what_we_add_stripped(name: bytes) -> None:
    """HTTP-F1."""
    with pytest.raises(RefusedError) as refused:
        passed((b"connection", name))
    assert refused.value.status == 400


def test_order_of_fields_of_one_name_is_kept() -> None:
    """HTTP-F3."""
    fields = passed((b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"))
    assert all_of(fields, b"x-a") == [b"1", b"3"]


def test_proxy_says_who_asked_whatever_the_client_claims() -> None:
    """HTTP-F6."""
    fields = passed((b"x-forwarded-for", b"10.9.8.7"), (b"x-forwarded-host", b"evil"))
    assert all_of(fields, b"x-forwarded-for") == [b"192.0.2.7"]
    assert all_of(fields, b"x-forwarded-host") == [HOST[1]]
    assert all_of(fields, b"x-forwarded-proto") == [b"http"]


def test_compression_is_not_asked_for() -> None:
    """An event must not wait in a compressor's window."""
    assert all_of(passed((b"accept-encoding", b"gzip")), b"accept-encoding") == [b"identity"]


def test_via_is_appended() -> None:
    """HTTP-F2, over several lines too."""
    assert all_of(passed(), b"via") == [b"1.1 " + PSEUDONYM]
    fields = passed((b"via", b"1.0 a"), (b"via", b"1.1 b"))
    assert all_of(fields, b"via") == [b"1.0 a, 1.1 b, 1.1 " + PSEUDONYM]


def test_request_that_comes_back_is_a_loop() -> None:
    """HTTP-F2, in whatever line of Via."""
    with pytest.raises(RefusedError) as refused:
        passed((b"via", b"1.0 a"), (b"via", b"1.1 x, 1.1 " + PSEUDONYM))
    assert refused.value.status == 508


def test_another_instance_of_this_proxy_is_no_loop() -> None:
    """They may stand one behind the other."""
    assert first(passed((b"via", b"1.1 proxy-actors-ffff")), b"via") is not None


def test_post_names_the_session_of_the_upstream_and_not_the_clients() -> None:
    fields = UpstreamFields(UpstreamUrl("http://up.test:81/mcp?x=1"))
    forwarded = forwarded_fields(
        [HOST, (b"mcp-session-id", b"front"), (b"accept", b"*/*")], HOST[1], "p", PSEUDONYM
    )
    head = lines(fields.head_of_post(forwarded, session(), 5))
    assert head[0] == b"POST /mcp?x=1 HTTP/1.1"
    assert b"host: up.test:81" in head
    assert b"mcp-session-id: up-1" in head
    assert b"mcp-protocol-version: 2025-11-25" in head
    assert b"content-length: 5" in head
    assert b"accept: application/json, text/event-stream" in head
    assert not [line for line in head if b"front" in line or b"*/*" in line]


def test_get_asks_for_events_only() -> None:
    """MCP-H-6."""
    fields = UpstreamFields(UpstreamUrl("http://up.test/"))
    head = lines(fields.head_of_get(Forwarded([]), session()))
    assert head[0] == b"GET / HTTP/1.1"
    assert b"accept: text/event-stream" in head
    assert not [line for line in head if line.startswith(b"content-")]


@pytest.mark.parametrize(("version", "sent"), [
    ("2024-11-05", False), ("2025-03-26", False), ("2025-06-18", True), ("2025-11-25", True),
])
def test_version_is_named_where_the_revision_has_the_field(version: str, sent: bool) -> None:
    """MCP-S-10."""
    fields = UpstreamFields(UpstreamUrl("http://up.test/"))
    for head in (
        fields.head_of_post(Forwarded([]), session(version), 0),
        fields.head_of_get(Forwarded([]), session(version)),
    ):
        assert (b"mcp-protocol-version: " + version.encode() in lines(head)) is sent
    own = first(fields.own("up-1", version), b"mcp-protocol-version")
    assert own == (version.encode() if sent else None)


def test_server_without_sessions_is_sent_no_id() -> None:
    fields = UpstreamFields(UpstreamUrl("http://up.test/"))
    assert b"mcp-session-id" not in fields.head_of_post(Forwarded([]), session(id=None), 0)


def test_rendered_heads_are_those_of_their_session_and_length() -> None:
    """They are remembered, so one client's must not be sent for another."""
    fields = UpstreamFields(UpstreamUrl("http://up.test/"))
    forwarded = Forwarded([])
    other = Session("other", "p", "default", "", "up-2", "2025-11-25", b"{}")
    first_head = fields.head_of_post(forwarded, session(), 3)
    assert fields.head_of_post(forwarded, session(), 3) == first_head
    assert b"up-2" in fields.head_of_post(forwarded, other, 3)
    assert b"content-length: 4" in fields.head_of_post(forwarded, session(), 4)
    assert b"mcp-session-id" not in fields.head_of_post(forwarded, None, 3)


CONFIGURED = {"Authorization": "Bearer secret", "X-Tenant": "caf\u00e9"}


def configured_heads(*fields: tuple[bytes, bytes]) -> list[list[bytes]]:
    """Make every kind of head for an upstream with fields of its own."""
    upstream = UpstreamFields(UpstreamUrl("http://up.test/"), CONFIGURED)
    forwarded = forwarded_fields([HOST, *fields], HOST[1], "192.0.2.7", PSEUDONYM)
    own = [b"%b: %b" % field for field in upstream.own("up-1", "2025-11-25", 5)]
    return [
        lines(upstream.head_of_post(forwarded, None, 5)),
        lines(upstream.head_of_post(forwarded, session(), 5)),
        lines(upstream.head_of_get(forwarded, session())),
        own,
    ]


def test_configured_fields_are_sent_with_every_request() -> None:
    """Those in the proxy's own name too."""
    for head in configured_heads():
        assert b"authorization: Bearer secret" in head
        assert b"x-tenant: caf\xe9" in head


@pytest.mark.parametrize("name", [b"authorization", b"x-tenant", b"x_tenant", b"x-own"])
def test_client_cannot_say_what_is_configured(name: bytes) -> None:
    """THR-T7: by its twin with underscores neither, nor have it stripped; the rest passes."""
    nominated = [] if name == b"authorization" else [(b"connection", name)]
    for fields in ([(name, b"forged")], [(name, b"forged"), *nominated]):
        for head in configured_heads(*fields):
            forged = [line for line in head if b"forged" in line]
            passes = name == b"x-own" and len(fields) == 1 and b"via" in b" ".join(head)
            assert forged == ([b"x-own: forged"] if passes else [])
            assert b"authorization: Bearer secret" in head
            assert b"x-tenant: caf\xe9" in head


def test_head_for_one_upstream_is_not_sent_to_another() -> None:
    """One connection may go to several; each has its own fields, and they are secret."""
    forwarded = Forwarded([])
    for key in (None, session()):
        first_head = UpstreamFields(UpstreamUrl("http://a.test/"), CONFIGURED).head_of_post(
            forwarded, key, 5
        )
        other = UpstreamFields(UpstreamUrl("http://b.test/")).head_of_post(forwarded, key, 5)
        assert b"secret" in first_head
        assert b"secret" not in other
        assert b"host: b.test" in other


@pytest.mark.parametrize(
    ("value", "id"),
    [
        (b"up-1", "up-1"),
        (b"!~", "!~"),
        (b"", None),
        (b"a b", None),
        (b"\x7f", None),
        (b"caf\xc3\xa9", None),
        (b"x" * 1025, None),
        (None, None),
    ],
)
def test_session_id_is_visible_ascii(value: bytes | None, id: str | None) -> None:
    """MCP-S-2, P-5."""
    assert session_id_of([] if value is None else [(b"mcp-session-id", value)]) == id


def test_port_of_a_url_is_that_of_its_scheme_unless_it_names_one() -> None:
    urls = [UpstreamUrl(f"{url}/mcp") for url in ("http://a", "https://a", "https://[::1]:8443")]
    assert [(url.host, url.port, url.secure) for url in urls] == [
        ("a", 80, False), ("a", 443, True), ("::1", 8443, True)
    ]


@pytest.mark.parametrize("url", ["ftp://up.test/", "up.test", "http:///x", "https:///x"])
def test_what_cannot_be_fronted_is_said_at_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError):
        UpstreamUrl(url)
