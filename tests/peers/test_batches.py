"""The arrays of revision 2025-03-26, sent by a raw client: no SDK's client sends any.

The Python SDK's server refuses arrays though it agrees to the revision (PROTOCOL section 13, 14):
that the proxy takes them apart is what makes them work there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peers.clients import plan
from peers.endpoint import HTTP, POOL, SESSION, SHARED, Endpoints
from peers.raw_client import RawClient, call, notification, request

WITH_BATCHES = "2025-03-26"

UPSTREAMS = ("everything", "server-everything")
IN_EACH_SESSION = [(route, upstream) for route in (HTTP, SESSION) for upstream in UPSTREAMS]
# A process that is shared may have agreed to a later revision before any client came.
EVERYWHERE = [*IN_EACH_SESSION, (SHARED, "everything"), (POOL, "everything")]
in_each_session = pytest.mark.parametrize("route, upstream", IN_EACH_SESSION)
everywhere = pytest.mark.parametrize("route, upstream", EVERYWHERE)


@pytest.fixture
def client(endpoints: Endpoints, route: str, upstream: str) -> Iterator[RawClient]:
    """A client in a session of the revision that has arrays."""
    with RawClient(endpoints.url(route, upstream), WITH_BATCHES) as client:
        assert client.version == WITH_BATCHES
        yield client


@everywhere
def test_each_request_of_an_array_is_answered_under_its_own_id(
    client: RawClient, route: str, upstream: str
) -> None:
    """MCP-S-12, MCP-G: ids of either type, answers in any order, nothing for a notification."""
    echo = plan(route, upstream)["echo"]
    ids: list[int | str] = [1, "one", 7, "seven"]  # the Python SDK takes 1 and "1" for the same
    answer = client.post(
        [
            *[call(id, echo["tool"], **{echo["argument"]: f"said {id!r}"}) for id in ids],
            notification("notifications/progress", progressToken="none", progress=1),
            request("list", "tools/list"),
            request("ping", "ping"),
            request("none", "no/such/method"),
        ]
    )
    assert answer.status == 200
    messages = list(answer.messages())
    assert len(messages) == len(ids) + 3
    by_id = {repr(message["id"]): message for message in messages}
    for id in ids:
        assert repr(id) in by_id[repr(id)]["result"]["content"][0]["text"]
    assert by_id["'list'"]["result"]["tools"]
    assert by_id["'ping'"]["result"] == {}
    assert by_id["'none'"]["error"]["code"] == -32601


@everywhere
def test_an_array_without_requests_is_accepted(client: RawClient) -> None:
    """MCP-S-12: 202, and nothing in it."""
    note = notification("notifications/progress", progressToken="none", progress=1)
    answer = client.post([note, note])
    assert (answer.status, list(answer.messages())) == (202, [])


@everywhere
def test_progress_of_a_call_in_an_array_comes_before_its_answer(
    client: RawClient, route: str, upstream: str
) -> None:
    """MCP-X-6: the two calls' tokens are told apart."""
    planned = plan(route, upstream)
    calls = [call(id, planned["progress"]["tool"], **planned["progress"]["arguments"])
             for id in ("a", "b")]
    for each in calls:
        each["params"]["_meta"] = {"progressToken": each["id"]}
    seen: dict[str, list[object]] = {"a": [], "b": []}
    for message in client.post(calls).messages():
        if "id" in message:
            seen[message["id"]].append("answer")
        else:
            seen[message["params"]["progressToken"]].append(message["params"]["progress"])
    progress = [now for now, _ in planned["progressed"]]
    assert seen == {"a": [*progress, "answer"], "b": [*progress, "answer"]}


@in_each_session
def test_a_question_of_the_server_is_answered_in_an_array_too(
    client: RawClient, route: str, upstream: str
) -> None:
    """MCP-S-12, S-23: the question comes on the array's stream, before what waits for it."""
    sampling = plan(route, upstream)["sampling"]
    asking = client.post([call("ask", sampling["tool"], **{sampling["argument"]: "How many?"})])
    messages = asking.messages()
    question = next(message for message in messages if message.get("method"))
    assert question["method"] == "sampling/createMessage"
    result = {"role": "assistant", "model": "none", "content": {"type": "text", "text": "Forty"}}
    answered = client.post([{"jsonrpc": "2.0", "id": question["id"], "result": result}])
    assert (answered.status, list(answered.messages())) == (202, [])
    [last] = [message for message in messages if "method" not in message]
    assert last["id"] == "ask"
    assert "Forty" in last["result"]["content"][0]["text"]


@everywhere
def test_initialize_is_no_part_of_an_array(client: RawClient) -> None:
    """MCP-S-12."""
    answer = client.post([request(1, "initialize"), request(2, "ping")])
    assert answer.status == 400


@pytest.mark.parametrize(
    "route, version",
    [(HTTP, "2025-06-18"), (SESSION, "2025-11-25"), (SHARED, "2025-06-18"), (POOL, "2025-11-25")],
)
def test_a_revision_without_arrays_has_none(
    endpoints: Endpoints, route: str, version: str
) -> None:
    """MCP-S-13."""
    with RawClient(endpoints.url(route, "everything"), version) as client:
        assert client.version == version
        answer = client.post([request(1, "ping"), request(2, "ping")])
        assert answer.status == 400
