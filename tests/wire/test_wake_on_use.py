"""Processes that rest while nobody uses them, on real ones: one start for all who come at once.

Where each session has a process of its own it is the spare that rests.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .proxy_process import SCRIPTED, ProxyProcess, running
from .waiting import eventually

CALLS = 6


def starts(proxy: ProxyProcess) -> int:
    return proxy.log().count(" child_started ")


@pytest.mark.parametrize("mode", ["shared", "pool"])
def test_idle_processes_end_and_the_next_calls_wait_for_one_start(
    tmp_path: Path, mode: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [upstreams.demo]
        command = {json.dumps(SCRIPTED)}
        stdio = "{mode}"
        {"children = 1" if mode == "pool" else ""}
        idle-stop-s = 0.3
    """)
    with running("--config", str(file)) as proxy:
        session = proxy.session()
        assert session.call("echo", n=1).value == {"n": 1}
        eventually(lambda: not proxy.children())
        before = starts(proxy)
        assert proxy.page("/ready") == 200, "who asks will be served"
        calls = [session.begin("echo", number, n=number) for number in range(CALLS)]
        answers = [call.answer() for call in calls]
        assert [answer.value for answer in answers] == [{"n": number} for number in range(CALLS)]
        assert starts(proxy) == before + 1
        eventually(lambda: not proxy.children())
        assert session.call("echo", n=2).value == {"n": 2}, "its session is the same"


def test_spare_ends_without_sessions_and_the_next_of_them_have_processes_started(
    tmp_path: Path,
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"""
        [upstreams.demo]
        command = {json.dumps(SCRIPTED)}
        idle-stop-s = 0.3
    """)
    with running("--config", str(file)) as proxy:
        eventually(lambda: starts(proxy) == 1 and not proxy.children())
        assert proxy.page("/ready") == 200, "who asks will be served"
        openings = [proxy.begin_session() for _ in range(CALLS)]
        sessions = [proxy.adopt(opening.answer()) for opening in openings]
        pids = {session.call("echo").pid for session in sessions}
        assert len(pids) == CALLS, "each has one of its own"
        eventually(lambda: len(proxy.children()) == CALLS + 1)  # and there is a spare again
        assert starts(proxy) == 1 + CALLS + 1
        *others, last = sessions
        for session in others:
            session.delete()
        eventually(lambda: len(proxy.children()) == 2)
        assert last.call("echo", n=2).value == {"n": 2}
        last.delete()
        eventually(lambda: not proxy.children())
        assert proxy.page("/ready") == 200
        assert proxy.session().call("echo", n=3).value == {"n": 3}
