"""Children that hang, and what a call to them costs: FLT-U4, U8, with deadlines of seconds."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_actors.transports.guardian import ProcessTable

from .conftest import Served, serve
from .fates import working
from .proxy_process import SCRIPTED, ProxyProcess, running
from .session_client import check_failure
from .waiting import eventually

SETTINGS = {
    "proxy_actors.config.upstreams.Upstream": {"call_timeout_s": 1.5},
    "proxy_actors.actors.stdio_process.STOP_STEP_S": 0.2,
    "proxy_actors.actors.child_pipes.UNWRITTEN_BYTES_MAX": 512 * 1024,
}
TEXT_BYTES = 100 * 1024


@pytest.fixture(scope="module")
def served(mode: str) -> Iterator[Served]:
    """A proxy with these settings, in the place of the one that other modules share."""
    yield from serve(mode, SETTINGS)


def stopped(proxy: ProxyProcess) -> list[int]:
    """The children that STOP holds."""
    table = ProcessTable()
    return [pid for pid in table.descendants(proxy.pid) if table.processes[pid].state == b"T"]


def test_call_to_a_stopped_child_ends_at_its_deadline(proxy: ProxyProcess, mode: str) -> None:
    """FLT-U4: KILL ends what STOP holds, and then all is well again."""
    session, other = proxy.session(), proxy.session()
    call = session.begin("stop")
    pid, = eventually(lambda: stopped(proxy))
    late = other.call("echo", n=1)
    if mode == "shared":
        check_failure(late, 504, "upstream-timeout", "unknown")
    else:
        assert late.value == {"n": 1}
    check_failure(call.answer(), 504, "upstream-timeout", "unknown")
    assert proxy.pages() == (200, 200, 200)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in proxy.children())
    working(proxy, session)
    working(proxy, other)


def test_call_ends_when_the_file_says_so(mode: str, tmp_path: Path) -> None:
    """call-timeout-s: each upstream has its own; the server hears that nobody waits any more."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        default-upstream = "default"
        [upstreams.default]
        command = {json.dumps(SCRIPTED)}
        stdio = "{mode}"
        call-timeout-s = 0.5
        [upstreams.patient]
        command = {json.dumps(SCRIPTED)}
        stdio = "{mode}"
    """)
    with running("--config", str(file)) as proxy:
        patient = proxy.session(path="/mcp/patient")
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        waiting = patient.begin("after", gate=str(gate))
        session = proxy.session()
        check_failure(session.call("silence", "late"), 504, "upstream-timeout", "unknown", "late")
        if mode != "pool":  # there another child may be asked
            eventually(lambda: "notifications/cancelled" in str(session.call("lines").value))
        assert session.call("echo", n=1).value == {"n": 1}
        assert not waiting.answered
        gate.write_bytes(b"")
        assert waiting.answer().value == "after"


def test_end_of_a_session_ends_its_stopped_child(proxy: ProxyProcess, mode: str) -> None:
    """FLT-U4, MCP-I-4: neither the end of its input nor TERM reaches it. KILL does."""
    session = proxy.session()
    session.begin("stop").leave()
    eventually(lambda: stopped(proxy))
    assert session.delete().status == 200
    if mode == "session":
        eventually(lambda: not stopped(proxy))
    else:
        os.kill(stopped(proxy)[0], signal.SIGKILL)
        eventually(lambda: not stopped(proxy))


def test_child_that_never_reads_holds_nobody_for_ever(proxy: ProxyProcess, mode: str) -> None:
    """FLT-U8: what waits for it is bounded; then it is refused, and nothing of it was executed."""
    session, other = proxy.session(), proxy.session()
    pid = session.call("deaf").pid
    text = "x" * TEXT_BYTES
    calls = [session.begin("echo", n, text=text) for n in range(8)]
    answers = [call.answer() for call in calls]
    by_status: dict[int, list[int]] = {200: [], 503: [], 504: []}
    for n, answer in enumerate(answers):
        by_status[answer.status].append(n)
        if answer.status == 503:
            check_failure(answer, 503, "overloaded", "no", n)
        elif answer.status == 504:
            check_failure(answer, 504, "upstream-timeout", "unknown", n)
        else:
            assert answer.value == {"text": text}
    if mode == "pool":  # one at a time at each child, so nothing waits at this one
        assert len(by_status[504]) >= 1 and not by_status[503]
    else:
        assert (len(by_status[200]), len(by_status[503]), len(by_status[504])) == (0, 3, 5)
    if mode == "session":
        assert other.call("echo", n=1).value == {"n": 1}
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in proxy.children())
    working(proxy, session)
    working(proxy, other)
