"""Real clients against real servers, by each route: what the clients saw, scenario by scenario.

The drivers tell what they saw and these tests judge it; a client plays once for all its tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any  # what was seen is JSON

import pytest

from peers.clients import OLDER, Pair, Sightings, plan as plan_of
from peers.endpoint import DIRECT, FOUND, HTTP, POOL, ROUTES, SESSION, SHARED, TLS
from peers.upstreams import Plan

PAIRS = [
    ("python-legacy", "everything"),
    ("python-auto", "server-everything"),
    ("typescript", "everything"),
    ("typescript", "server-everything"),
    ("python-sse", "everything"),
    ("typescript-sse", "server-everything"),
]
SERVER_NAMES = {"everything": "everything", "server-everything": "mcp-servers/everything"}
IN_FLIGHT = 5

Saw = Callable[[str], Any]

# Where a client has a process or a session of its own, its server can ask it something.
clients_of_their_own = pytest.mark.parametrize("route", [DIRECT, HTTP, FOUND, TLS, SESSION])
clients_that_share = pytest.mark.parametrize("route", [SHARED, POOL])


def pairs(*chosen: Pair) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", chosen, ids="-to-".join)


@pytest.fixture(params=PAIRS, ids="-to-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A client and the upstream that it talks to."""
    chosen: Pair = request.param
    return chosen


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    """How clients reach the servers."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def plan(route: str, pair: Pair) -> Plan:
    return plan_of(route, pair[1])


@pytest.fixture
def saw(sightings: Sightings, route: str, pair: Pair) -> Saw:
    """Call it with a scenario for what the client saw in it."""
    return lambda scenario: sightings.of(route, pair, scenario)


def test_session_era_is_agreed_and_capabilities_arrive(saw: Saw, pair: Pair) -> None:
    """MCP-S, MCP-D: also after a probe of the next era that the server refused."""
    seen = saw("initialize")
    assert seen["protocol"] == "2025-11-25"
    assert seen["server"] == SERVER_NAMES[pair[1]]
    assert {"completions", "logging", "prompts", "resources", "tools"} <= set(seen["capabilities"])


def test_lists_of_tools_prompts_and_resources_arrive(saw: Saw, plan: Plan) -> None:
    seen = saw("lists")
    assert plan["echo"]["tool"] in seen["tools"]
    assert (plan["sampling"]["tool"] in seen["tools"]) >= plan["asks"]
    assert len(seen["prompts"]) >= 4
    assert len(seen["resources"]) >= 3


def test_every_progress_notification_arrives_in_order_before_the_answer(
    saw: Saw, pair: Pair, plan: Plan
) -> None:
    """MCP-X-6, MCP-S: notifications of a call ride the stream that answers it.

    This SDK's client forgets a call as it reads its answer, and the progress that it has read with
    it from the one stream of the old transport, but not handled: without the proxy as well.
    """
    seen = saw("progress")
    planned = plan["progressed"]
    if pair[0] == "typescript-sse":
        assert seen["progress"]
        assert seen["progress"] == planned[:len(seen["progress"])]
    else:
        assert seen["progress"] == planned
    assert seen["answer"]


def test_a_cancelled_call_ends_at_the_server_and_the_session_lives_on(
    saw: Saw, plan: Plan
) -> None:
    """MCP-X-3: no answer for the caller, and the next call of the session is served."""
    seen = saw("cancellation")
    assert seen["answers"] == []
    assert seen["server"] == (plan["cancelled"] and "cancelled")
    assert seen["after"]


@clients_of_their_own
def test_sampling_reaches_the_client_and_its_answer_the_tool(saw: Saw) -> None:
    """MCP-S-23, PROTOCOL section 9: a question rides the stream of the call that caused it."""
    seen = saw("sampling")
    [asked] = seen["asked"]
    assert asked.endswith("How many?")
    assert f"peer answers {asked}" in seen["answer"]


@clients_of_their_own
def test_elicitation_reaches_the_client_and_its_answer_the_tool(saw: Saw) -> None:
    """MCP-S-23, PROTOCOL section 9."""
    seen = saw("elicitation")
    assert len(seen["asked"]) == 1
    assert "peer@example.org" in seen["answer"]


@clients_of_their_own
def test_roots_are_told_on_the_stream_of_the_call_and_on_the_sessions_own(
    saw: Saw, plan: Plan
) -> None:
    """MCP-S-23, PROTOCOL section 9: a question without a call rides the stream of a GET."""
    seen = saw("roots")
    assert seen["asked"] >= len(plan["roots"])
    assert all("file:///peer" in answer for answer in seen["answers"])
    assert len(seen["answers"]) == len(plan["roots"])


@clients_that_share
def test_a_tool_that_would_ask_a_client_fails_at_once_with_the_servers_own_error(
    saw: Saw, plan: Plan
) -> None:
    """MCP-I-7, PROTOCOL section 9: a shared process is told of no client's capabilities."""
    seen = saw("refusals")
    assert seen.keys() == plan["refused"].keys()
    for name, refusal in plan["refused"].items():
        assert refusal in seen[name]


