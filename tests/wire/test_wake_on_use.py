"""Processes that rest while nobody uses them, on real ones: one start for all who come at once."""

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
