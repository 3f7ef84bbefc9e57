"""What clients and servers say in the tests of the stdio policies, admitted as everything is."""

from __future__ import annotations

import json

from msgspec import Raw

from proxy_actors.messages import stdio as m
from proxy_actors.messages.sessions import EndReason, Session, SessionEnded
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message, admit
from proxy_actors.protocol.revisions import CANCELLED, PROGRESS

VERSION = "2025-11-25"
DESCRIBED = m.ServerDescribed(b'{"protocolVersion":"2025-11-25"}', VERSION)


def admitted(data: bytes) -> Message:
    message = admit(data)
    assert isinstance(message, Message)
    return message


def request(
    id: bytes, method: str = "tools/call", token: bytes | None = None, **params: object
) -> Message:
    """Ids and tokens are given as JSON: b'1' is a number, b'"1"' a string."""
    if token is not None:
        params["_meta"] = {"progressToken": Raw(token)}
    return admitted(jsonrpc_rewrite.request(id, method, params))


def result(id: bytes, text: str = "done") -> Message:
    return admitted(jsonrpc_rewrite.result(id, {"text": text}))


def fault(id: bytes | None, text: str = "failed") -> Message:
    return admitted(jsonrpc_rewrite.error(id, -32000, text))


def notification(method: str, **params: object) -> Message:
    return admitted(jsonrpc_rewrite.notification(method, params))


def progress(token: bytes, progress: int = 1) -> Message:
    return notification(PROGRESS, progressToken=Raw(token), progress=progress)


def cancelled(id: bytes) -> Message:
    return notification(CANCELLED, requestId=Raw(id))


def member(data: bytes, *names: str) -> bytes:
    """Read a member of a line as JSON, so that its type shows; b"" if there is none."""
    value = json.loads(data)
    for name in names:
        if name not in value:
            return b""
        value = value[name]
    return json.dumps(value).encode()


def session(
    key: str, endpoint: str = "", level: str | None = None, subscriptions: tuple[str, ...] = ()
) -> Session:
    return Session(
        key, "anonymous", "up", endpoint, None, VERSION, b"{}", level, subscriptions
    )


def ended(key: str, endpoint: str = "") -> SessionEnded:
    return SessionEnded(session(key, endpoint), EndReason.DELETED)
