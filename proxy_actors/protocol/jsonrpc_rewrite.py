"""Messages with another id or token, and the messages that the proxy itself says.

Owns how they are written. Never reads bytes: `jsonrpc.admit` does, and everything that is not
replaced here leaves as it came. Only channels that several clients share need the rewriting, since
each of them counts from the same numbers; ids and tokens are given and taken as JSON (`1`, `"1"`).
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import CANCELLED

_ENCODER: Final = msgspec.json.Encoder()


def with_id(message: Message, new_id: bytes, *, progress_token: bytes | None = None) -> bytes:
    """Return a request or response under another id.

    Args:
        new_id: what stands in place of the id, as JSON.
        progress_token: what stands in place of the progress token, as JSON; without effect on a
            request that asks for no progress.
    """
    envelope: dict[str, object] = {**message.envelope, "id": Raw(new_id)}
    if progress_token is not None and message.progress_token() is not None:
        meta = {**message.meta, "progressToken": Raw(progress_token)}
        envelope["params"] = {**message.params, "_meta": meta}
    return _ENCODER.encode(envelope)


def notification_with_progress_token(message: Message, token: bytes) -> bytes:
    """Return a `notifications/progress` under another token, given as JSON."""
    return _with_param(message, "progressToken", token)


def cancelled_with_request_id(message: Message, request_id: bytes) -> bytes:
    """Return a `notifications/cancelled` for another request, its id given as JSON."""
    return _with_param(message, "requestId", request_id)


def request(id: bytes, method: str, params: object = None) -> bytes:
    """Return a request; `id` is JSON, `params` anything that msgspec encodes as an object."""
    return b'{"jsonrpc":"2.0","id":%b,%b}' % (id, _method(method, params))


def notification(method: str, params: object = None) -> bytes:
    """Return a notification; `params` is anything that msgspec encodes as an object."""
    return b'{"jsonrpc":"2.0",%b}' % _method(method, params)


def cancelled(request_id: bytes, reason: str = "") -> bytes:
    """Return a `notifications/cancelled` of the proxy's own, for a request whose id is JSON."""
    params: dict[str, object] = {"requestId": Raw(request_id)}
    if reason:
        params["reason"] = reason
    return notification(CANCELLED, params)


def result(id: bytes, value: object) -> bytes:
    """Return a response; `id` is JSON, `value` an object or an admitted message's Raw."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, _ENCODER.encode(value))


def error(id: bytes | None, code: int, text: str, data: object = None) -> bytes:
    """Return an error response.

    Args:
        id: the request's id as JSON. None leaves the member out, which says that the id could not
            be read.
        code: the JSON-RPC code.
        text: one sentence.
        data: left out if None.
    """
    fault: dict[str, object] = {"code": code, "message": text}
    if data is not None:
        fault["data"] = data
    member = b"" if id is None else b'"id":%b,' % id
    return b'{"jsonrpc":"2.0",%b"error":%b}' % (member, _ENCODER.encode(fault))


def _with_param(message: Message, name: str, value: bytes) -> bytes:
    params = {**message.params, name: Raw(value)}
    return _ENCODER.encode({**message.envelope, "params": params})


def _method(method: str, params: object) -> bytes:
    fields: dict[str, object] = {"method": method}
    if params is not None:
        fields["params"] = params
    return _ENCODER.encode(fields)[1:-1]
