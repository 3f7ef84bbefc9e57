"""What an upstream's status means to the client (MCP-P-1, S-5, S-9, B-3)."""

from __future__ import annotations

import pytest

from proxy_actors.errors import Executed, FailedError, Reason, RefusedError
from proxy_actors.gateway.upstream_status import (
    RETRY_AFTER_S_MAX,
    TEXT_CHARACTERS_MAX,
    ends_session,
    refusal,
)
from proxy_actors.messages.sessions import Session
from proxy_actors.protocol.headers import Fields
from proxy_actors.protocol.http1_response import ResponseHead
from proxy_actors.protocol.jsonrpc import Message, admit

SESSION = Session("key", "p", "default", "", "up-1", "2025-11-25", b"{}")
STATELESS = Session("key", "p", "default", "", None, "2025-11-25", b"{}")


def head(status: int, *fields: tuple[bytes, bytes]) -> ResponseHead:
    listed: Fields = list(fields)
    return ResponseHead(status, listed, True, 0, False, None)


def fault(code: int, text: str = "why", id: bytes = b"null") -> Message:
    message = admit(
        b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":"%b"}}' % (id, code, text.encode())
    )
    assert isinstance(message, Message)
    return message


@pytest.mark.parametrize("status", [*range(201, 209), *range(300, 309), 402, 404, 405, 406, 408,
                                    409, 410, 412, 415, 421, 426, 431, 451, 500, 501, 502, 504,
                                    505, 599])
def test_status_about_the_proxys_own_request_is_a_502(status: int) -> None:
    """MCP-P-1: never a 400, 404 or 405, which would send clients elsewhere.

    SSE-S10: nor is a redirect followed, or a 204 taken for a stream.
    """
    error = refusal(head(status), "default")
    assert isinstance(error, FailedError)
    assert (error.status, error.reason) == (502, Reason.UPSTREAM_PROTOCOL)
    assert error.executed is Executed.UNKNOWN
    assert error.upstream == "default"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_status_about_the_message_is_passed_on(status: int) -> None:
    error = refusal(head(status), "default", fault(-32602))
    assert isinstance(error, RefusedError)
    assert (error.status, error.code) == (status, -32602)
    assert error.text.endswith(": why")


def test_refusal_without_a_json_rpc_error_is_passed_on_too() -> None:
    error = refusal(head(400), "default")
    assert isinstance(error, RefusedError)
    assert error.code == -32600


def test_text_of_the_upstream_is_bounded() -> None:
    error = refusal(head(400), "default", fault(-32602, "x" * 10_000))
    assert len(str(error)) < TEXT_CHARACTERS_MAX + 100


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_the_proxys_trouble(status: int) -> None:
    """The client has others, and must not be asked for them."""
    error = refusal(head(status, (b"www-authenticate", b"Bearer")), "default")
    assert isinstance(error, FailedError)
    assert (error.status, error.executed, error.retryable) == (502, Executed.NO, False)
    assert error.headers == ()


@pytest.mark.parametrize(("status", "allow"), [(405, b"POST, DELETE"), (409, None)])
def test_missing_stream_is_passed_on_for_a_get_only(status: int, allow: bytes | None) -> None:
    """MCP-S-9, S-28."""
    error = refusal(head(status), "default", opens_stream=True)
    assert isinstance(error, RefusedError)
    assert error.status == status
    assert dict(error.headers).get(b"allow") == allow


def test_rate_limit_is_passed_on_with_its_time() -> None:
    """MCP-P-2."""
    error = refusal(head(429, (b"retry-after", b"7")), "default")
    assert isinstance(error, FailedError)
    assert (error.status, error.executed, error.retryable) == (429, Executed.NO, True)
    assert error.retry_after_s == 7.0


def test_unavailability_is_passed_on_with_a_bounded_time() -> None:
    """Who asks to come back has taken nothing; it may come from something between otherwise."""
    error = refusal(head(503, (b"retry-after", b"999999")), "default")
    assert isinstance(error, FailedError)
    assert (error.status, error.executed) == (503, Executed.NO)
    assert error.retry_after_s == RETRY_AFTER_S_MAX
    bare = refusal(head(503), "default")
    assert (bare.status, bare.executed) == (503, Executed.UNKNOWN)


@pytest.mark.parametrize(
    ("status", "session", "message", "ends"),
    [
        (404, SESSION, None, True),
        (404, SESSION, fault(-32001), True),
        (404, SESSION, fault(-32601, id=b"7"), False),
        (404, STATELESS, None, False),
        (404, None, None, False),
        (400, SESSION, None, False),
        (400, SESSION, fault(-32000, text="Bad Request: No valid session ID provided"), True),
        (400, SESSION, fault(-32000, text="Session not found", id=b"7"), True),
        (400, SESSION, fault(-32000, text="Bad Request: Server not initialized"), True),
        (400, SESSION, fault(-32600, text="Invalid session ID"), True),
        (400, SESSION, fault(-32001, text="Session was terminated"), True),
        (400, SESSION, fault(-32602, text="no such session in the calendar"), False),
        (400, SESSION, fault(-32000, text="database session pool exhausted"), False),
        (400, STATELESS, fault(-32000, text="No valid session ID provided"), False),
        (410, SESSION, None, False),
    ],
)
def test_session_ends_with_a_status_that_means_it(
    status: int, session: Session | None, message: Message | None, ends: bool
) -> None:
    """MCP-S-5, B-3: unknown methods and unknown endpoints are 404s too."""
    assert ends_session(head(status), session, message) is ends
