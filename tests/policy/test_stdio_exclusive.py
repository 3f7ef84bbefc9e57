"""The ledger of a child that serves one session, rule by rule; the interplay is searched."""

from __future__ import annotations

import pytest

from proxy_actors.errors import Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import MessageKind
from proxy_actors.policy.event_stream import CLIENT_ANSWER_S_MAX
from proxy_actors.policy.stdio_calls import CALLS_MAX, CANCELLED_S_MAX, SILENT_S_MAX
from proxy_actors.policy.stdio_exclusive import (
    LOG_MESSAGE,
    OPEN_REQUESTS_MAX,
    WAITING_BYTES_MAX,
    WAITING_FRAMES_MAX,
    WAITING_S_MAX,
    ExclusivePolicy,
)
from proxy_actors.protocol.jsonrpc import Message
from tests.policy.stdio_bench import CALL_S, Bench
from tests.policy.stdio_frames import (
    admitted,
    cancelled,
    fault,
    member,
    notification,
    progress,
    request,
    result,
)

LIST_CHANGED = notification("notifications/tools/list_changed")
LOG = notification(LOG_MESSAGE, level="info", data="x")
ELICIT = request(b"7", "elicitation/create")
TIMED_OUT = "the upstream did not answer in time"


def bench() -> Bench:
    return Bench(ExclusivePolicy())


def emitted(call_id: int, frame: Message) -> e.EmitToCall:
    kind = MessageKind(frame.kind.value)
    return e.EmitToCall(call_id, frame.raw, kind, frame.id, final=False)


def dropped(effects: list[LedgerEffect]) -> int:
    return sum(isinstance(effect, e.DropFrame) for effect in effects)


# Calls and their answers.


@pytest.mark.parametrize("id", [b"0", b"1", b'"1"', b"-5", b'"caf\xc3\xa9"', b'""', b"9" * 30])
def test_ids_pass_untouched(id: bytes) -> None:
    """MCP-G-1: value and type."""
    b = bench()
    call = request(id)
    assert b.submit(call) == [e.WriteFrame(call.raw, 1)]
    assert b.receive(result(id)) == [e.AnswerCall(1, result(id).raw)]


def test_messages_pass_as_they_came() -> None:
    """MCP-G-8: white space, order, unknown members, numbers of any size."""
    b = bench()
    raw = b'{"x": 1e400,"method":"tools/call", "id":1,"jsonrpc":"2.0","params":{"_meta":{"y":[]}}}'
    assert b.submit(admitted(raw)) == [e.WriteFrame(raw, 1)]
    answer = b'{"id": 1, "jsonrpc":"2.0", "result":{"deep":{"z":1.0}}, "w":null}'
    assert b.receive(admitted(answer)) == [e.AnswerCall(1, answer)]


def test_interleaved_answers_go_each_to_its_call() -> None:
    """FLT-U11."""
    b = bench()
    for _ in range(100):
        b.submit()
    for number in (*range(100, 0, -2), *range(1, 100, 2)):
        answer = result(b"%d" % number, f"text {number}")
        assert b.receive(answer) == [e.AnswerCall(number, answer.raw)]


@pytest.mark.parametrize(
    "frame",
    [result(b"2"), result(b'"1"'), fault(b"2"), fault(None)],
    ids=lambda frame: str(frame.raw),
)
def test_answer_under_an_id_that_is_not_in_flight_is_dropped(frame: Message) -> None:
    """FLT-U10."""
    b = bench()
    b.submit()
    assert b.receive(frame) == [e.DropFrame("response to no call in flight")]
    assert b.policy.calls == 1


def test_second_answer_is_dropped() -> None:
    """FLT-U10."""
    b = bench()
    b.submit()
    b.receive(result(b"1"))
    assert dropped(b.receive(result(b"1"))) == 1


def test_id_that_is_in_flight_is_refused() -> None:
    """FLT-C11: a defined error."""
    b = bench()
    b.submit(request(b"1"))
    text = "a request with this id is in flight"
    assert b.submit(request(b"1")) == [e.RefuseCall(2, text)]
    assert b.receive(result(b"1")) == [e.AnswerCall(1, result(b"1").raw)]


def test_number_of_calls_is_bounded() -> None:
    b = bench()
    for _ in range(CALLS_MAX):
        b.submit()
    text = "too many calls are in flight"
    assert b.submit() == [e.FailCall(CALLS_MAX + 1, Reason.OVERLOADED, text, Executed.NO)]


# Streams.


