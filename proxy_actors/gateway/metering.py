"""Counts what became of a request, once it is over.

Runs in the client's greenlet, after the answer has been written. What an answer says is read in the
answer itself, by a decoder that builds two members of it and skips the rest: for most answers that
costs no more than a search for a few bytes would, and no text can pass for a member.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from proxy_actors.actors import meters as m
from proxy_actors.actors.meters import CallMeter, UpstreamMeters, meter_of
from proxy_actors.errors import Executed, Reason
from proxy_actors.gateway.exchange import Exchange
from proxy_actors.gateway.response import Response

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
    try:
        known = _ANSWER.decode(answer)
    except msgspec.DecodeError:
        return ""  # nothing, or a result of another form than that of a tool
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
    accepted, what = exchange.accepted, response.failure
    if accepted.route is None:
        return
    meters, http_method = accepted.route.meters, accepted.head.method
    if http_method == b"POST":
        what = what or ("" if written else CLIENT_LEFT)
        if not exchange.messages:
            _count(meters, meters.of(m.UNREAD), what, seconds)
        elif not exchange.parted:
            what = what or outcome(last)
            if not exchange.batch:
                _count(meters, exchange.meter, what, seconds)
                return
            for message in exchange.messages:
                _count(meters, meter_of(meters, message), what, seconds)
    elif http_method == b"DELETE":
        _count(meters, meters.of(m.DELETE), what, seconds)
    elif http_method == b"GET":
        _count(meters, meters.of(m.LISTEN), what, None)


def count_message(exchange: Exchange, what: str, seconds: float) -> None:
    """Count a message that has parted from its batch, and what became of it."""
    _count(exchange.route.meters, exchange.meter, what, seconds)


def _count(meters: UpstreamMeters, meter: CallMeter, what: str, seconds: float | None) -> None:
    meter.requests += 1
    if seconds is not None:
        meter.latency.add(seconds)
    if what == TOOL_ERROR:
        meter.tool_errors += 1
    elif what:
        meter.errors += 1
        meters.errors[what] += 1
