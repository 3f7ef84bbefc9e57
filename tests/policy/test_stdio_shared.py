"""The ledger of a child that serves many sessions, rule by rule; the interplay is searched."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from proxy_actors.errors import METHOD_NOT_FOUND, Executed, Reason
from proxy_actors.messages import stdio as m
from proxy_actors.messages import stdio_effects as e
from proxy_actors.messages.pool import Owner
from proxy_actors.messages.stdio_effects import LedgerEffect
from proxy_actors.messages.stream import MessageKind
from proxy_actors.policy.stdio_calls import (
    CALLS_MAX,
    CANCELLED_S_MAX,
    GIVEN_UP_MAX,
    SILENT_S_MAX,
    cuts_streams_alone,
)
from proxy_actors.policy.stdio_shared import OWN_S_MAX, SharedPolicy
from proxy_actors.protocol import jsonrpc_rewrite
from proxy_actors.protocol.jsonrpc import Message
from tests.policy.stdio_bench import CALL_S, Bench
from tests.policy.stdio_frames import (
    DESCRIBED,
    admitted,
    cancelled,
    fault,
    member,
    notification,
    progress,
    request,
    result,
)

HANDSHAKE = b"1"
ONE_A, ONE_B, TWO_C = Owner("one", "a"), Owner("one", "b"), Owner("two", "c")
TIMED_OUT = "the upstream did not answer in time"


def unready(announces_ends: bool = False) -> Bench:
    return Bench(SharedPolicy(announces_ends))


def bench(announces_ends: bool = False) -> Bench:
    """A ledger whose child has been initialized."""
    b = unready(announces_ends)
    b.receive(shaken())
    return b


def shaken(id: bytes = HANDSHAKE) -> Message:
    return admitted(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, DESCRIBED.result))


def written(effects: list[LedgerEffect]) -> bytes:
    """The one line that is written."""
    (line,) = [effect.data for effect in effects if isinstance(effect, e.WriteFrame)]
    return line


def upstream_id(effects: list[LedgerEffect]) -> bytes:
    return member(written(effects), "id")


def dropped(effects: list[LedgerEffect]) -> int:
    return sum(isinstance(effect, e.DropFrame) for effect in effects)


# The handshake.


def test_proxy_shakes_hands_itself_and_declares_no_capability() -> None:
    """PROTOCOL 9.4: none of roots, sampling, elicitation on a child that clients share."""
    hello = written(SharedPolicy().begin(0.0))
    assert member(hello, "method") == b'"initialize"'
    assert member(hello, "params", "capabilities") == b"{}"
    assert member(hello, "params", "protocolVersion") == b'"2025-11-25"'
    initialized, ready = unready().receive(shaken())
    assert initialized == e.WriteFrame(
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    )
    assert ready == e.AnnounceReady(DESCRIBED)


@pytest.mark.parametrize("answer", [
    fault(HANDSHAKE),
    result(HANDSHAKE),
    admitted(b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2026-07-28"}}'),
    admitted(b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":3}}'),
    admitted(b'{"jsonrpc":"2.0","id":1,"result":[]}'),
], ids=["error", "no version", "later version", "number", "array"])
def test_child_whose_handshake_is_of_no_use_is_given_up(answer: Message) -> None:
    """FLT-U2."""
    (given_up,) = unready().receive(answer)
    assert isinstance(given_up, e.GiveUp)


def test_child_that_does_not_answer_initialize_is_given_up() -> None:
    """FLT-U4."""
    b = unready()
    assert b.sweep(OWN_S_MAX - 0.1) == []
    (given_up,) = b.sweep(0.1)
    assert isinstance(given_up, e.GiveUp)
    assert dropped(b.receive(shaken())) == 1


def test_nothing_is_said_before_the_handshake_is_done() -> None:
    """2025-11-25 basic/lifecycle; then all that was held back is, the proxy's first."""
    b = unready()
    assert b.submit(request(b"1")) == []
    assert b.tell(m.SubmitOwn(5, "logging/setLevel", b"{}")) == []
    assert b.submit(request(b"2")) == []
    assert dropped(b.send(notification("notifications/x"))) == 1
    _, _, *held = b.receive(shaken())
    lines = [effect for effect in held if isinstance(effect, e.WriteFrame)]
    assert [line.call_id for line in lines] == [None, 1, 2]
    assert [member(line.data, "method") for line in lines] == [
        b'"logging/setLevel"', b'"tools/call"', b'"tools/call"'
    ]


