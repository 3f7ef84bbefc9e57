"""The header fields of requests to an HTTP upstream.

Owns which of the client's fields pass and which are ours. Computed once for a client's connection
as long as its fields stay the same, since clients repeat themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

from proxy_actors.errors import (
    ConfigurationError,
    Executed,
    FailedError,
    Reason,
    RefusedError,
)
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.headers import HOP_BY_HOP, Fields, all_of, first, forwardable
from proxy_actors.protocol.http1_write import request_head
from proxy_actors.protocol.revisions import requires_version_header

_ACCEPT_BOTH = (b"accept", b"application/json, text/event-stream")
_ACCEPT_STREAM = (b"accept", b"text/event-stream")
_CONTENT_JSON = (b"content-type", b"application/json")
# An event must not wait in a compressor's window.
_IDENTITY = (b"accept-encoding", b"identity")
# What the proxy says in its own name, what it consumes, and what is nobody else's business: a
# cookie or an Authorization is meant for the proxy's origin (token passthrough is forbidden).
_OURS = frozenset(
    {
        b"accept", b"accept-encoding", b"authorization", b"content-length", b"content-type",
        b"cookie", b"date", b"expect", b"forwarded", b"host", b"last-event-id", b"max-forwards",
        b"mcp-protocol-version", b"mcp-session-id", b"origin", b"referer", b"via", b"x-api-key",
    }
)  # fmt: skip
_OUR_PREFIXES = (b"x-forwarded-", b"x-proxy-actors-", b"x-real-ip", b"sec-", b"proxy-")
_SESSION_ID_BYTES_MAX = 1024
_SENDABLE = re.compile(r"[!-~]+")
_HEADS_MAX = 64


class Forwarded:
    """What of a client's fields passes on, worked out once for as long as they stay the same.

    `heads` remembers the heads rendered from them, by upstream, session and length of the body.
    """

    __slots__ = ("fields", "heads")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.heads: dict[tuple[UpstreamFields, str | None, str, int], bytes] = {}


class UpstreamUrl:
    """Where an upstream's MCP endpoint is.

    Raises:
        ConfigurationError: not an http or https URL with a host.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"{url!r}: only http:// and https:// URLs can be fronted")
        self._url = url
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = _port(parts)
        self.authority = parts.netloc.encode("ascii")
        self.target = _target(parts)

    def resolve(self, reference: bytes) -> bytes:
        """Return the request target of what the upstream names its message endpoint (MCP-L-2).

        Args:
            reference: a URI, absolute or relative to this URL.

        Raises:
            FailedError: it is none, or leads to another origin, where a server could otherwise have
                the proxy send what is meant for it alone.
        """
        why = "the upstream names no message endpoint that could be used"
        try:
            text = reference.decode("ascii")
            parts = urlsplit(urljoin(self._url, text))
            origin = parts.scheme == "https", parts.hostname, _port(parts)
        except ValueError:
            text = ""
        if text and _SENDABLE.fullmatch(text) and parts.scheme in ("http", "https"):
            if origin == (self.secure, self.host, self.port) and "@" not in parts.netloc:
                return _target(parts)
            why = "the upstream names a message endpoint at another origin"
        raise FailedError(Reason.UPSTREAM_PROTOCOL, why, executed=Executed.NO, retryable=False)