@clients_of_their_own
def test_log_messages_follow_the_level_that_the_client_set(saw: Saw, plan: Plan) -> None:
    seen = saw("logging")
    assert seen["quiet"] == []
    assert len(seen["loud"]) == plan["logging"]["count"]


@clients_of_their_own
def test_a_subscriber_is_told_of_the_change_of_its_resource_alone(saw: Saw) -> None:
    """PROTOCOL section 9: an update rides the stream that a GET opened."""
    seen = saw("subscription")
    assert set(seen["updated"]) - {"test://logged"} == {seen["uri"]}


@pairs(("python-legacy", "everything"), ("typescript", "everything"))
def test_a_subscription_reaches_the_server_and_its_end_too(saw: Saw) -> None:
    """The everything server counts whom it told: the subscriber once, then nobody."""
    seen = saw("subscription")
    assert seen["updated"] == [seen["uri"]]
    assert seen["touched"] == ["1", "0"]


def test_two_clients_at_once_see_their_own_answers_and_questions_alone(
    saw: Saw, plan: Plan
) -> None:
    """MCP-G: equal ids of two sessions in flight together never mix."""
    seen = saw("two_clients")
    for name in ("left", "right"):
        said = [f"{name} says {number}" for number in range(IN_FLIGHT)]
        asks = [f"{name} asks {number}" for number in range(IN_FLIGHT) if plan["asks"]]
        assert one_each(seen[name]["echoed"], said)
        assert one_each(seen[name]["asked"], asks)
        assert len(seen[name]["answers"]) == len(asks)
        assert all(f"{name} answers" in answer for answer in seen[name]["answers"])


def one_each(texts: list[str], endings: list[str]) -> bool:
    """True when each text has one of the endings, and each ending is that of one text."""
    return len(texts) == len(endings) and all(
        sum(text.endswith(ending) for text in texts) == 1 for ending in endings
    )


def test_a_client_leaves_without_an_error(saw: Saw) -> None:
    """MCP-S-7, L-5: the DELETE of its session is accepted, or it ends with its stream."""
    assert saw("end") == {}


@pairs(("python-older", "everything"))
def test_a_client_of_an_older_revision_is_served_in_it(saw: Saw, plan: Plan) -> None:
    """MCP-S-1: SDKs leave a server that answers with a revision which they do not know."""
    assert saw("initialize")["protocol"] == OLDER
    assert "test_echo" in saw("lists")["tools"]
    assert saw("progress")["progress"] == plan["progressed"]
    cancellation = saw("cancellation")
    assert (cancellation["answers"], cancellation["server"]) == (
        [], plan["cancelled"] and "cancelled"
    )


@clients_of_their_own
@pairs(("python-auto", "everything"))
def test_a_client_that_probes_for_the_next_era_is_served_in_one_of_them(
    saw: Saw, plan: Plan
) -> None:
    """MCP-D: the everything server speaks both eras; either way calls, progress, cancel work."""
    assert saw("initialize")["protocol"] in ("2025-11-25", "2026-07-28")
    assert "test_echo" in saw("lists")["tools"]
    assert saw("progress")["progress"] == plan["progressed"]
    cancellation = saw("cancellation")
    assert (cancellation["answers"], cancellation["server"]) == ([], "cancelled")
