"""The one place where errors become answers.

Owns the error contract towards clients: a JSON-RPC error under the caller's own id where it could
be read, with `data` of reason, upstream, executed, retryable, retryAfterMs and requestId for
failures. It tells clients nothing of the inside: no path, address, secret or traceback. The log
has more: each failure of an upstream, once, under the same requestId and with its cause.
"""

from __future__ import annotations

import logging
import math

from proxy_actors.errors import (
    ActorStoppedError,
    DeadlineError,
    Executed,
    FailedError,
    GatewayError,
    MailboxFullError,
    MessageError,
    Reason,
    RefusedError,
    Side,
    let_go,
)
from proxy_actors.gateway.response import JSON, Response
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.headers import Fields

RETRY_AFTER_S = 1.0
# What an upstream did, or did not do in time. That the proxy has no room may happen at any rate,
# and is counted in metrics alone.
_LOGGED = frozenset({502, 504})
REFUSED = "refused"
# What is over when others have finished, or when somebody has been started again (HTTP-F8).
_PASSING = frozenset(
    {
        Reason.POOL_EXHAUSTED,
        Reason.OVERLOADED,
        Reason.CIRCUIT_OPEN,
        Reason.DRAINING,
        Reason.UPSTREAM_UNAVAILABLE,
        Reason.RATE_LIMITED,
    }
)

logger = logging.getLogger("proxy_actors.gateway")


def respond(error: Exception, id: bytes | None, request_id: str) -> Response:
    """Make the answer to an error.

    Args:
        error: what went wrong; anything that is no GatewayError is told as what it means here.
        id: the raw JSON of the caller's request id, None where it could not be read.
        request_id: the proxy's name for the request, for finding it in the log.
    """
    if id is None and isinstance(error, MessageError):
        id = error.request_id
    known = classify(error, request_id)
    fields: Fields = [JSON, *known.headers]
    if isinstance(known, FailedError):
        after_s = _retry_after_s(known)
        if after_s is not None:
            fields.append((b"retry-after", b"%d" % math.ceil(after_s)))
    body = message(known, id, request_id)
    let_go(error)
    return Response(
        known.status, fields, body, close=known.close, failure=failure_of(known)
    )


def failure_of(error: GatewayError) -> str:
    """Name what went wrong, for metrics: a reason of the contract, or that the client erred."""
    return error.reason.value if isinstance(error, FailedError) else REFUSED


def message(error: GatewayError, id: bytes | None, request_id: str) -> bytes:
    """Make the JSON-RPC error of an error, and log a failure of the upstream's."""
    if isinstance(error, FailedError) and error.status in _LOGGED:
        logger.warning(
            "upstream_failed request=%s upstream=%s reason=%s executed=%s error=%s cause=%s",
            request_id, error.upstream or "-", error.reason, error.executed, error.text,
            error.__cause__ or "-",
        )
    data = error.data if isinstance(error, RefusedError) else _contract(error, request_id)
    return jsonrpc_rewrite.error(id, error.code, error.text, data)


def classify(error: Exception, request_id: str) -> GatewayError:
    """Say what an error means to a client. What nobody foresaw is logged with its traceback."""
    match error:
        case GatewayError():
            return error
        case MessageError():
            return RefusedError(400, error.text, code=error.code)
        case ActorStoppedError():
            text = "a part of the proxy was restarted; try again"
            return FailedError(
                Reason.OVERLOADED, text, executed=Executed.UNKNOWN, side=Side.PROXY
            )
        case MailboxFullError():
            text = "the proxy is overloaded"
            return FailedError(Reason.OVERLOADED, text, side=Side.PROXY)
        case DeadlineError():
            text = "the request's time is up"
            return FailedError(Reason.DEADLINE, text, executed=Executed.UNKNOWN, side=Side.PROXY)
    logger.error("request_failed request=%s", request_id, exc_info=error)
    text = "internal error"
    return FailedError(Reason.INTERNAL, text, executed=Executed.UNKNOWN, side=Side.PROXY)


def _contract(error: GatewayError, request_id: str) -> dict[str, object]:
    data: dict[str, object] = {
        "reason": error.reason if isinstance(error, FailedError) else Reason.INTERNAL,
        "executed": error.executed,
        "retryable": error.retryable,
        "requestId": request_id,
    }
    if isinstance(error, FailedError):
        if error.upstream is not None:
            data["upstream"] = error.upstream
        after_s = _retry_after_s(error)
        if after_s is not None:
            data["retryAfterMs"] = round(after_s * 1000)
    return data


def _retry_after_s(error: FailedError) -> float | None:
    """Return when to come back: what is known, or a while where that is all there is to do."""
    if error.retry_after_s is None and error.reason in _PASSING:
        return RETRY_AFTER_S
    return error.retry_after_s
