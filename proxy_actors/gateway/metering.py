"""Counts what became of a request, once it is over.

Runs in the client's greenlet, after the answer has been written. What an answer says is looked for
in the answer itself, and only where it can be: nearly every one is known by a search for a few
bytes to be neither an error nor the result of a tool that failed.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from proxy_actors.actors import meters as m
from proxy_actors.errors import Executed, Reason
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.response import Response
from proxy_actors.protocol.jsonrpc import RESPONSE, Message

TOOL_ERROR = "tool"
JSON_RPC = "json-rpc"
CLIENT_LEFT = "client-left"


class _Result(msgspec.Struct):
    isError: bool = False


class _Error(msgspec.Struct):
    data: Raw = Raw(b"null")


class _Answer(msgspec.Struct):
    result: _Result | None = None
    error: _Error | None = None


class _Contract(msgspec.Struct):
    reason: Reason
    executed: Executed
    retryable: bool


_ANSWER = msgspec.json.Decoder(_Answer)
_CONTRACT = msgspec.json.Decoder(_Contract)


def outcome(answer: bytes) -> str:
    """Say what an answer is: nothing for a result, TOOL_ERROR, or what went wrong.

    An error in the form of the error contract counts under its reason, that of another proxy of
    this kind behind this one included.

    Args:
        answer: a JSON-RPC response that has been admitted, or nothing.
    """
    # Whoever writes one of the names with escapes needs this one for its ASCII letters.
    if b"rror" not in answer and b"\\u00" not in answer:
        return ""
    try:
        known = _ANSWER.decode(answer)
    except msgspec.ValidationError:
        return ""  # a result of another form than that of a tool
    if known.error is None:
        return TOOL_ERROR if known.result is not None and known.result.isError else ""
    try:
        return _CONTRACT.decode(known.error.data).reason.value
    except msgspec.ValidationError:
        return JSON_RPC


def count_exchange(
    exchange: Exchange, response: Response, last: bytes, written: bool, seconds: float
) -> None:
    """Count a request, if it is to an upstream; messages that have parted count themselves.

    Args:
        last: the answer to the request, or what else was last in its event stream.
        written: whether the client has got it.
        seconds: from the last byte of the request to the last byte of the answer.
    """
    http_method = exchange.accepted.head.method
    if exchange.accepted.route is None:
        return
    if http_method == b"POST":
        what = response.failure or ("" if written else CLIENT_LEFT)
        if not exchange.messages:
            _count(exchange, m.UNREAD, what, seconds)
        elif not exchange.parted:
            for message in exchange.messages:
                count_message(exchange, message, what or outcome(last), seconds)
    elif http_method == b"DELETE":
        _count(exchange, m.DELETE, response.failure, seconds)
    elif http_method == b"GET":
        _count(exchange, m.LISTEN, response.failure, None)


def count_message(exchange: Exchange, message: Message, what: str, seconds: float) -> None:
    """Count one message of a client, and what became of it."""
    method = m.RESPONSE if message.kind is RESPONSE else message.method
    _count(exchange, method or m.OTHER, what, seconds)


def _count(exchange: Exchange, method: str, what: str, seconds: float | None) -> None:
    meters = exchange.route.meters
    meter = meters.of(method)
    meter.requests += 1
    if seconds is not None:
        meter.latency.add(seconds)
    if what == TOOL_ERROR:
        meter.tool_errors += 1
    elif what:
        meter.errors += 1
        meters.errors[what] += 1
