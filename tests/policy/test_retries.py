"""What is sent again: every failure, method, annotation, number of retries and time that is left.

RELIABILITY 1.3. A tool call that may have been executed is never repeated, unless its server is
trusted and says that this does no harm.
"""

from __future__ import annotations

import itertools

import pytest

from proxy_actors.errors import Executed, FailedError, Reason, Side
from proxy_actors.policy import retries
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.retries import (
    RETRY_AFTER_S_MAX,
    Failure,
    Repeats,
    RetryLimits,
    failure_of,
    repeats_of,
    retry_wait_s,
)
from proxy_actors.policy.retry_budget import RetryBudget
from proxy_actors.policy.tool_hints import AGE_S_MAX, TOOLS_MAX, ToolHints
from tests.defects import Defect, planted

LIMITS = RetryLimits(attempts_max=2, base_ms=25, cap_ms=250)
METHODS = {
    "initialize": Repeats.FREELY,
    "ping": Repeats.FREELY,
    "tools/list": Repeats.FREELY,
    "prompts/list": Repeats.FREELY,
    "resources/list": Repeats.FREELY,
    "resources/templates/list": Repeats.FREELY,
    "logging/setLevel": Repeats.FREELY,
    "resources/subscribe": Repeats.FREELY,
    "resources/unsubscribe": Repeats.FREELY,
    "resources/read": Repeats.ONCE,
    "prompts/get": Repeats.ONCE,
    "completion/complete": Repeats.ONCE,
    "tools/call": Repeats.NEVER,
    "tasks/result": Repeats.NEVER,
    "vendor/anything": Repeats.NEVER,
    None: Repeats.NEVER,
}
# What is never tried again at once, whoever says it and whatever may have been executed.
REFUSALS = {
    Reason.POOL_EXHAUSTED, Reason.OVERLOADED, Reason.CIRCUIT_OPEN, Reason.DRAINING,
    Reason.DEADLINE, Reason.SESSION_LOST, Reason.TOO_LARGE, Reason.UNAUTHORIZED,
    Reason.FORBIDDEN, Reason.INTERNAL,
}  # fmt: skip
ANSWERED = (None, 401, 403, 429, 500, 502, 503)
AFTER_S = (None, 0.0, 1.0, RETRY_AFTER_S_MAX, RETRY_AFTER_S_MAX + 0.1)


def error(
    reason: Reason, executed: Executed = Executed.NO, answered: int | None = None,
    after_s: float | None = None, side: Side = Side.UPSTREAM,
) -> FailedError:
    return FailedError(
        reason, "", executed=executed, answered=answered, retry_after_s=after_s, side=side
    )


PLACES = ((0.0, False), (0.0, True), (2.0, False), (2.0, True))
SIDES = (Side.UPSTREAM, Side.PROXY)
ALL = [error(*x) for x in itertools.product(Reason, Executed, ANSWERED, AFTER_S, SIDES)]


def drawn() -> float:
    return 0.5


def sent_again(
    failed: FailedError, method: str | None, hinted: bool, tried: int, took_s: float,
    elsewhere: bool, left_s: float,
) -> float | None:
    repeats = repeats_of(method, hinted)
    return retry_wait_s(failed, repeats, tried, took_s, elsewhere, left_s, LIMITS, drawn)