def test_call_becomes_a_stream_by_what_comes_before_its_answer() -> None:
    b = bench()
    b.submit(request(b"1", token=b'"t"'))
    told = progress(b'"t"')
    assert b.receive(told) == [e.StreamCall(1, b"1", "a"), emitted(1, told)]
    assert b.receive(told) == [emitted(1, told)]
    answer = result(b"1")
    final = e.EmitToCall(1, answer.raw, MessageKind.RESPONSE, b"1", final=True)
    assert b.receive(answer) == [final]


def test_silent_call_becomes_a_stream_so_that_its_client_can_be_kept_alive() -> None:
    b = bench()
    b.submit()
    assert b.sweep(SILENT_S_MAX - 0.1) == []
    assert b.sweep(0.1) == [e.StreamCall(1, b"1", "a")]


def test_initialize_stays_a_single_message() -> None:
    """However long it takes, and whatever the server says meanwhile."""
    b = bench()
    b.submit(request(b"1", "initialize", token=b"5"))
    assert b.sweep(SILENT_S_MAX) == []
    assert dropped(b.receive(progress(b"5"))) == 1
    for frame in (LOG, ELICIT):
        assert b.receive(frame) == []
    assert b.receive(result(b"1")) == [e.AnswerCall(1, result(b"1").raw)]


# Progress.


def test_progress_goes_to_its_call_while_that_runs() -> None:
    """MCP-X-6: by value and type of the token."""
    b = bench()
    for id, token in ((b"1", b"5"), (b"2", b'"5"')):
        b.submit(request(id, token=token))
    told = progress(b'"5"')
    assert b.receive(told)[-1] == emitted(2, told)
    b.receive(result(b"2"))
    assert b.receive(told) == [e.DropFrame("progress of no call in flight")]
    assert b.receive(progress(b"5"))[-1] == emitted(1, progress(b"5"))


# What names no call.


def test_request_goes_to_the_only_call() -> None:
    """PROTOCOL 12.4, even beside a standalone stream."""
    b = bench()
    b.tell(m.OpenStandalone("a"))
    b.submit()
    assert b.receive(ELICIT)[-1] == emitted(1, ELICIT)


@pytest.mark.parametrize("frame", [ELICIT, LOG], ids=["request", "log"])
def test_what_could_be_of_several_calls_goes_to_the_standalone_stream(frame: Message) -> None:
    b = bench()
    b.tell(m.OpenStandalone("a"))
    b.submit()
    b.submit()
    kind = MessageKind(frame.kind.value)
    assert b.receive(frame) == [e.EmitToSession("a", frame.raw, kind, frame.id)]


@pytest.mark.parametrize("frame", [ELICIT, LOG], ids=["request", "log"])
def test_without_a_standalone_stream_it_goes_to_the_last_of_several_calls(frame: Message) -> None:
    b = bench()
    b.submit()
    b.submit()
    assert b.receive(frame)[-1] == emitted(2, frame)


def test_other_notifications_go_to_the_standalone_stream() -> None:
    b = bench()
    b.submit()
    b.tell(m.OpenStandalone("a"))
    assert b.receive(LIST_CHANGED) == [
        e.EmitToSession("a", LIST_CHANGED.raw, MessageKind.NOTIFICATION, None)
    ]


def test_what_comes_too_early_waits_for_the_standalone_stream() -> None:
    """Servers ask for roots as soon as they are initialized."""
    b = bench()
    roots = request(b"1", "roots/list")
    assert b.receive(roots) == []
    assert b.receive(LIST_CHANGED) == []
    start, *given = b.tell(m.OpenStandalone("a"))
    assert start == e.StartStandalone("a")
    assert [x.data for x in given if isinstance(x, e.EmitToSession)] == [
        roots.raw, LIST_CHANGED.raw
    ]
    assert b.send(result(b"1")) == [e.WriteFrame(result(b"1").raw)]


def test_request_that_nobody_comes_for_is_answered_with_an_error() -> None:
    """PROTOCOL 9.5: the server does not wait for ever."""
    b = bench()
    b.receive(ELICIT)
    b.receive(LIST_CHANGED)
    assert b.sweep(WAITING_S_MAX - 0.1) == []
    drop, write, second = b.sweep(0.1)
    assert isinstance(write, e.WriteFrame)
    assert (member(write.data, "id"), bool(member(write.data, "error"))) == (b"7", True)
    assert dropped([drop, second]) == 2
    assert dropped(b.send(result(b"7"))) == 1


def test_request_that_the_server_has_taken_back_is_not_answered() -> None:
    b = bench()
    b.receive(ELICIT)
    b.receive(cancelled(b"7"))
    assert dropped(b.sweep(WAITING_S_MAX)) == 2


