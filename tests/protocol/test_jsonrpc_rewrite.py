"""Messages under another id or token, and the proxy's own: nothing else may change its meaning."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from msgspec import Raw

from proxy_actors.errors import INTERNAL_ERROR, MessageError
from proxy_actors.protocol import jsonrpc_rewrite as rewrite
from proxy_actors.protocol.jsonrpc import Kind, Message, admit
from tests.defects import Defect, planted
from tests.protocol.message_documents import document
from tests.protocol.message_oracle import Number, Pairs, meaning

SEEDS = range(10_000)
IDS = (b"0", b"7", b'"7"', b"-1", b'""', b"9007199254740993", '"ž"'.encode(), rb'"a\"b\\"')
# Values that another writer of JSON would not write as they are.
ODD = rb'{"a":1.0,"b":1E+2,"c":-0,"d":123456789012345678901234567890,"e":"\u0041\/\ud83d\ude00"}'


def admitted(data: bytes) -> Message:
    message = admit(data)
    assert isinstance(message, Message)
    return message


@cache
def generated() -> list[Message]:
    """Messages of every kind and spelling."""
    messages: list[Message] = []
    for seed in SEEDS:
        try:
            one = admit(document(seed))
        except MessageError:
            continue
        messages += one if isinstance(one, tuple) else (one,)
    return messages


def replaced(pairs: Any, name: str, value: Any) -> Pairs:
    """The same members in the same order, one with another value; added last if it was absent."""
    assert isinstance(pairs, Pairs)
    if name not in pairs.names():
        return Pairs((*pairs, (name, value)))
    return Pairs((n, value if n == name else v) for n, v in pairs)


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize(
    "member",
    [
        b'"method":"tools/call","params":{"name":"x","arguments":%b}' % ODD,
        b'"method":"tools/call","params":[%b, null ]' % ODD,
        b'"method":"ping"',
        b'"result":%b' % ODD,
        b'"result":[ ]',
        b'"error":{"code":-32603,"message":"","data":%b}' % ODD,
    ],
)
def test_another_id_leaves_every_other_byte(member: bytes, id: bytes) -> None:
    """MCP-G-1, MCP-G-8, THR-T4: type and value of the id, and values as they were written."""
    message = admitted(b'{"x":%b,"id":"own","jsonrpc":"2.0",%b}' % (ODD, member))
    data = rewrite.with_id(message, id)
    assert data == message.raw.replace(b'"own"', id, 1)
    assert admitted(data).id == id
    assert rewrite.with_id(admitted(data), b'"own"') == message.raw


def test_error_that_names_no_request_can_be_given_an_id() -> None:
    """PROTOCOL section 2."""
    for id in (b"", b'"id":null,'):
        message = admitted(b'{"jsonrpc":"2.0",%b"error":{"code":-32700,"message":""}}' % id)
        assert admitted(rewrite.with_id(message, b"3")).id == b"3"


@pytest.mark.parametrize("token", IDS)
def test_progress_token_is_replaced_where_it_stands(token: bytes) -> None:
    """MCP-X-6, MCP-G-8: the rest of _meta, W3C's trace context for one, passes through."""
    request = (
        b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"x","_meta":'
        b'{"traceparent":"00-a-b-01","progressToken":%b,"x/y":%b},"arguments":{"progressToken":1}}}'
    )
    message = admitted(request % (b"1", b'"own"', ODD))
    assert rewrite.with_id(message, b"9", progress_token=token) == request % (b"9", token, ODD)
    assert rewrite.with_id(message, b"9") == request % (b"9", b'"own"', ODD)


@pytest.mark.parametrize(
    "params",
    [
        b"",
        b',"params":[]',
        b',"params":{}',
        b',"params":{"_meta":null}',
        b',"params":{"_meta":{}}',
        b',"params":{"_meta":{"progressToken":null}}',
        b',"params":{"progressToken":5,"arguments":{"_meta":{"progressToken":5}}}',
    ],
)
def test_who_asks_for_no_progress_gets_no_token(params: bytes) -> None:
    """MCP-X-6: progress would come that nobody waits for."""
    message = admitted(b'{"jsonrpc":"2.0","id":1,"method":"tools/call"%b}' % params)
    assert rewrite.with_id(message, b"1", progress_token=b"2") == message.raw


def test_progress_and_cancellation_get_the_identifier_of_the_other_side() -> None:
    """MCP-X-3, MCP-X-6."""
    progress = (
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":'
        b'{"progress":0.50,"progressToken":%b,"total":1e2,"message":"\\u0041"}}'
    )
    cancelled = (
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":'
        b'{"reason":"\\n","requestId":%b,"_meta":{"requestId":1}}}'
    )
    for id in IDS:
        message = admitted(progress % b"1")
        assert rewrite.notification_with_progress_token(message, id) == progress % id
        message = admitted(cancelled % b"1")
        assert rewrite.cancelled_with_request_id(message, id) == cancelled % id


