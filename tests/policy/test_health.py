"""One state for each endpoint, of checks, calls and the operator: through every order of messages.

RELIABILITY 1.1, 1.4; HAProxy's ready, drain and maint. The end plants defects, each to be found.
"""

from __future__ import annotations

from functools import partial

import pytest

from proxy_actors.messages.health import EndpointStatus, OperatorState, Verdict
from proxy_actors.policy.endpoint_state import EndpointState
from proxy_actors.policy.health import EndpointHealth, HealthPolicy
from proxy_actors.policy.health_checks import HealthChecks
from tests.defects import Defect, planted
from tests.policy.health_model import HealthSubject
from tests.policy.search import search

SUBJECTS = {"checked": HealthSubject, "unchecked": partial(HealthSubject, None)}


@pytest.mark.parametrize("name", SUBJECTS)
def test_endpoint_is_used_by_the_table_in_every_order_of_messages(name: str) -> None:
    findings = search(SUBJECTS[name])
    assert findings.violation is None, (findings.violation, findings.trace)
    assert findings.states > 20


def test_the_state_that_says_most_is_shown() -> None:
    known = EndpointHealth(EndpointState("a"))
    shown = [known.status]
    known.ejection.ejected = True
    shown.append(known.status)
    known.checked.down = Verdict.REFUSED
    shown.append(known.status)
    known.operator = OperatorState.DRAIN
    shown.append(known.status)
    known.checked.down = Verdict.FAILED
    shown.append(known.status)
    known.operator = OperatorState.MAINT
    shown.append(known.status)
    assert shown == list(reversed(EndpointStatus))


DEFECTS = [
    Defect("an ejected endpoint loses its sessions", HealthPolicy, "review",
           "status not in _HIDDEN", "status is EndpointStatus.UP"),
    Defect("one that is down serves", HealthPolicy, "review",
           "status not in _HIDDEN", "1"),
    Defect("what the operator took out is as what has failed", HealthPolicy, "review",
           "known.operator is not OperatorState.READY", "False"),
    Defect("maintenance is checked", HealthPolicy, "_set", "self._checks.suspend(endpoint)",
           "pass"),
    Defect("no check after maintenance", HealthPolicy, "_set",
           "effects += self._checks.resume(endpoint, now_s)", "pass"),
    Defect("maintenance is forgotten in a crash", HealthPolicy, "begin",
           "known.operator is not OperatorState.MAINT", "1"),
    Defect("checks go on in a drain", HealthPolicy, "_stop_checks", "self._checks = None", "pass"),
    Defect("a drain does not wait for what is left", HealthPolicy, "_checks_ended",
           "[] if self._ending else", ""),
    Defect("a drain waits for ever", HealthPolicy, "_checks_ended",
           "self._ending.discard(endpoint)", "pass"),
    Defect("a check brings nobody back", HealthPolicy, "_checked",
           "effects += self._outliers.check_succeeded(message.endpoint, now_s)", "pass"),
    Defect("is down for ever", HealthChecks, "_ended", "known.down = None", "pass"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_planted_defect_is_found(defect: Defect) -> None:
    with planted(defect):
        assert any(search(subject).violation is not None for subject in SUBJECTS.values())
