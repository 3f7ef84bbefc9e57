"""The published conformance suite, run against the everything server by each route.

PROTOCOL section 15: green is a floor, not a proof; what a proxy must do beyond passing bytes on
is tested by test_real_clients and by the project's own suites. docs/conformance.md has the figures.
"""

from __future__ import annotations

import pytest

from peers.conformance import Checks, ClientRun, Run, Verdicts, required_scenarios
from peers.endpoint import DIRECT, FOUND, HTTP, POOL, SESSION, SHARED

LATEST = "2025-11-25"
REQUIRED = 30
# The scenarios that apply to older revisions, as `conformance list` counts them.
APPLICABLE = {"2025-06-18": 27, "2025-03-26": 1}

# Where all clients share a process, none of them can be asked: the proxy declares no capability
# of a client to it, a tool that would ask fails with the server's own error, and the suite says:
FAIL_WHERE_CLIENTS_SHARE_A_PROCESS = {
    "tools-call-sampling": ["Server did not request sampling from client"],
    "tools-call-elicitation": ["Server did not request elicitation from client"],
    "elicitation-sep1034-defaults": ["Server did not request elicitation from client"],
    "elicitation-sep1330-enums": ["Server did not request elicitation from client"],
}
# Run, but scored by no revision: the server ends a connection before its answer, and is to be asked
# for the rest. Without proxy the suite asks; behind it there is no need to, since the proxy does.
POLLING = "server-sse-polling"
ASKED_AGAIN = "server-sse-disconnect-resume"
POLLED = {DIRECT: "SUCCESS", HTTP: "INFO"}
# Where a stream would carry nothing but the answer, the proxy answers with JSON, and the suite
# notes that there was no stream to judge.
ANSWERED_WITH_JSON = ("server-sse-multiple-streams", "server-sse-streams-functional")

WHOLE = [
    Run(DIRECT, "everything", LATEST),
    Run(DIRECT, "resumable", LATEST),
    Run(HTTP, "everything", LATEST),
    Run(HTTP, "resumable", LATEST),
    Run(FOUND, "everything", LATEST),
    Run(SESSION, "everything", LATEST),
]
SHARING = [Run(route, "undisturbed", LATEST) for route in (SHARED, POOL)]
OLDER = [
    Run(route, "everything", revision)
    for revision in APPLICABLE
    for route in (DIRECT, HTTP, FOUND, SESSION)
]
# Those of the suite's client scenarios that a proxy has a part in, and their successful checks.
AS_CLIENT = {
    "initialize": 1, "tools_call": 2, "elicitation-sep1034-client-defaults": 5, "sse-retry": 3,
}  # fmt: skip


def runs(*chosen: Run | ClientRun) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("run", chosen, ids="-".join)


def through_the_proxy(chosen: list[Run]) -> list[Run]:
    return [run for run in chosen if run.route != DIRECT]


def expected(verdicts: Verdicts, run: Run) -> dict[str, Checks]:
    """What a run through the proxy is to find: what one without it found."""
    checks = {**verdicts.of(run._replace(route=DIRECT)).checks}
    checks.pop(POLLING, None)
    scenario, noted = ANSWERED_WITH_JSON
    if scenario in checks:
        assert (noted, "SUCCESS") in checks[scenario]
        checks[scenario] = [(id, "INFO" if id == noted else was) for id, was in checks[scenario]]
    return checks


def found(verdicts: Verdicts, run: Run) -> dict[str, Checks]:
    checks = {**verdicts.of(run).checks}
    checks.pop(POLLING, None)
    return checks


@runs(*WHOLE)
def test_every_required_scenario_passes(verdicts: Verdicts, run: Run) -> None:
    """MCP-S, MCP-G, MCP-Z: 30 of 30, none of them without a result."""
    results = verdicts.of(run)
    required = required_scenarios(LATEST)
    assert len(required) == REQUIRED
    assert required - results.passed() == set(), results.output


@runs(*OLDER)
def test_every_scenario_of_an_older_revision_passes(verdicts: Verdicts, run: Run) -> None:
    """MCP-S-1, MCP-S-11: the older client's revision is spoken to it, and by it."""
    results = verdicts.of(run)
    assert results.failures == {}, results.output
    assert len(results.passed()) == APPLICABLE[run.revision]


@runs(*through_the_proxy(WHOLE + OLDER))
def test_check_by_check_the_proxy_is_not_to_be_told_from_its_server(
    verdicts: Verdicts, run: Run
) -> None:
    """Unscored scenarios included, but for the one in which the proxy asks again."""
    assert found(verdicts, run) == expected(verdicts, run)


@runs(*(Run(route, "resumable", LATEST) for route in POLLED))
def test_server_that_ends_a_connection_before_its_answer_is_asked_for_the_rest(
    verdicts: Verdicts, run: Run
) -> None:
    """MCP-S-17 to S-20, SEP-1699: the client's stream goes on, with ids and `retry` of its own."""
    results = verdicts.of(run)
    checks = results.checks[POLLING]
    assert (ASKED_AGAIN, POLLED[run.route]) in checks, results.output
    assert "SUCCESS" in [status for _, status in checks]
    assert {"WARNING", "FAILURE"}.isdisjoint(status for _, status in checks), results.output


@runs(*SHARING)
def test_where_clients_share_a_process_all_passes_but_what_asks_a_client(
    verdicts: Verdicts, run: Run
) -> None:
    """PROTOCOL section 9, MCP-I-7: exactly these four scenarios fail, the rest as without proxy."""
    results = verdicts.of(run)
    without_proxy = expected(verdicts, run._replace(upstream="everything"))
    assert results.failures == FAIL_WHERE_CLIENTS_SHARE_A_PROCESS, results.output
    for scenario in required_scenarios(LATEST) - results.failures.keys():
        assert results.checks[scenario] == without_proxy[scenario], scenario


@runs(*map(ClientRun, AS_CLIENT))
def test_the_server_that_the_suite_plays_finds_no_fault_with_a_client_behind_the_proxy(
    verdicts: Verdicts, run: ClientRun
) -> None:
    """PROTOCOL section 15.6, MCP-S-18: as a client of its upstream, the proxy is judged too."""
    results = verdicts.of(run)
    assert results.failures == {}, results.output
    statuses = [status for _, status in results.checks[run.scenario]]
    assert statuses.count("SUCCESS") == AS_CLIENT[run.scenario], results.output
