"""The error contract towards clients (RELIABILITY 1.11, HTTP-F8, MCP-P-1, P-3, G-7)."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from typing import Any

import pytest

from proxy_actors.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    STATUS_OF_REASON,
    ActorStoppedError,
    DeadlineError,
    Executed,
    FailedError,
    MailboxFullError,
    MessageError,
    Reason,
    RefusedError,
    StreamClosedError,
    let_go,
)
from proxy_actors.gateway import rescue
from proxy_actors.gateway.response import Response

CONTRACT = {"reason", "executed", "retryable", "requestId"}
OPTIONAL = {"upstream", "retryAfterMs"}
# What clients are told about the passing of time: these end by themselves.
PASSING = {503, 429}


def answer(error: Exception, id: bytes | None = b'"7"') -> tuple[Response, Any]:
    response = rescue.respond(error, id, "1f")
    return response, json.loads(response.body)


def field(response: Response, name: bytes) -> bytes | None:
    return dict(response.fields).get(name)


def test_every_reason_has_a_status() -> None:
    assert set(STATUS_OF_REASON) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_failure_is_told_with_status_and_contract(reason: Reason) -> None:
    error = FailedError(reason, "sorry", upstream="default")
    response, body = answer(error)
    assert response.status == STATUS_OF_REASON[reason]
    assert body["jsonrpc"] == "2.0"
    assert body["id"] == "7"
    assert body["error"]["code"] == INTERNAL_ERROR
    assert body["error"]["message"] == "sorry"
    data = body["error"]["data"]
    assert CONTRACT <= set(data) <= CONTRACT | OPTIONAL
    assert data["reason"] == reason.value
    assert data["upstream"] == "default"
    assert data["requestId"] == "1f"
    assert (data["executed"], data["retryable"]) == ("no", True)
    assert ("retryAfterMs" in data) == (response.status in PASSING)
    assert (field(response, b"retry-after") is not None) == (response.status in PASSING)


def test_what_may_have_been_executed_is_not_called_retryable() -> None:
    _, body = answer(FailedError(Reason.UPSTREAM_CLOSED, "x", executed=Executed.UNKNOWN))
    assert body["error"]["data"]["executed"] == "unknown"
    assert body["error"]["data"]["retryable"] is False


def test_retry_after_is_told_in_whole_seconds_and_in_milliseconds() -> None:
    """RFC 9110 section 10.2.3 knows no fractions; too early would be refused again."""
    response, body = answer(FailedError(Reason.RATE_LIMITED, "x", retry_after_s=2.25))
    assert field(response, b"retry-after") == b"3"
    assert body["error"]["data"]["retryAfterMs"] == 2250


def test_refusal_is_told_with_its_own_code_data_and_fields() -> None:
    error = RefusedError(
        400, "no", code=-32022, data={"supported": ["a"]}, headers=((b"allow", b"GET"),)
    )
    response, body = answer(error)
    assert response.status == 400
    assert body["error"] == {"code": -32022, "message": "no", "data": {"supported": ["a"]}}
    assert field(response, b"allow") == b"GET"


def test_id_keeps_its_json_type() -> None:
    """MCP-G-1."""
    assert answer(RefusedError(400, "no"), b"7")[1]["id"] == 7
    assert answer(RefusedError(400, "no"), b'"7"')[1]["id"] == "7"


def test_id_that_could_not_be_read_is_left_out() -> None:
    """MCP-H-3: an error without an id says so."""
    assert "id" not in answer(RefusedError(403, "no"), None)[1]


def test_message_that_was_refused_is_answered_under_its_id() -> None:
    error = MessageError("params must be an object", code=INVALID_PARAMS, request_id=b"3")
    response, body = answer(error, None)
    assert response.status == 400
    assert body == {
        "jsonrpc": "2.0",
        "id": 3,
        "error": {"code": INVALID_PARAMS, "message": "params must be an object"},
    }


def test_what_is_no_json_is_a_400() -> None:
    """MCP-H-8."""
    response, body = answer(MessageError("no JSON", code=PARSE_ERROR), None)
    assert (response.status, body["error"]["code"]) == (400, PARSE_ERROR)


@pytest.mark.parametrize(
    ("error", "reason", "executed"),
    [
        (ActorStoppedError("upstream/default/pool has stopped"), Reason.OVERLOADED, "unknown"),
        (MailboxFullError("registry has a full box"), Reason.OVERLOADED, "no"),
        (DeadlineError("the deadline was reached"), Reason.DEADLINE, "unknown"),
        (StreamClosedError("/run/secret.sock"), Reason.INTERNAL, "unknown"),
        (KeyError("password=hunter2"), Reason.INTERNAL, "unknown"),
    ],
)
def test_errors_of_the_inside_stay_inside(
    error: Exception, reason: Reason, executed: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No path, address, secret, name of a part or traceback in any answer."""
    caplog.set_level(logging.CRITICAL + 1)
    response, body = answer(error)
    data = body["error"]["data"]
    assert response.status == STATUS_OF_REASON[reason]
    assert (data["reason"], data["executed"]) == (reason.value, executed)
    told = response.body + b"".join(value for _, value in response.fields)
    for secret in str(error).strip("'").split():
        if len(secret) > 8:
            assert secret.encode() not in told


