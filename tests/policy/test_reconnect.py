"""When a source that broke is opened anew: rule by rule, and through every order of messages.

MCP-S-17, S-18; FLT-N5, N6. The second half plants defects, each to be found.
"""

from __future__ import annotations

import random
from functools import partial

import pytest

from proxy_actors.messages import stream as m
from proxy_actors.policy.event_stream import EventStreamPolicy
from proxy_actors.policy.reconnect import POLL_S_MIN, Reconnect, ReconnectLimits
from tests.defects import Defect, planted
from tests.policy.reconnect_model import ReconnectSubject
from tests.policy.search import search

CUT = m.SourceBroke(resumable=True)


def waits(limits: ReconnectLimits, *breaks: m.SourceBroke) -> list[float | None]:
    """How long each is waited for, when chance is at its highest."""
    reconnect = Reconnect(limits, lambda: 1.0)
    return [reconnect.next_attempt(broke) for broke in breaks]


def test_waits_double_from_one_second_and_end_after_five_attempts() -> None:
    assert waits(ReconnectLimits(), *[CUT] * 6) == [1, 2, 4, 8, 16, None]


def test_no_wait_is_longer_than_the_cap() -> None:
    found = waits(ReconnectLimits(attempts_max=9), *[CUT] * 9)
    assert found == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_wait_is_drawn_from_all_of_the_bound() -> None:
    """Full jitter: a thousand streams cut at once do not come back at once."""
    chance = random.Random(1)
    drawn = [Reconnect(ReconnectLimits(), chance.random).next_attempt(CUT) for _ in range(1000)]
    seconds = [x for x in drawn if x is not None]
    assert len(seconds) == 1000
    assert all(70 < sum(at <= x * 10 < at + 1 for x in seconds) < 130 for at in range(10))


def test_no_server_is_asked_all_the_time_however_it_wants_it() -> None:
    polls = m.SourceBroke(resumable=True, clean=True, retry_s=0.0)
    assert waits(ReconnectLimits(), polls) == [POLL_S_MIN]


def test_polls_and_silence_are_no_failures_and_forgive_none() -> None:
    polls = m.SourceBroke(resumable=True, clean=True, retry_s=0.25)
    idle = m.SourceBroke(resumable=True, idle=True)
    found = waits(ReconnectLimits(attempts_max=2), CUT, *[polls] * 9, *[idle] * 9, CUT, CUT)
    assert found == [1, *[0.25] * 9, *[0] * 9, 2, None]


def test_an_event_makes_the_budget_whole_and_a_connection_does_not() -> None:
    heard = m.SourceBroke(resumable=True, heard=True)
    assert waits(ReconnectLimits(), CUT, CUT, heard, CUT) == [1, 2, 1, 2]
    spent = waits(ReconnectLimits(attempts_max=2), CUT, CUT, CUT, heard)
    assert spent == [1, 2, None, 1]


def test_retry_is_the_least_wait_after_a_failure() -> None:
    """MCP-S-18."""
    limits = ReconnectLimits()
    asked = m.SourceBroke(resumable=True, retry_s=3.0)
    assert waits(limits, asked, asked, asked) == [3, 3, 4]


def test_a_server_that_wants_to_be_asked_again_is_asked_just_then() -> None:
    """2025-11-25 "polling": it ended the connection in good order, after an id and `retry`."""
    polls = m.SourceBroke(resumable=True, heard=True, clean=True, retry_s=0.25)
    assert waits(ReconnectLimits(), polls, polls, polls) == [0.25, 0.25, 0.25]


SUBJECTS = {
    "standalone": partial(ReconnectSubject, standalone=True),
    "call": ReconnectSubject,
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_source_is_opened_anew_by_the_rules_in_every_order_of_messages(name: str) -> None:
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 50


STREAM, RECONNECT = EventStreamPolicy, Reconnect
DEFECTS = [
    Defect("attempts are forgiven at each break", RECONNECT, "next_attempt",
           "if broke.heard:", "if 1:"),
    Defect("attempts are never forgiven", RECONNECT, "next_attempt", "if broke.heard:", "if 0:"),
    Defect("there is no end of attempts", RECONNECT, "next_attempt", "elif self._backoff.spent:",
           "elif 0:"),
    Defect("retry is ignored", RECONNECT, "next_attempt", "broke.retry_s or 0.0", "0.0"),
    Defect("retry replaces the backoff", RECONNECT, "next_attempt",
           "max(self._backoff.failed(), least_s)", "(self._backoff.failed(), least_s)[1]"),
    Defect("a poll is a failure", RECONNECT, "next_attempt",
           "if broke.clean:", "if 0:"),
    Defect("a poll without a time is asked at once", RECONNECT, "next_attempt",
           "self._poll_s if broke.retry_s is None else ", ""),
    Defect("silence is a failure", RECONNECT, "next_attempt", "elif broke.idle:", "elif 0:"),
    Defect("silence is nothing", STREAM, "handle", "effects.append(m.BreakSource())\n        "
           "case m.BreakOff", "pass\n        case m.BreakOff"),
    Defect("silence of who waits for the client breaks", STREAM, "handle",
           "not self._over and not self._open_requests:", "not self._over:"),
    Defect("any timer counts", STREAM, "_reconnect_due", "reconnect.due(generation)", "True"),
    Defect("an old timer counts", RECONNECT, "due", "generation == self.generation", "True"),
    Defect("a timer counts twice", RECONNECT, "due", "and not due", ""),
    Defect("waits have one generation", RECONNECT, "next_attempt", "self.generation += 1", "pass"),
    Defect("a stream that is over is opened anew", STREAM, "_reconnect_due",
           " and not self._over", ""),
    Defect("a break after the end counts", STREAM, "_source_broke",
           "if self._over or reconnect is None:", "if reconnect is None:"),
    Defect("a call is opened anew at no place", STREAM, "_source_broke",
           "broke.resumable and ", ""),
    Defect("a cancelled call is opened anew", STREAM, "_source_broke",
           " and not self._cancelled", ""),
    Defect("a cancelled call is waited for", STREAM, "_call_cancelled",
           "self._reconnect.waiting", "False"),
    Defect("a standalone stream needs a place", STREAM, "_source_broke",
           "self._standalone or ", ""),
    Defect("health does not hear of it", STREAM, "_source_broke",
           "effects.append(m.AnnounceAbandoned(broke.text))", "pass"),
    Defect("a call is given up without a word", STREAM, "_source_broke",
           "self._source_ended(broke.reason, broke.text, Executed.UNKNOWN, effects)",
           "self._end(effects)"),
    Defect("a call that may have run is said not to have", STREAM, "_source_broke",
           "Executed.UNKNOWN", "Executed.NO"),
    Defect("a standalone stream that broke ends as if all were well", STREAM, "_source_ended",
           "self._standalone and reason is not None", "False"),
    Defect("who comes later sees an end as if all were well", STREAM, "_subscribe",
           "m.EndSubscriber(self._broken)", "m.EndSubscriber()"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        found = next((x for x in map(search, SUBJECTS.values()) if x.violation), None)
    assert found is not None
    assert len(found.trace) <= 8