def test_what_was_held_back_is_sent_so_that_owners_take_turns() -> None:
    b = unready()
    for owner in (ONE_A, ONE_A, ONE_B, TWO_C):
        b.submit(owner=owner)
    _, _, *held = b.receive(shaken())
    lines = [effect.call_id for effect in held if isinstance(effect, e.WriteFrame)]
    assert lines == [1, 4, 3, 2]


def test_call_that_was_given_up_before_the_handshake_is_never_sent() -> None:
    """By the exchange, by its client, by its deadline."""
    b = unready()
    for _ in range(3):
        b.submit()
    assert b.tell(m.AbandonCall(1)) == []
    assert b.send(cancelled(b"2")) == [e.StreamCall(2, b"2", "a"), e.EndCall(2)]
    failed, _ = b.sweep(CALL_S)
    text = "the server process did not become ready in time"
    assert failed == e.FailCall(3, Reason.UPSTREAM_TIMEOUT, text, Executed.NO)
    assert b.policy.calls == 0


def test_call_that_was_given_up_before_the_handshake_is_not_sent_after_it() -> None:
    b = unready()
    b.submit()
    b.tell(m.AbandonCall(1))
    assert len(b.receive(shaken())) == 2


def test_end_of_the_child_before_the_handshake_means_not_executed() -> None:
    b = unready()
    b.submit()
    assert b.policy.exited(Reason.PROCESS_EXITED, "killed", set()) == [
        e.FailCall(1, Reason.PROCESS_EXITED, "killed", Executed.NO)
    ]


def test_answer_to_what_was_not_sent_is_dropped() -> None:
    """A child that counts along knows the next id."""
    b = unready()
    b.submit(request(b"1", token=b"1"))
    assert dropped(b.receive(result(b"2"))) == 1
    assert dropped(b.receive(progress(b"2"))) == 1
    assert upstream_id(b.receive(shaken())[2:]) == b"2"


def test_call_that_may_have_no_stream_gets_its_answer_and_nothing_else() -> None:
    """What is said of it meanwhile is counted; it is asked for a stream once."""
    b = bench()
    sent = upstream_id(b.submit(request(b"1", token=b"1")))
    assert b.receive(progress(sent))[0] == e.StreamCall(1, b"1", "a")
    assert b.tell(m.StreamRefused(1)) == []
    assert dropped(b.receive(progress(sent))) == 1
    assert b.sweep(SILENT_S_MAX) == []
    assert b.receive(result(sent)) == [e.AnswerCall(1, result(b"1").raw)]
    assert b.tell(m.StreamRefused(1)) == []


# Ids and tokens (THR-T4).


@pytest.mark.parametrize("id", [b"0", b'"0"', b"-5", b'"caf\xc3\xa9"', b'""', b"9" * 30])
def test_answer_carries_the_clients_own_id(id: bytes) -> None:
    """MCP-G-1: value and type."""
    b = bench()
    sent = upstream_id(b.submit(request(id)))
    assert b.receive(result(sent)) == [e.AnswerCall(1, result(id).raw)]


def test_equal_ids_of_many_clients_are_different_at_the_child() -> None:
    """MCP-G-3; and never used again."""
    b = bench()
    first = {upstream_id(b.submit(request(b"0"), key)) for key in "abc"}
    for id in first:
        b.receive(result(id))
    second = {upstream_id(b.submit(request(b"0"), key)) for key in "abc"}
    assert len(first | second | {HANDSHAKE}) == 7


def test_everything_but_id_and_token_passes_as_it_came() -> None:
    """MCP-G-8."""
    b = bench()
    call = admitted(
        b'{"jsonrpc":"2.0","id":"x","method":"tools/call","y":1e400,'
        b'"params":{"name":"t","_meta":{"progressToken":"p","z":[1.0]},"arguments":{"id":"x"}}}'
    )
    assert b.submit(call) == [e.WriteFrame(
        b'{"jsonrpc":"2.0","id":2,"method":"tools/call","y":1e400,'
        b'"params":{"name":"t","_meta":{"progressToken":2,"z":[1.0]},"arguments":{"id":"x"}}}', 1
    )]


