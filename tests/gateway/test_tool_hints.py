"""What servers say of their tools is believed until they say that it is another, however they do.

RELIABILITY 1.3. That it holds over Streamable HTTP, tests/gateway/test_retrying.py says.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy_actors.config.resilience import Retries
from proxy_actors.gateway.guarded import GuardedForwarder
from proxy_actors.options import OnSessionLost, StdioMode, Transport
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.jsonrpc import Message
from tests.gateway.channel_scene import COMMAND, LOOK, OLD_URL, RESULTS, ChannelScene
from tests.gateway.endpoint_scene import EndpointScene
from tests.plane import UPSTREAM
from tests.sim.virtual import VirtualConnection, call, request

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
LIST = {"jsonrpc": "2.0", "id": "list", "method": "tools/list"}
# A process is started anew within a wait.
BELIEVED = Retries(trust_annotations=True, base_ms=20_000, cap_ms=20_000)
CHANGE = ("change", "answer")


def scene_of(**settings: Any) -> ChannelScene:  # Any: those of the upstream
    return ChannelScene(retries=BELIEVED, **settings)


def list_tools(scene: ChannelScene) -> None:
    assert scene.ask(LIST).message["result"]["tools"] == [LOOK]


def believes(scene: ChannelScene | EndpointScene) -> bool:
    """Whether the tool may be called again where it may have been executed."""
    forwarder = scene.app.wiring.routes.by_name[UPSTREAM].forwarder
    assert isinstance(forwarder, GuardedForwarder)
    message = jsonrpc.admit(json.dumps(call(1)).encode())
    assert isinstance(message, Message)
    return forwarder._retrier.reads(message)


@pytest.mark.parametrize("mode", list(StdioMode))
def test_hints_of_a_process_hold_until_it_says_that_its_list_is_another(mode: StdioMode) -> None:
    scene = scene_of(command=COMMAND, stdio=mode)
    list_tools(scene)
    assert believes(scene)
    assert scene.call(1, *CHANGE).status == 200
    assert not believes(scene)
    list_tools(scene)
    assert believes(scene)
    assert not scene.errors


@pytest.mark.parametrize("changed, ends, calls", [(False, 1, 2), (True, 1, 1), (False, 2, 2)])
def test_call_in_which_a_process_ended_is_made_again_where_its_tool_is_known(
    changed: bool, ends: int, calls: int
) -> None:
    """By what was known when it failed: of the next process nothing is, until it has been asked."""
    scene = scene_of(command=COMMAND, stdio=StdioMode.SHARED)
    list_tools(scene)
    assert scene.call(1, *(CHANGE if changed else ("answer",))).status == 200
    scene.program.calls, scene.program.ends = 0, ends
    answer = scene.call(2)
    assert scene.program.calls == calls
    if calls > ends:
        assert answer.status == 200
    else:
        data = answer.error["data"]
        assert (data["reason"], data["executed"]) == ("process-exited", "unknown")


def test_process_that_is_started_anew_may_have_other_tools() -> None:
    scene = scene_of(command=COMMAND, stdio=StdioMode.SHARED)
    list_tools(scene)
    scene.program.ends = 3
    scene.call(1)
    scene.run(60.0)
    assert not believes(scene)
    list_tools(scene)
    assert believes(scene)


def test_hints_of_an_old_server_hold_until_it_says_that_its_list_is_another() -> None:
    scene = scene_of(url=OLD_URL, transport=Transport.SSE)
    listed = {"jsonrpc": "2.0", "id": "list", "result": RESULTS["tools/list"]}
    steps = {"_meta": {"do": [f"raw data: {json.dumps(listed)}\\n\\n"]}}
    scene.ask({**LIST, "params": steps})
    assert believes(scene)
    scene.do(lambda: scene.old.session.send(CHANGED))
    scene.run(1.0)
    assert not believes(scene)


def test_server_that_has_lost_its_sessions_may_have_other_tools() -> None:
    scene = EndpointScene(
        "a", retries=Retries(trust_annotations=True), on_session_lost=OnSessionLost.REINITIALIZE
    )
    session = scene.session()
    scene.servers["a"].tools = [LOOK]
    scene.ask(LIST, session)
    assert believes(scene)
    scene.servers["a"].lose_sessions()
    scene.ask({"jsonrpc": "2.0", "id": 1, "method": "ping"}, session)
    assert not believes(scene)


def test_change_is_heard_within_a_call_that_may_have_no_stream() -> None:
    scene = EndpointScene("a", retries=Retries(trust_annotations=True), streams_max=1)
    session = scene.session()
    scene.servers["a"].tools = [LOOK]
    scene.ask(LIST, session)
    holds = request(call(1, "sse", "note", "pause 50", "answer", "end"), session=session)
    scene.spawn("client", lambda: VirtualConnection(scene).ask(holds))
    scene.run(1.0)
    assert believes(scene)
    steps = ("sse", f"event {json.dumps(CHANGED)}", "answer", "end")
    answer = scene.ask(call(2, *steps), session)
    assert answer.status == 200 and not answer.is_stream
    assert not believes(scene)
