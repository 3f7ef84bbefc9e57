"""A second opinion on what is a JSON-RPC message: the rules once more, on the stdlib's parser.

It builds every document whole, with all its pairs, and knows nothing of how admission works.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proxy_actors.errors import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.jsonrpc_batch import BATCH_MAX

ENVELOPE = ("jsonrpc", "id", "method", "params", "result", "error")
ROUTING = (
    "name", "arguments", "uri", "_meta", "requestId", "progressToken", "protocolVersion", "taskId",
)  # fmt: skip
OF_RESOURCES = (
    "resources/subscribe", "resources/unsubscribe", "notifications/resources/updated",
)  # fmt: skip


@dataclass(frozen=True)
class Number:
    """A number by its text, since its value need not fit anything."""

    text: str


class Pairs(tuple[tuple[str, Any], ...]):
    """The members of an object, each of them; an array is a list."""

    __slots__ = ()

    def names(self) -> list[str]:
        """List the names in order, repeated ones included."""
        return [name for name, _ in self]

    def value(self, name: str) -> Any:
        """Return the value of a member, None if it is absent or null."""
        return dict(self).get(name)


class NotAMessage(Exception):
    """What the document is refused with."""

    def __init__(self, code: int, id: Any = None) -> None:
        super().__init__(code)
        self.code = code
        self.id = id


@dataclass(frozen=True)
class Verdict:
    """What one message is taken for."""

    kind: str
    document: Any
    id: Any
    method: str | None
    is_error: bool
    params: Pairs
    meta: Pairs
    token: Any
    cancelled: Any
    uri: str | None


def meaning(document: bytes) -> Any:
    """Read JSON as RFC 8259 has it and no more.

    Raises:
        ValueError: it is none.
    """
    value = _READER.decode(document.decode())
    for text in _texts(value):
        text.encode()  # a lone surrogate cannot be
    return value


def judge(document: bytes, depth_max: int) -> list[Verdict] | Verdict:
    """Say what a document is: one message, or a batch of several.

    Raises:
        NotAMessage: it is neither.
    """
    try:
        value = meaning(document)
    except ValueError as error:
        raise NotAMessage(PARSE_ERROR) from error
    if _depth(value) > depth_max:
        raise NotAMessage(INVALID_REQUEST)
    if not isinstance(value, list):
        return _judge_one(value)
    _require(1 <= len(value) <= BATCH_MAX)
    return [_judge_one(element) for element in value]


def seen(message: Message) -> Verdict:
    """Say the same of what was admitted."""
    return Verdict(
        kind=message.kind.value,
        document=meaning(message.raw),
        id=_only(message.id),
        method=message.method,
        is_error=message.is_error,
        params=Pairs((name, meaning(bytes(raw))) for name, raw in message.params.items()),
        meta=Pairs((name, meaning(bytes(raw))) for name, raw in message.meta.items()),
        token=_only(message.progress_token()),
        cancelled=_only(message.cancelled_request_id()),
        uri=message.uri(),
    )


def _judge_one(document: Any) -> Verdict:
    _require(isinstance(document, Pairs))
    params, fault = document.value("params"), document.value("error")
    of_params = params if isinstance(params, Pairs) else Pairs()
    meta = of_params.value("_meta")
    of_meta = meta if isinstance(meta, Pairs) else Pairs()
    of_fault = fault if isinstance(fault, Pairs) else Pairs()
    _require(not _twins(document, ENVELOPE))
    for pairs in (document, of_params, of_meta, of_fault):
        _require(len(set(pairs.names())) == len(pairs))
    names, id = document.names(), document.value("id")
    if "method" not in names:
        return _judge_response(document, fault)
    _require("id" not in names or _is_identifier(id))
    _require(document.value("jsonrpc") == "2.0", id)
    _require("result" not in names and "error" not in names, id)
    _require("params" not in names or isinstance(params, list | Pairs), id)
    twins = _twins(of_params, ROUTING)
    _require(not twins.intersection(of_params.names()) and "_meta" not in twins, id)
    _require(not _twins(of_meta, ("progressToken",)), id)
    method = document.value("method")
    _require(isinstance(method, str), id)
    is_progress = "id" not in names and method == "notifications/progress"
    token = (of_params if is_progress else of_meta).value("progressToken")
    cancelled = of_params.value("requestId") if method == "notifications/cancelled" else None
    uri = of_params.value("uri") if method in OF_RESOURCES else None
    for identifier in (token, cancelled):
        _require(identifier is None or _is_identifier(identifier), id, INVALID_PARAMS)
    _require(method not in OF_RESOURCES or isinstance(uri, str), id, INVALID_PARAMS)
    kind = "request" if "id" in names else "notification"
    return Verdict(
        kind, document, id, method, False, of_params, of_meta, token, cancelled, uri
    )


def _judge_response(document: Pairs, fault: Any) -> Verdict:
    names, id = document.names(), document.value("id")
    _require(document.value("jsonrpc") == "2.0")
    _require(("result" in names) != ("error" in names))
    is_error = "error" in names
    if is_error:
        _require(isinstance(fault, Pairs) and _is_integer(fault.value("code")))
    _require(_is_identifier(id) or (is_error and id is None))
    return Verdict(
        "response", document, id, None, is_error, Pairs(), Pairs(), None, None, None
    )


def _require(met: bool, id: Any = None, code: int = INVALID_REQUEST) -> None:
    if not met:
        raise NotAMessage(code, id)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Number) and value.text != "-0" and not set(value.text) & set(".eE")


def _is_identifier(value: Any) -> bool:
    return isinstance(value, str) or _is_integer(value)


def _twins(pairs: Pairs, names: tuple[str, ...]) -> set[str]:
    """Return the names that the pairs have in another letter case."""
    return {
        name
        for name in names
        for other in pairs.names()
        if other not in names and other.casefold() == name.casefold()
    }


def _depth(value: Any) -> int:
    match value:
        case Pairs():
            return 1 + max((_depth(member) for _, member in value), default=0)
        case list():
            return 1 + max(map(_depth, value), default=0)
    return 0


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _texts(element)


def _only(identifier: bytes | None) -> Any:
    """Return the meaning of an id or token, which must be in the only spelling that it has."""
    if identifier is None:
        return None
    value = meaning(identifier)
    text = value.text if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)
    assert identifier == text.encode()
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_READER = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_no_constant
)
