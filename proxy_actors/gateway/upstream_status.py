"""What an upstream's refusal, by HTTP status, means to the client.

Owns the one table from an upstream's status to an error. A status of the upstream is about the
proxy's request; few of them are true of the client's as well. A client takes a 404 for the end of
its session and a 400 or 405 for an old server, so those are passed on only where they mean that
(PROTOCOL traps 2 and 3, MCP-P-1).
"""

from __future__ import annotations

import re

import msgspec

from proxy_actors.errors import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Executed,
    FailedError,
    Reason,
    RefusedError,
)
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.headers import retry_after_s
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.protocol.jsonrpc import Message

RETRY_AFTER_S_MAX = 300.0
TEXT_CHARACTERS_MAX = 500
# What is wrong with the client's message, in the judgement of the upstream's application.
_ABOUT_THE_MESSAGE = frozenset({400, 413, 422})
# A stream that the upstream does not offer, or has given out already (MCP-S-9, S-28).
_ABOUT_THE_STREAM = frozenset({405, 409})
# What SDKs say of requests that do not come as far as the application.
_UNKNOWN_SESSION = re.compile(
    r"(no valid|invalid|unknown|expired) (mcp[- ])?session"
    r"|session( id)?( was| is)? (not found|unknown|invalid|expired|terminated)"
    r"|server not initialized",
    re.IGNORECASE,
)
_ALLOW_WITHOUT_GET = ((b"allow", b"POST, DELETE"),)


class _Fault(msgspec.Struct):
    code: int
    message: str


def ends_session(head: ResponseHead, session: Session | None, answer: Message | None) -> bool:
    """Whether the upstream says that it does not know the session (MCP-S-5).

    Without an id of the upstream's there is nothing to be unknown; and a 404 that answers the
    request with -32601 says that the method is. Servers after the example of the TypeScript SDK say
    400 in place of 404, and what they mean in words alone (PROTOCOL 12.2, 16): were it not heard,
    the session would be half alive for ever.
    """
    if session is None or session.upstream_session_id is None:
        return False
    fault = _fault_of(answer)
    if head.status == 400:
        return fault is not None and _UNKNOWN_SESSION.search(fault.message) is not None
    return head.status == 404 and (fault is None or fault.code != METHOD_NOT_FOUND)


def session_lost(upstream: str) -> FailedError:
    """Make the error for a request in a session that the upstream does not know (any more)."""
    text = "the session has ended: initialize anew"
    return FailedError(Reason.SESSION_LOST, text, upstream=upstream, retryable=False)


def session_renewed(upstream: str) -> FailedError:
    """Make the error for what was said to a session that has been opened anew, and not repeated."""
    text = "the server lost the session, which was opened anew; nothing was done"
    return FailedError(Reason.SESSION_LOST, text, upstream=upstream, status=502, retryable=True)


def not_renewed(upstream: str) -> FailedError:
    """Make the error for a request in a lost session that could not be opened anew for now."""
    text = "the session could not be opened anew; nothing was done"
    return FailedError(
        Reason.UPSTREAM_UNAVAILABLE, text, upstream=upstream, retry_after_s=1.0
    )


def refusal(
    head: ResponseHead, upstream: str, fault: Message | None = None, opens_stream: bool = False
) -> FailedError | RefusedError:
    """Make the error for a request that the upstream did not accept.

    Args:
        head: of the upstream's answer; the status is none that the request asked for.
        upstream: its configured name.
        fault: the JSON-RPC error in the body, if there was one.
        opens_stream: whether the request was a GET.
    """
    status = head.status
    after_s = retry_after_s(head.fields)
    after_s = None if after_s is None else min(after_s, RETRY_AFTER_S_MAX)
    if opens_stream and status in _ABOUT_THE_STREAM:
        headers = _ALLOW_WITHOUT_GET if status == 405 else ()
        return RefusedError(status, "the upstream does not offer this stream", headers=headers)
    if status in _ABOUT_THE_MESSAGE:
        return _refused_message(status, _fault_of(fault))
    if status in (401, 403):
        text = "the upstream refused the proxy's credentials"
        return FailedError(
            Reason.UPSTREAM_PROTOCOL, text, upstream=upstream, retryable=False, answered=status
        )
    if status == 429:
        text = "the upstream takes no more requests at the moment"
        return FailedError(
            Reason.RATE_LIMITED, text, upstream=upstream, retry_after_s=after_s, answered=status
        )
    if status == 503:
        # It may come from something between, which sent the request on before it failed. Who asks
        # to come back has refused it (gRPC's A6: seen by the server, not by the application).
        executed = Executed.UNKNOWN if after_s is None else Executed.NO
        return FailedError(
            Reason.UPSTREAM_UNAVAILABLE, "the upstream is not available", upstream=upstream,
            executed=executed, retry_after_s=after_s, answered=status,
        )
    text = f"the upstream answered with status {status}"
    return FailedError(
        Reason.UPSTREAM_PROTOCOL, text, executed=Executed.UNKNOWN, upstream=upstream,
        answered=status,
    )


def _refused_message(status: int, fault: _Fault | None) -> RefusedError:
    text = "the upstream refused the message"
    if fault is None:
        return RefusedError(status, text, code=INVALID_REQUEST)
    detail = fault.message[:TEXT_CHARACTERS_MAX]
    return RefusedError(status, f"{text}: {detail}", code=fault.code)


def _fault_of(message: Message | None) -> _Fault | None:
    if message is None or not message.is_error:
        return None
    try:
        return msgspec.json.decode(message.envelope["error"], type=_Fault)
    except msgspec.ValidationError:
        return None
