"""Bounds on event streams at a real proxy with real processes behind it (FLT-U1; MCP-H-11)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .proxy_process import SCRIPTED, running
from .waiting import eventually

_PROGRESS = {
    "jsonrpc": "2.0", "method": "notifications/progress",
    "params": {"progressToken": "<token>", "progress": 1},
}  # fmt: skip
_ASK = {"jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": {}}


@pytest.mark.parametrize("mode", ["session", "shared", "pool"])
def test_call_of_a_process_is_answered_without_a_stream(mode: str, tmp_path: Path) -> None:
    """Its notifications go to nobody, and what the server asks within it is answered at once."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [streams]
        streams-per-session-max = 1
        [upstreams.default]
        command = {json.dumps(SCRIPTED)}
        stdio = "{mode}"
        {"children = 1" if mode == "pool" else ""}
    """)
    text = json.dumps(_PROGRESS).replace('"<token>"', "<token>") + "\n"
    if mode == "session":
        text = json.dumps(_ASK) + "\n" + text
    with running("--config", str(file)) as proxy:
        session = proxy.session()
        listener = session.listen()
        assert listener.head().status == 200
        params = {"name": "say", "arguments": {"text": text}, "_meta": {"progressToken": "t"}}
        answer = session.send("tools/call", params).answer()
        assert answer.fields["Content-Type"] == "application/json"
        assert answer.value == "said"
        if mode == "session":
            lines = session.call("lines").value[1]
            (refused,) = [line for line in map(json.loads, lines) if "method" not in line]
            assert refused["id"] == "ask-1"
            assert refused["error"]["message"] == "the client cannot be asked now"
        listener.leave()


def test_standalone_stream_too_many_is_refused(tmp_path: Path) -> None:
    """RELIABILITY 1.11: 503 with the name of the server, whose places are taken."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [streams]
        age-s-max = 1
        [upstreams.default]
        command = {json.dumps(SCRIPTED)}
        stdio = "shared"
        streams-max = 1
    """)
    with running("--config", str(file)) as proxy:
        first, second = proxy.session(), proxy.session()
        listener = first.listen()
        assert listener.head().status == 200
        refused = second.listen().answer()
        data = refused.message["error"]["data"]
        assert (refused.status, refused.fields["Retry-After"]) == (503, "1")
        assert (data["reason"], data["executed"], data["upstream"]) == (
            "overloaded", "no", "default"
        )  # fmt: skip
        listener.leave()

        def opens() -> bool:
            listening = second.listen()
            status = listening.head().status
            listening.leave()
            return status == 200

        eventually(opens)


@pytest.mark.parametrize("mode", ["session", "shared"])
def test_cancelled_call_without_a_stream_has_an_end(mode: str, tmp_path: Path) -> None:
    """MCP-X-4: what its server does not answer in time is over, and its client is told."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [streams]
        streams-per-session-max = 1
        [upstreams.default]
        command = {json.dumps(SCRIPTED)}
        stdio = "{mode}"
    """)
    settings = {
        "proxy_actors.policy.stdio_calls.CANCELLED_S_MAX": 0.1,
        "proxy_actors.policy.stdio_calls.SILENT_S_MAX": 0.1,
    }
    with running("--config", str(file), settings=settings) as proxy:
        session = proxy.session()
        listener = session.listen()
        assert listener.head().status == 200
        pending = session.begin("silence", id=7)
        eventually(lambda: session.call("lines").value[0] >= 3)
        cancelled = {"requestId": 7}
        assert session.send("notifications/cancelled", cancelled, id=None).answer().status == 202
        answer = pending.answer()
        assert (answer.status, answer.message["id"]) == (502, 7)
        assert answer.message["error"]["data"]["executed"] == "unknown"
        listener.leave()