def test_what_waits_is_bounded_in_number() -> None:
    b = bench()
    for _ in range(WAITING_FRAMES_MAX):
        assert b.receive(LIST_CHANGED) == []
    assert dropped(b.receive(LIST_CHANGED)) == 1
    assert len(b.tell(m.OpenStandalone("a"))) == 1 + WAITING_FRAMES_MAX


def test_what_waits_is_bounded_in_bytes() -> None:
    b = bench()
    large = notification("notifications/x", filler="x" * (WAITING_BYTES_MAX // 2))
    assert b.receive(large) == []
    assert dropped(b.receive(large)) == 1
    b.tell(m.OpenStandalone("a"))
    b.policy.standalone_ended()
    assert b.receive(large) == []


def test_ping_of_the_server_is_answered_here() -> None:
    """MCP-S-24."""
    write = e.WriteFrame(b'{"jsonrpc":"2.0","id":"p","result":{}}')
    assert bench().receive(request(b'"p"', "ping")) == [write]


# Requests of the server.


def test_clock_stands_still_while_the_client_is_asked() -> None:
    """MCP-X-7."""
    b = bench()
    b.submit()
    b.now_s += CALL_S - 1.0
    b.receive(ELICIT)
    assert b.sweep(600.0) == []
    b.send(result(b"7"))
    assert b.sweep(0.9) == []
    assert b.sweep(0.1)[0] == e.FailCall(1, Reason.UPSTREAM_TIMEOUT, TIMED_OUT, Executed.UNKNOWN)


def test_clock_stands_still_until_the_last_of_several_answers() -> None:
    b = bench()
    b.submit()
    b.receive(ELICIT)
    b.receive(request(b'"7"', "sampling/createMessage"))
    b.send(result(b"7"))
    assert b.sweep(CALL_S) == []
    b.send(fault(b'"7"'))
    assert b.sweep(CALL_S)[0] == e.FailCall(
        1, Reason.UPSTREAM_TIMEOUT, TIMED_OUT, Executed.UNKNOWN
    )


def test_clock_does_not_stand_still_for_ever() -> None:
    """MCP-X-5: the client may have left, and will never answer."""
    b = bench()
    b.submit()
    b.receive(ELICIT)
    assert b.sweep(CLIENT_ANSWER_S_MAX - 0.1) == []
    failed, cancel = b.sweep(0.1)
    assert failed == e.FailCall(1, Reason.UPSTREAM_TIMEOUT, TIMED_OUT, Executed.UNKNOWN)
    assert isinstance(cancel, e.WriteFrame)
    assert b.policy.calls == 0


def test_server_that_takes_its_request_back_starts_the_clock() -> None:
    b = bench()
    b.submit()
    b.receive(ELICIT)
    taken_back = cancelled(b"7")
    assert b.receive(taken_back) == [emitted(1, taken_back)]
    assert isinstance(b.sweep(CALL_S)[0], e.FailCall)


def test_answer_to_no_open_request_is_dropped() -> None:
    b = bench()
    b.submit()
    b.receive(ELICIT)
    assert b.send(result(b'"7"')) == [e.DropFrame("answer to no open request")]
    b.send(result(b"7"))
    assert dropped(b.send(result(b"7"))) == 1


def test_request_under_the_id_of_an_open_one_is_dropped() -> None:
    """FLT-U10: there would be one answer for the two."""
    b = bench()
    b.submit()
    b.receive(ELICIT)
    assert b.receive(ELICIT) == [e.DropFrame("request with the id of an open one")]


def test_answer_of_a_client_passes_after_the_end_of_the_call() -> None:
    b = bench()
    b.submit()
    b.receive(ELICIT)
    b.receive(result(b"1"))
    assert b.send(result(b"7")) == [e.WriteFrame(result(b"7").raw)]


def test_request_taken_back_after_the_end_of_its_call_is_told_elsewhere() -> None:
    """A stream that is over carries nothing (MCP-S-22)."""
    b = bench()
    b.tell(m.OpenStandalone("a"))
    b.submit()
    b.receive(ELICIT)
    b.tell(m.AbandonCall(1))
    (told,) = b.receive(cancelled(b"7"))
    assert isinstance(told, e.EmitToSession)


def test_oldest_of_too_many_open_requests_is_answered_with_an_error() -> None:
    """Clients need not answer, and servers may ask again and again."""
    b = bench()
    b.tell(m.OpenStandalone("a"))
    for number in range(OPEN_REQUESTS_MAX):
        assert len(b.receive(request(b"%d" % number, "roots/list"))) == 1
    write, _ = b.receive(request(b"-1", "roots/list"))
    assert isinstance(write, e.WriteFrame)
    assert (member(write.data, "id"), bool(member(write.data, "error"))) == (b"0", True)
    assert dropped(b.send(result(b"0"))) == 1
    assert dropped(b.send(result(b"1"))) == 0


# Cancelling and ends.


def test_cancelled_call_may_still_be_answered_but_not_for_long() -> None:
    """MCP-X-3, and servers should not answer it."""
    b = bench()
    b.submit()
    cancel = cancelled(b"1")
    assert b.send(cancel) == [e.WriteFrame(cancel.raw)]
    assert b.sweep(CANCELLED_S_MAX - 0.1) == []
    assert b.sweep(0.1) == [e.StreamCall(1, b"1", "a"), e.EndCall(1)]
    assert dropped(b.receive(result(b"1"))) == 1  # MCP-X-4


def test_answer_that_crosses_the_cancellation_is_the_answer() -> None:
    b = bench()
    b.submit()
    b.send(cancelled(b"1"))
    assert b.receive(result(b"1")) == [e.AnswerCall(1, result(b"1").raw)]


def test_call_that_is_cancelled_while_its_clock_stands_has_time_to_end() -> None:
    b = bench()
    b.submit()
    b.receive(ELICIT)
    b.now_s += 2 * CALL_S
    b.send(cancelled(b"1"))
    assert b.sweep(CANCELLED_S_MAX - 0.1) == []
    assert b.sweep(0.1) == [e.EndCall(1)]


def test_call_that_nobody_waits_for_is_cancelled() -> None:
    """MCP-X-5, and its late answer is dropped (MCP-X-4)."""
    b = bench()
    b.submit(request(b'"x"'))
    (cancel,) = b.tell(m.AbandonCall(1))
    assert isinstance(cancel, e.WriteFrame)
    assert member(cancel.data, "method") == b'"notifications/cancelled"'
    assert member(cancel.data, "params", "requestId") == b'"x"'
    assert b.tell(m.AbandonCall(1)) == []
    assert dropped(b.receive(result(b'"x"'))) == 1


def test_call_that_was_never_written_is_not_cancelled() -> None:
    """Only what was sent may be cancelled (2025-11-25 basic/utilities/cancellation)."""
    b = bench()
    b.submit(request(b'"x"'))
    assert b.tell(m.AbandonCall(1, unwritten=True)) == []
    assert dropped(b.receive(result(b'"x"'))) == 1


def test_initialize_is_never_cancelled() -> None:
    """MCP-S-25."""
    b = bench()
    b.submit(request(b"1", "initialize"))
    assert b.tell(m.AbandonCall(1)) == []
    b.submit(request(b"2", "initialize"))
    assert b.sweep(CALL_S) == [
        e.FailCall(2, Reason.UPSTREAM_TIMEOUT, TIMED_OUT, Executed.UNKNOWN)
    ]


def test_end_of_the_child_answers_every_call() -> None:
    """FLT-U1: executed is unknown, unless the request was never written."""
    b = bench()
    b.tell(m.OpenStandalone("a"))
    b.submit()
    b.submit()
    effects = b.policy.exited(Reason.PROCESS_EXITED, "killed", {2})
    assert effects == [
        e.FailCall(1, Reason.PROCESS_EXITED, "killed", Executed.UNKNOWN),
        e.FailCall(2, Reason.PROCESS_EXITED, "killed", Executed.NO),
        e.CloseStandalone("a"),
    ]


def test_drain_refuses_new_calls_and_waits_for_those_that_run() -> None:
    b = bench()
    b.submit()
    assert b.tell(m.DrainProcess()) == []
    text = "the upstream is being drained"
    assert b.submit() == [e.FailCall(2, Reason.DRAINING, text, Executed.NO)]
    assert b.receive(result(b"1"))[-1] == e.AnnounceDrained()
    assert b.tell(m.DrainProcess()) == []


def test_timer_is_armed_while_there_is_something_to_watch() -> None:
    b = bench()
    assert b.generation == 0
    b.submit()
    assert b.generation == 1
    b.submit()
    assert b.generation == 1
    b.sweep(0.5)
    assert b.generation == 2
    assert b.tell(m.CallSweepDue(1)) == []
    for id in (b"1", b"2"):
        b.receive(result(id))
    b.sweep(0.5)
    assert b.generation == 2