def test_what_nobody_foresaw_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer's requestId finds it."""
    try:
        raise KeyError("inside")
    except KeyError as error:
        answer(error)
    (record,) = caplog.records
    assert record.getMessage() == "request_failed request=1f"
    assert record.exc_info is not None


def test_failure_of_an_upstream_is_logged_once_with_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer's requestId finds it."""
    error = FailedError(
        Reason.UPSTREAM_CLOSED, "it has gone", executed=Executed.UNKNOWN, upstream="files"
    )
    error.__cause__ = StreamClosedError("Connection reset by peer")
    answer(error)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "WARNING",
        "upstream_failed request=1f upstream=files reason=upstream-closed executed=unknown "
        "error=it has gone cause=Connection reset by peer",
    )


@pytest.mark.parametrize(
    "error",
    [
        RefusedError(404, "no"),
        FailedError(Reason.RATE_LIMITED, "no"),
        FailedError(Reason.OVERLOADED, "no"),
        MessageError("no"),
    ],
)
def test_what_may_come_at_any_rate_is_not_logged(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    answer(error)
    assert caplog.records == []


def test_answer_says_when_the_connection_ends() -> None:
    assert rescue.respond(RefusedError(413, "no", close=True), None, "1").close
    assert not rescue.respond(RefusedError(404, "no"), None, "1").close


def test_codes_are_those_of_json_rpc() -> None:
    """MCP-G-7: none is invented in the range that the specification reserves."""
    assert answer(RefusedError(404, "no"))[1]["error"]["code"] == INVALID_REQUEST


def test_error_that_was_answered_holds_no_frames() -> None:
    """FLT-N10: what a call had received goes with it, whether the collector runs or not."""

    class Received:
        pass

    def send_twice(received: Received) -> None:
        try:
            raise FailedError(Reason.UPSTREAM_PROTOCOL, "too large")
        except FailedError as error:
            failed = error
        raise failed

    received = Received()
    gone = weakref.ref(received)
    gc.disable()
    try:
        try:
            send_twice(received)
        except FailedError as error:
            rescue.respond(error, None, "r")
        del received
        assert gone() is None
    finally:
        gc.enable()


def test_error_that_has_led_to_itself_is_answered() -> None:
    first = FailedError(Reason.UPSTREAM_CLOSED, "cut")
    second = FailedError(Reason.UPSTREAM_TIMEOUT, "late")
    first.__cause__, second.__cause__ = second, first
    assert rescue.respond(first, None, "r").status == 502


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_all_that_has_led_to_an_error_is_let_go(link: str) -> None:
    """Its cause and what it was raised within; the bound on them counts each once."""
    errors = [raised(f"{n}") for n in range(16)]
    for error, before in zip(errors, errors[1:]):
        setattr(error, link, before)
    assert let_go(errors[0]) is errors[0]
    assert [error for error in errors if error.__traceback__ is not None] == []


def test_cause_and_context_of_an_error_are_let_go_where_they_differ() -> None:
    error, cause, context = raised("error"), raised("cause"), raised("context")
    error.__cause__, error.__context__ = cause, context
    let_go(error)
    assert cause.__traceback__ is None and context.__traceback__ is None


def raised(text: str) -> FailedError:
    """An error that holds a frame."""
    try:
        raise FailedError(Reason.UPSTREAM_CLOSED, text)
    except FailedError as error:
        return error