def check_everything() -> int:
    """Try all of it, against the rules in other words; return how often something is sent again."""
    count = 0
    for failed, (method, repeats), hinted, tried, (took_s, elsewhere), left_s in itertools.product(
        ALL, METHODS.items(), (False, True), (0, 1, 2), PLACES, (0.01, 1.2, 100.0)
    ):
        if hinted and method != "tools/call":
            continue
        wait_s = sent_again(failed, method, hinted, tried, took_s, elsewhere, left_s)
        if wait_s is None:
            continue
        count += 1
        assert failed.side is Side.UPSTREAM, "what we ourselves have refused"
        assert tried < LIMITS.attempts_max, "more often than is allowed"
        assert 0 <= wait_s < left_s, "beyond the deadline"
        asked_to_wait = failed.answered in (429, 503) and failed.retry_after_s is not None
        if asked_to_wait:
            assert failed.retry_after_s is not None
            assert failed.retry_after_s <= wait_s <= 1.5 * failed.retry_after_s
            assert failed.retry_after_s <= RETRY_AFTER_S_MAX
        else:
            assert wait_s <= LIMITS.cap_ms / 1000
        if failed.answered == 429 or asked_to_wait:
            continue
        assert failed.reason not in REFUSALS, "an overload would go on by it"
        assert failed.answered not in (401, 403), "the credentials will be no better"
        if failed.reason is Reason.CONNECT_FAILED:
            assert took_s < 1.0 or elsewhere, "a black hole is tried again"
        if failed.executed is Executed.UNKNOWN:
            assert repeats is not Repeats.NEVER or hinted, "a call may be executed twice"
            assert repeats is not Repeats.ONCE or tried == 0, "a read is repeated for long"
    return count


def test_nothing_is_sent_again_but_by_the_rules() -> None:
    assert check_everything() > 10_000