def rewritten(message: Message) -> list[tuple[bytes, Any]]:
    """What the rewriting of a message makes of it, and the meaning that it should have."""
    meant = meaning(message.raw)
    params = meant.value("params")
    if message.kind is not Kind.NOTIFICATION:
        data = rewrite.with_id(message, b'"new"', progress_token=b"77")
        if message.progress_token() is not None:
            meta = replaced(params.value("_meta"), "progressToken", Number("77"))
            meant = replaced(meant, "params", replaced(params, "_meta", meta))
        return [(data, replaced(meant, "id", "new"))]
    if not message.params:
        return []
    progress = replaced(meant, "params", replaced(params, "progressToken", Number("77")))
    cancelled = replaced(meant, "params", replaced(params, "requestId", "new"))
    return [
        (rewrite.notification_with_progress_token(message, b"77"), progress),
        (rewrite.cancelled_with_request_id(message, b'"new"'), cancelled),
    ]


def is_changed_wrongly(message: Message) -> bool:
    """Whether a rewriting changes more of the meaning, or less, than it is for."""
    return any(meaning(data) != meant for data, meant in rewritten(message))


def test_generated_messages_keep_their_meaning() -> None:
    """THR-T6: however names, strings and numbers were spelled, and in whatever order."""
    messages = generated()
    assert {message.kind for message in messages} == set(Kind)
    assert any(message.progress_token() is not None for message in messages)
    assert [message.raw for message in messages if is_changed_wrongly(message)] == []


DEFECTS = [
    Defect("the id stays", rewrite, "with_id", 'Raw(new_id)', 'message.envelope.get("id")'),
    Defect("the id is text", rewrite, "with_id", "Raw(new_id)", "new_id.decode()"),
    Defect("the token stays", rewrite, "with_id", '"progressToken": Raw(progress_token)', ""),
    Defect("the rest of _meta goes", rewrite, "with_id", "**message.meta, ", ""),
    Defect("the rest of params goes", rewrite, "with_id", "**message.params, ", ""),
    Defect("members move", rewrite, "with_id",
           '{**message.envelope, "id": Raw(new_id)}', '{"id": Raw(new_id), **message.envelope}'),
    Defect("a token is invented", rewrite, "with_id",
           " and message.progress_token() is not None", ""),
    Defect("the rest of a notification goes", rewrite, "_with_param", "**message.params, ", ""),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    messages = generated()  # with the sound gate
    with planted(defect):
        assert any(is_changed_wrongly(message) for message in messages)


# What the proxy says itself.


@pytest.mark.parametrize("id", IDS)
def test_own_messages_are_admitted(id: bytes) -> None:
    """MCP-G-1: they go through the same gate as everybody's."""
    request = admitted(rewrite.request(id, "ping"))
    assert (request.kind, request.id, request.method) == (Kind.REQUEST, id, "ping")
    assert "params" not in request.envelope
    result = admitted(rewrite.result(id, {}))
    assert (result.kind, result.id, result.is_error) == (Kind.RESPONSE, id, False)
    error = admitted(rewrite.error(id, INTERNAL_ERROR, "no"))
    assert (error.kind, error.id, error.is_error) == (Kind.RESPONSE, id, True)
    notice = admitted(rewrite.notification("notifications/initialized"))
    assert (notice.kind, notice.id) == (Kind.NOTIFICATION, None)


def test_own_messages_are_one_line_whatever_they_hold() -> None:
    """THR-T21, MCP-I-1."""
    params = {"a\n": "b\r\nc", "d": Raw(ODD)}
    for data in (
        rewrite.request(b"1", "a\nb", params),
        rewrite.notification("a\rb", params),
        rewrite.result(b"1", params),
        rewrite.error(b"1", INTERNAL_ERROR, "a\r\nb", params),
    ):
        assert data.splitlines() == [data]
        assert ODD in data
        assert admitted(data).raw == data
    assert json.loads(rewrite.request(b"1", "a\nb"))["method"] == "a\nb"


def test_error_without_an_id_leaves_the_member_out() -> None:
    """PROTOCOL section 2."""
    error = rewrite.error(None, -32700, "no", {"reason": "x"})
    assert json.loads(error) == {
        "jsonrpc": "2.0",
        "error": {"code": -32700, "message": "no", "data": {"reason": "x"}},
    }
    assert "data" not in json.loads(rewrite.error(b"1", -32700, "no"))["error"]
