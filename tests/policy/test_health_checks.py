"""Active checks: HAProxy's counters rule by rule, and through every order of messages.

RELIABILITY 1.4. The end plants defects, each to be found.
"""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from proxy_actors.messages import health as m
from proxy_actors.messages.health import Verdict
from proxy_actors.policy.health_checks import Checked, CheckLimits, HealthChecks
from tests.defects import Defect, planted
from tests.policy.health_checks_model import LIMITS, NAME, HealthSubject
from tests.policy.search import search

OF_VERDICTS = {"w": Verdict.WELL, "f": Verdict.FAILED, "u": Verdict.UNKNOWN}


def told(verdicts: str, limits: CheckLimits = CheckLimits(spread=0.0)) -> list[str]:
    """Say what was told after each check, and how long is waited for the next one."""
    known = Checked()
    policy = HealthChecks(limits, {NAME: known}, lambda: 0.5)
    [wake] = policy.resume(NAME, 0.0)
    said = []
    for letter in verdicts:
        assert isinstance(wake, m.WakeCheck)
        [start] = policy.handle(m.CheckDue(NAME, wake.generation), 0.0)
        assert isinstance(start, m.StartCheck)
        ended = m.CheckEnded(NAME, start.generation, OF_VERDICTS[letter])
        *reports, wake = policy.handle(ended, 0.0)
        assert isinstance(wake, m.WakeCheck)
        words = {"ReportUp": "up ", "ReportDown": "down "}
        told = "".join(words[type(x).__name__] for x in reports)
        said.append(f"{told}{wake.after_s:g}")
    return said


def test_three_failures_in_a_row_bring_down_and_two_successes_up() -> None:
    """While the health changes it is looked at more often."""
    assert told("wfffffwww") == ["5", "1", "1", "down 5", "5", "5", "1", "up 5", "5"]


def test_success_in_between_begins_the_count_anew() -> None:
    assert told("wffwffwfff")[-3:] == ["1", "1", "down 5"]
    assert told("wfffwfwfww")[3:] == ["down 5", "1", "5", "1", "5", "1", "up 5"]


def test_first_check_decides_alone() -> None:
    assert told("w") == ["5"]
    assert told("fww") == ["down 5", "1", "up 5"]


def test_check_that_finds_out_nothing_changes_nothing() -> None:
    assert told("uuf") == ["1", "1", "down 5"]
    assert told("wffuf") == ["5", "1", "1", "1", "down 5"]
    assert told("fwuw") == ["down 5", "1", "1", "up 5"]


def test_endpoint_that_refuses_us_is_told_apart() -> None:
    """401 and 403: alive, and of no use."""
    known = Checked()
    policy = HealthChecks(CheckLimits(rise=1, fall=1), {NAME: known}, lambda: 0.5)
    reports = []
    [wake] = policy.resume(NAME, 0.0)
    for verdict in (Verdict.REFUSED, Verdict.REFUSED, Verdict.FAILED, Verdict.WELL):
        assert isinstance(wake, m.WakeCheck)
        [start] = policy.handle(m.CheckDue(NAME, wake.generation), 0.0)
        assert isinstance(start, m.StartCheck)
        ended = m.CheckEnded(NAME, start.generation, verdict, "why")
        *told, wake = policy.handle(ended, 0.0)
        reports += told
    assert reports == [
        m.ReportDown(NAME, "why", True), m.ReportDown(NAME, "why", False), m.ReportUp(NAME),
    ]  # fmt: skip
    assert (known.well, known.failed) == (1, 3)


def test_intervals_are_spread_by_chance() -> None:
    """FLT-P24: a thousand endpoints that came up at once are not checked at once."""
    for drawn, expected_s in ((0.0, 4.0), (0.5, 5.0), (1.0, 6.0)):
        policy = HealthChecks(CheckLimits(), {NAME: Checked()}, lambda: drawn)
        [wake] = policy.resume(NAME, 0.0)
        assert isinstance(wake, m.WakeCheck) and wake.after_s == drawn
        [start] = policy.handle(m.CheckDue(NAME, wake.generation), 0.0)
        assert isinstance(start, m.StartCheck)
        [wake] = policy.handle(m.CheckEnded(NAME, start.generation, Verdict.WELL), 0.0)
        assert isinstance(wake, m.WakeCheck) and wake.after_s == pytest.approx(expected_s)


SUBJECTS = {
    "rise 2, fall 3": HealthSubject,
    "rise 1, fall 1": partial(HealthSubject, msgspec.structs.replace(LIMITS, rise=1, fall=1)),
    "rise 3, fall 1": partial(HealthSubject, msgspec.structs.replace(LIMITS, rise=3, fall=1)),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_endpoint_is_up_by_the_rules_in_every_order_of_messages(name: str) -> None:
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 30


DEFECTS = [
    Defect("falls a check early", HealthChecks, "_health_after", "if health > rise", "if 0"),
    Defect("never falls", HealthChecks, "_health_after", "else 0", "else health"),
    Defect("rises at once", HealthChecks, "_health_after", "health + 1 >= rise", "1"),
    Defect("failures are not in a row", HealthChecks, "_health_after",
           "return top if health + 1 >= rise else health + 1", "return min(health + 1, top)"),
    Defect("first check does not decide", HealthChecks, "_health_after", "health = rise",
           "health = top"),
    Defect("a stale message counts", HealthChecks, "handle",
           "message.generation != known.generation", "0"),
    Defect("two checks at a time", HealthChecks, "_begin", "self._out.add(endpoint)", "pass"),
    Defect("a check begins while another may be out", HealthChecks, "resume",
           "max(known.out_until_s - now_s, 0.0)", "0.0"),
    Defect("told again and again", HealthChecks, "_ended",
           "known.down is not None and known.down is not before", "known.down is not None"),
    Defect("what is not known is a failure", HealthChecks, "_ended",
           "verdict is Verdict.UNKNOWN", "0"),
    Defect("a refusal is like a failure", HealthChecks, "_ended", "known.down = verdict",
           "known.down = Verdict.FAILED"),
    Defect("a change is not looked at more often", HealthChecks, "_interval_s",
           "else limits.fast_interval_s", "else limits.interval_s"),
    Defect("is as it was after maintenance", HealthChecks, "suspend",
           "known.health, known.down, known.text = None, None, \"\"", "pass"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert any(search(subject).violation is not None for subject in SUBJECTS.values())