def test_thousand_sessions_that_all_use_id_0_get_each_its_own() -> None:
    """THR-T4, CVE-2026-25536: answers, errors, progress, late and wrong ids, in any order."""
    for seed in range(8):
        dice = random.Random(seed)
        b = bench()
        ids: list[bytes] = []
        for number in range(CALLS_MAX):
            sent = b.submit(request(b"0", token=b"0", arguments={"n": number}), f"session {number}")
            ids.append(upstream_id(sent))
            assert member(written(sent), "params", "_meta", "progressToken") == ids[-1]
        order = list(range(CALLS_MAX))
        dice.shuffle(order)
        for number in order:
            id, call_id, text = ids[number], number + 1, f"text {number}"
            streams = dice.random() < 0.5
            if streams:
                told = b.receive(progress(id, number))
                want = e.EmitToCall(
                    call_id, progress(b"0", number).raw, MessageKind.NOTIFICATION, None, False
                )
                assert told == [e.StreamCall(call_id, b"0", f"session {number}"), want]
            make = dice.choice((result, fault))
            data = make(b"0", text).raw
            answer = e.AnswerCall(call_id, data)
            final = e.EmitToCall(call_id, data, MessageKind.RESPONSE, b"0", final=True)
            assert b.receive(make(id, text)) == [final if streams else answer]
            wrong = dice.choice((result(id), result(b'"%b"' % id), progress(id), fault(None)))
            assert dropped(b.receive(wrong)) == 1
        assert b.policy.calls == 0


def test_progress_goes_to_its_call_while_that_runs_under_the_clients_token() -> None:
    """MCP-X-6."""
    b = bench()
    first = upstream_id(b.submit(request(b"0", token=b'"t"'), "a"))
    second = upstream_id(b.submit(request(b"0", token=b'"t"'), "b"))
    told = b.receive(progress(second, 3))[-1]
    own = progress(b'"t"', 3)
    assert told == e.EmitToCall(2, own.raw, MessageKind.NOTIFICATION, None, final=False)
    b.receive(result(second))
    assert b.receive(progress(second)) == [e.DropFrame("progress of no call in flight")]
    assert dropped(b.receive(progress(b'"%b"' % first))) == 1


def test_progress_that_nobody_asked_for_is_dropped() -> None:
    b = bench()
    sent = upstream_id(b.submit(request(b"0")))
    assert dropped(b.receive(progress(sent))) == 1


def test_cancellation_names_the_try_in_hand() -> None:
    """MCP-X-3: a call that is sent again is another one to the child, and the same to clients."""
    b = bench()
    first = upstream_id(b.submit(request(b"0")))
    b.tell(m.AbandonCall(1))
    again = upstream_id(b.submit(request(b"0")))
    cancel = written(b.send(cancelled(b"0")))
    assert member(cancel, "params", "requestId") == again != first


def test_cancellation_names_the_call_of_the_one_who_cancels() -> None:
    """MCP-X-3: others have the same id in flight."""
    b = bench()
    b.submit(request(b"0"), "a")
    second = upstream_id(b.submit(request(b"0"), "b"))
    cancel = written(b.send(cancelled(b"0"), "b"))
    assert member(cancel, "params", "requestId") == second
    assert dropped(b.send(cancelled(b'"0"'), "b")) == 1
    assert dropped(b.send(cancelled(b"0"), "c")) == 1
    assert b.sweep(CANCELLED_S_MAX) == [
        e.StreamCall(1, b"0", "a"), e.StreamCall(2, b"0", "b"), e.EndCall(2)
    ]


def test_id_that_the_session_has_in_flight_is_refused() -> None:
    """FLT-C11; another session's is not."""
    b = bench()
    b.submit(request(b"0"), "a")
    text = "a request with this id is in flight"
    assert b.submit(request(b"0"), "a") == [e.RefuseCall(2, text)]
    assert isinstance(b.submit(request(b"0"), "b")[0], e.WriteFrame)
    assert isinstance(b.submit(request(b'"0"'), "a")[0], e.WriteFrame)


@pytest.mark.parametrize(
    "frame", [result(b"99"), result(b'"2"'), fault(None)], ids=lambda frame: str(frame.raw)
)
def test_answer_under_an_id_that_is_not_in_flight_is_dropped(frame: Message) -> None:
    """FLT-U10."""
    b = bench()
    assert upstream_id(b.submit()) == b"2"
    assert b.receive(frame) == [e.DropFrame("response to no call in flight")]


def test_late_and_second_answers_are_dropped() -> None:
    """FLT-U10, MCP-X-4."""
    b = bench()
    first, second = upstream_id(b.submit()), upstream_id(b.submit())
    b.tell(m.AbandonCall(1))
    b.receive(result(second))
    for id in (first, second, HANDSHAKE):
        assert dropped(b.receive(result(id))) == 1


# What a server asks.