class UpstreamFields:
    """Makes the fields of requests to one upstream.

    Args:
        url: where it is.
        headers: fields that every request carries, whatever the client says; they are secret.
    """

    def __init__(self, url: UpstreamUrl, headers: Mapping[str, str] = {}) -> None:
        self.target = url.target
        self._host = (b"host", url.authority)
        self._configured: Fields = [
            (name.lower().encode("ascii"), value.encode("latin-1"))
            for name, value in headers.items()
        ]
        self._names = frozenset(_twin(name) for name, _ in self._configured)

    def head_of_post(
        self, forwarded: Forwarded, session: Session | None, body_bytes: int
    ) -> bytes:
        """Return the head of a POST on behalf of a client."""
        id = None if session is None else session.upstream_session_id
        version = "" if session is None else session.version
        key = (self, id, version, body_bytes)
        head = forwarded.heads.get(key)
        if head is None:
            fields = [
                self._host,
                _CONTENT_JSON,
                _ACCEPT_BOTH,
                (b"content-length", b"%d" % body_bytes),
                *_session_fields(session),
                *self._with_configured(forwarded.fields),
            ]
            head = request_head(b"POST", self.target, fields)
            if len(forwarded.heads) >= _HEADS_MAX:
                forwarded.heads.clear()
            forwarded.heads[key] = head
        return head

    def head_of_message(self, forwarded: Forwarded, target: bytes, body_bytes: int) -> bytes:
        """Return the head of a POST to the message endpoint of HTTP+SSE on behalf of a client."""
        fields = [
            self._host,
            _CONTENT_JSON,
            _ACCEPT_BOTH,
            (b"content-length", b"%d" % body_bytes),
            *self._with_configured(forwarded.fields),
        ]
        return request_head(b"POST", target, fields)

    def head_of_get(
        self, forwarded: Forwarded, session: Session | None, last_event_id: bytes = b""
    ) -> bytes:
        """Return the head of a GET for an event stream on behalf of a client.

        Args:
            session: whose stream it is; None for the stream of HTTP+SSE, which is the session.
            last_event_id: of the upstream's, behind which the stream is to go on.
        """
        passed = self._with_configured(forwarded.fields)
        fields = [self._host, _ACCEPT_STREAM, *_session_fields(session), *passed]
        if last_event_id:
            fields.append((b"last-event-id", last_event_id))
        return request_head(b"GET", self.target, fields)

    def own(self, session_id: str | None, version: str, body_bytes: int = 0) -> Fields:
        """Return the fields of a request in the proxy's own name."""
        fields = [self._host, _ACCEPT_BOTH, *self._configured]
        if body_bytes:
            fields += [_CONTENT_JSON, (b"content-length", b"%d" % body_bytes)]
        return [*fields, *_session_id_fields(session_id, version)]

    def _with_configured(self, passed: Fields) -> Fields:
        """Add the configured fields; a client's own of the same names are left out."""
        if not self._configured:
            return passed
        return [*(x for x in passed if _twin(x[0]) not in self._names), *self._configured]


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _target(parts: SplitResult) -> bytes:
    target = parts.path or "/"
    return (f"{target}?{parts.query}" if parts.query else target).encode("ascii")


def forwarded_fields(
    fields: Fields, host: bytes, peer: str, pseudonym: bytes, scheme: bytes = b"http"
) -> Forwarded:
    """Return what of a client's request passes on, with what the proxy says about the client.

    Args:
        fields: as they came.
        host: the authority that the client asked for.
        peer: the client's address.
        pseudonym: this process's own name in Via; no other instance's, as they may be chained.
        scheme: of the URL that the client used.

    Raises:
        RefusedError: 400 for a Connection that nominates what it may not; 508 when the request has
            been here before (HTTP-F2).
    """
    via = all_of(fields, b"via")
    if any(pseudonym in value for value in via):
        raise RefusedError(508, "the request has passed this proxy before", close=True)
    passed = [field for field in forwardable(fields) if _may_pass(field[0])]
    ours: Fields = [
        (b"via", b", ".join([*via, b"1.1 " + pseudonym])),
        _IDENTITY,
        (b"x-forwarded-for", peer.encode("ascii", "replace")),
        (b"x-forwarded-host", host),
        (b"x-forwarded-proto", scheme),
    ]
    return Forwarded([*passed, *ours])


def _may_pass(name: bytes) -> bool:
    """Whether a client may say this to an upstream."""
    name = _twin(name)
    return not (name in _OURS or name in HOP_BY_HOP or name.startswith(_OUR_PREFIXES))


def _twin(name: bytes) -> bytes:
    """Return the name under which an upstream may take this one.

    An upstream behind CGI or its heirs cannot tell X_Y from X-Y (RFC 3875 section 4.1.18), so
    neither may say what the other may not.
    """
    return name.replace(b"_", b"-")


def session_id_of(fields: Fields) -> str | None:
    """Read the session id of an upstream's initialize answer; None when it gave none it may give.

    Only visible ASCII is a session id (2025-11-25 basic/transports, "Session Management").
    """
    value = first(fields, b"mcp-session-id")
    if value is None or not 0 < len(value) <= _SESSION_ID_BYTES_MAX:
        return None
    return value.decode("ascii") if all(0x21 <= byte <= 0x7E for byte in value) else None


def _session_fields(session: Session | None) -> Fields:
    if session is None:
        return []
    return _session_id_fields(session.upstream_session_id, session.version)


def _session_id_fields(session_id: str | None, version: str) -> Fields:
    fields: Fields = []
    if session_id is not None:
        fields.append((b"mcp-session-id", session_id.encode("ascii")))
    if requires_version_header(version):
        fields.append((b"mcp-protocol-version", version.encode("ascii")))
    return fields