DEFECTS = [
    Defect("tools are repeated", retries, "retry_wait_s",
           "repeats is Repeats.NEVER", "False"),
    Defect("reads for ever", retries, "retry_wait_s",
           "(repeats is Repeats.ONCE and retries)", "False"),
    Defect("no bound", retries, "retry_wait_s", "retries >= limits.attempts_max", "False"),
    Defect("past the deadline", retries, "retry_wait_s", "wait_s < left_s", "True"),
    Defect("sooner than asked", retries, "retry_wait_s", "1.0 + random() / 2", "random()"),
    Defect("however late", retries, "retry_wait_s",
           "error.retry_after_s > RETRY_AFTER_S_MAX", "False"),
    Defect("our own refusals", retries, "failure_of",
           "error.side is not Side.UPSTREAM", "False"),
    Defect("any reason is unsent", retries, "failure_of",
           "error.reason in _UNSENT", "True"),
    Defect("black holes", retries, "retry_wait_s", "took_s >= UNSENT_S_MAX", "False"),
    Defect("any unknown may be repeated", retries, "failure_of",
           "error.reason in _PERHAPS", "True"),
    Defect("401 may be better next time", retries, "failure_of",
           "error.answered < 500", "False"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    with planted(defect):
        for name in ("retry_wait_s", "failure_of"):
            monkeypatch.setitem(globals(), name, getattr(retries, name))
        with pytest.raises(AssertionError):
            check_everything()


@pytest.mark.parametrize("method, repeats", METHODS.items())
def test_method_says_how_often_it_may_be_repeated(method: str | None, repeats: Repeats) -> None:
    assert repeats_of(method) is repeats


@pytest.mark.parametrize(
    "failed, failure",
    [
        (error(Reason.CONNECT_FAILED), Failure.UNSENT),
        (error(Reason.PROCESS_EXITED), Failure.UNSENT),
        (error(Reason.UPSTREAM_UNAVAILABLE), Failure.UNSENT),
        (error(Reason.UPSTREAM_UNAVAILABLE, after_s=1.0), Failure.FINAL),
        (error(Reason.RATE_LIMITED, answered=429), Failure.REJECTED),
        (error(Reason.RATE_LIMITED, side=Side.PROXY), Failure.FINAL),
        (error(Reason.UPSTREAM_UNAVAILABLE, answered=503, after_s=0.0), Failure.REJECTED),
        (error(Reason.UPSTREAM_UNAVAILABLE, Executed.UNKNOWN, 503), Failure.PERHAPS),
        (error(Reason.UPSTREAM_PROTOCOL, Executed.UNKNOWN, 500), Failure.PERHAPS),
        (error(Reason.UPSTREAM_PROTOCOL, answered=401), Failure.FINAL),
        (error(Reason.UPSTREAM_CLOSED, Executed.UNKNOWN), Failure.PERHAPS),
        (error(Reason.UPSTREAM_TIMEOUT, Executed.UNKNOWN), Failure.PERHAPS),
        (error(Reason.PROCESS_EXITED, Executed.UNKNOWN), Failure.PERHAPS),
        (error(Reason.SESSION_LOST), Failure.FINAL),
        (error(Reason.POOL_EXHAUSTED), Failure.FINAL),
        (error(Reason.INTERNAL, Executed.UNKNOWN), Failure.FINAL),
    ],
)
def test_error_says_what_is_known_of_the_try(failed: FailedError, failure: Failure) -> None:
    assert failure_of(failed) is failure


def test_wait_is_drawn_from_zero_to_a_bound_that_doubles_up_to_the_cap() -> None:
    limits = RetryLimits(attempts_max=10, base_ms=100, cap_ms=500)
    failed = error(Reason.CONNECT_FAILED)
    waits = [
        retry_wait_s(failed, Repeats.NEVER, n, 0.0, False, 100.0, limits, lambda: 1.0)
        for n in range(5)
    ]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert retry_wait_s(failed, Repeats.NEVER, 4, 0.0, False, 100.0, limits, lambda: 0.0) == 0.0


def test_budget_is_a_share_of_what_is_in_flight_and_a_few_in_any_case() -> None:
    endpoints = [EndpointState("a"), EndpointState("b")]
    budget = RetryBudget(endpoints, percent=20, least=3)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    endpoints[0].pending, endpoints[1].pending = 15, 10
    assert [budget.take() for _ in range(4)] == [True, True, False, False]
    budget.give_back()
    assert budget.take()
    assert not budget.take()


def test_budget_of_nothing_allows_nothing() -> None:
    endpoint = EndpointState("a")
    endpoint.pending = 1000
    assert not RetryBudget([endpoint], percent=0, least=0).take()


LIST = b"""{"jsonrpc":"2.0","id":1,"result":{"tools":[
    {"name":"look","annotations":{"readOnlyHint":true}},
    {"name":"set","annotations":{"idempotentHint":true}},
    {"name":"buy","annotations":{"destructiveHint":true}},
    {"name":"bare"}]}}"""


def test_hints_are_read_in_the_list_of_tools() -> None:
    hints = ToolHints()
    hints.learn(LIST, 0.0, 0)
    assert [hints.repeats(x, 1.0) for x in ("look", "set", "buy", "bare", "else")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_hints_are_forgotten_when_the_list_changes_or_after_a_while() -> None:
    hints = ToolHints()
    hints.learn(LIST, 0.0, 0)
    assert not hints.repeats("look", AGE_S_MAX)
    hints.learn(LIST, 1000.0, 0)
    assert hints.repeats("look", 1000.0)
    hints.learn(LIST.replace(b"true", b"false"), 1000.0, 0)
    assert not hints.repeats("look", 1000.0)
    hints.learn(LIST, 1000.0, 0)
    hints.forget()
    assert not hints.repeats("look", 1000.0)


def test_list_that_may_be_of_before_the_change_tells_nothing() -> None:
    """Whoever answered it may have done so before, and be heard after."""
    hints = ToolHints()
    changes = hints.changes
    hints.forget()
    hints.learn(LIST, 0.0, changes)
    assert not hints.repeats("look", 0.0)
    hints.learn(LIST, 0.0, hints.changes)
    assert hints.repeats("look", 0.0)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"null", b'{"error":{}}', b'{"result":{}}', b'{"result":{"tools":[{}]}}',
        b'{"result":{"tools":[{"name":"look","annotations":{"readOnlyHint":"yes"}}]}}',
    ],
)  # fmt: skip
def test_answer_that_is_none_tells_nothing(answer: bytes) -> None:
    hints = ToolHints()
    hints.learn(answer, 0.0, 0)
    assert not hints.repeats("look", 0.0)


def test_number_of_hints_is_bounded() -> None:
    hints = ToolHints()
    tools = ",".join(
        f'{{"name":"t{n}","annotations":{{"readOnlyHint":true}}}}' for n in range(TOOLS_MAX + 10)
    )
    hints.learn(f'{{"result":{{"tools":[{tools}]}}}}'.encode(), 0.0, 0)
    assert len(hints._known) == TOOLS_MAX
    assert not hints.repeats("t9", 0.0)
    assert hints.repeats("t10", 0.0)