@pytest.mark.parametrize("method", ["elicitation/create", "sampling/createMessage", "roots/list"])
def test_server_that_asks_the_client_something_is_refused_at_once(method: str) -> None:
    """Its tool fails with the server's own error; nobody could say which client it means."""
    b = bench()
    b.submit()
    line = written(b.receive(request(b'"q"', method)))
    assert member(line, "id") == b'"q"'
    assert member(line, "error", "code") == str(METHOD_NOT_FOUND).encode()


def test_ping_of_the_server_is_answered() -> None:
    """MCP-S-24, before the handshake too."""
    for b in (bench(), unready()):
        write = e.WriteFrame(b'{"jsonrpc":"2.0","id":3,"result":{}}')
        assert b.receive(request(b"3", "ping")) == [write]


@pytest.mark.parametrize("message", [
    result(b"1"), notification("notifications/initialized"), progress(b"1"),
    notification("notifications/roots/list_changed"), cancelled(b"5"),
], ids=lambda message: message.method or "response")
def test_what_a_client_says_of_a_handshake_that_was_not_its_own_is_dropped(
    message: Message,
) -> None:
    assert dropped(bench().send(message)) == 1


def test_what_names_no_call_goes_to_the_upstream() -> None:
    frame = notification("notifications/tools/list_changed")
    assert bench().receive(frame) == [e.TellUpstream(frame, frozenset())]


def test_upstream_is_told_for_whom_the_child_may_be_at_work() -> None:
    """A call that ended without a response may still run: an answer that comes late ends it."""
    frame = notification("notifications/message", level="info", data="x")

    def at_work_for() -> set[str]:
        (told,) = b.receive(frame)
        assert isinstance(told, e.TellUpstream)
        return set(told.sessions)

    b = bench()
    id = upstream_id(b.submit(key="a"))
    other = upstream_id(b.submit(key="b"))
    assert at_work_for() == {"a", "b"}
    b.receive(result(id))
    assert at_work_for() == {"b"}
    b.tell(m.AbandonCall(2))
    assert at_work_for() == {"b"}
    b.receive(result(other))
    assert at_work_for() == set()


def test_child_is_not_at_work_for_what_was_never_written() -> None:
    b = bench()
    b.submit(key="a")
    b.tell(m.AbandonCall(1, unwritten=True))
    assert b.policy._calls.sessions() == frozenset()


def test_calls_that_were_given_up_are_remembered_up_to_a_bound() -> None:
    b = bench()
    for number in range(GIVEN_UP_MAX + 5):
        b.submit(key=f"s{number}")
        b.tell(m.AbandonCall(number + 1))
    sessions = b.policy._calls.sessions()
    assert len(sessions) == GIVEN_UP_MAX
    assert "s4" not in sessions


# Requests in the proxy's own name.


@pytest.mark.parametrize("make", [result, fault])
def test_own_request_is_answered_to_the_upstream(make: type) -> None:
    b = bench()
    id = upstream_id(b.tell(m.SubmitOwn(5, "logging/setLevel", b'{"level":"info"}')))
    answer = make(id)
    told = e.TellOwnAnswered(5, b'{"text":"done"}')
    if answer.is_error:
        told = e.TellOwnAnswered(5, None, b'{"code":-32000,"message":"failed"}')
    assert b.receive(answer) == [told]
    assert dropped(b.receive(answer)) == 1


def test_own_request_is_always_answered() -> None:
    """MCP-X-5: and cancelled when it has taken too long."""
    b = bench()
    id = upstream_id(b.tell(m.SubmitOwn(5, "logging/setLevel", b"{}")))
    assert b.sweep(OWN_S_MAX - 0.1) == []
    told, cancel = b.sweep(0.1)
    assert told == e.TellOwnAnswered(5, reason=Reason.UPSTREAM_TIMEOUT)
    assert isinstance(cancel, e.WriteFrame)
    assert member(cancel.data, "params", "requestId") == id
    b.tell(m.SubmitOwn(6, "logging/setLevel", b"{}"))
    assert b.policy.exited(Reason.PROCESS_EXITED, "killed", set()) == [
        e.TellOwnAnswered(6, reason=Reason.PROCESS_EXITED)
    ]


# POOL mode: the end of a call frees its child.


@pytest.mark.parametrize("end", [
    lambda b, id: b.receive(result(id)),
    lambda b, id: [*b.receive(progress(id)), *b.receive(fault(id))],
    lambda b, id: [*b.send(cancelled(b"0")), *b.sweep(CANCELLED_S_MAX)],
    lambda b, id: b.sweep(CALL_S),
    lambda b, id: b.policy.exited(Reason.PROCESS_EXITED, "killed", set()),
], ids=["answered", "streamed", "cancelled", "late", "child ended"])
def test_end_of_a_call_is_announced_once(
    end: Callable[[Bench, bytes], list[LedgerEffect]]
) -> None:
    b = bench(announces_ends=True)
    sent = b.submit(request(b"0", token=b"0"))
    effects = end(b, upstream_id(sent))
    assert [x for x in effects if isinstance(x, e.TellCallEnded)] == [e.TellCallEnded(1)]


def test_call_that_is_refused_has_ended() -> None:
    b = bench(announces_ends=True)
    b.submit(request(b"0"))
    assert b.submit(request(b"0"))[-1] == e.TellCallEnded(2)
    b.tell(m.DrainProcess())
    assert b.submit()[-1] == e.TellCallEnded(3)


def test_ends_are_not_announced_where_nobody_counts_them() -> None:
    b = bench()
    sent = upstream_id(b.submit())
    assert [type(x) for x in b.receive(result(sent))] == [e.AnswerCall]


# Draining.


def test_drain_refuses_new_calls_and_waits_for_those_that_run() -> None:
    b = bench()
    sent = upstream_id(b.submit())
    own = upstream_id(b.tell(m.SubmitOwn(5, "logging/setLevel", b"{}")))
    assert b.tell(m.DrainProcess()) == []
    text = "the upstream is being drained"
    assert b.submit() == [e.FailCall(2, Reason.DRAINING, text, Executed.NO)]
    assert len(b.receive(result(sent))) == 1
    assert b.receive(result(own))[-1] == e.AnnounceDrained()
    assert b.tell(m.DrainProcess()) == []


def test_drain_of_a_child_that_is_still_starting_is_over_at_once() -> None:
    """No call runs there."""
    assert unready().tell(m.DrainProcess()) == [e.AnnounceDrained()]


def test_number_of_calls_is_bounded_before_the_handshake_too() -> None:
    """FLT-U14."""
    b = unready()
    for _ in range(CALLS_MAX):
        b.submit()
    text = "too many calls are in flight"
    assert b.submit() == [e.FailCall(CALLS_MAX + 1, Reason.OVERLOADED, text, Executed.NO)]


def test_who_has_all_that_it_can_get_leaves_room_for_others() -> None:
    """A session for another one of its owner, the two for another owner, and what ends for all."""
    b = bench()

    def submitted(owner: Owner) -> int:
        """Submit until it is refused."""
        for count in range(3 * CALLS_MAX + 1):
            if isinstance(b.submit(key=owner.session, owner=owner)[0], e.FailCall):
                return count
        raise AssertionError("no bound")

    assert [submitted(x) for x in (ONE_A, ONE_B, TWO_C)] == [CALLS_MAX, 334, 556]
    assert submitted(ONE_A) == submitted(TWO_C) == 0
    assert submitted(Owner("three", "d")) == 370
    for call_id in range(1, CALLS_MAX + 1):
        b.tell(m.AbandonCall(call_id))
    assert submitted(TWO_C) > 0


def test_line_of_the_proxy_is_one_line() -> None:
    """MCP-I-1, THR-T21."""
    b = bench()
    line = written(b.submit(admitted(b'{"jsonrpc":"2.0","id":1,\n"method":"x",\r"params":{}}')))
    assert b"\n" not in line and b"\r" not in line
    assert jsonrpc_rewrite.request(b"2", "x", {}) == line


@pytest.mark.parametrize("cut, waiting, expected", [
    ([], {1}, False),
    ([(1, Executed.UNKNOWN)], {1}, False),
    ([(1, Executed.UNKNOWN)], {2}, True),
    ([(1, Executed.NO)], set(), False),
    ([(1, Executed.UNKNOWN), (2, Executed.NO)], {2}, True),
    ([(1, Executed.UNKNOWN), (2, Executed.UNKNOWN)], {2}, False),
], ids=str)  # fmt: skip
def test_end_of_a_child_is_told_where_no_call_tells_of_it(
    cut: list[tuple[int, Executed]], waiting: set[int], expected: bool
) -> None:
    """A call that never reached the child says nothing of it."""
    ended = [e.FailCall(id, Reason.PROCESS_EXITED, "", executed) for id, executed in cut]
    assert cuts_streams_alone([e.EndCall(7), *ended], waiting) is expected
