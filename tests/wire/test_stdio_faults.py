"""What children do to proxies, and what the proxy makes of it: FLT-U1 to U12 on real processes.

Each fault is met by a session of its own while another session is in the middle of a call. In every
mode the call that meets it is answered under the error contract, the next call works, and nobody
else notices; save that in SHARED mode the end of the child is everybody's.
"""

from __future__ import annotations

import ast
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fates import Bystander, working
from .proxy_process import ProxyProcess
from .session_client import check_failure
from .waiting import eventually

MEGABYTE = 1 << 20
FRAME_MEGABYTES_MAX = 16

GARBAGE = {
    "text": "listening on stdio\n",
    "no UTF-8": "\xff\xfe\x80 caf\xe9\n",
    "NULs": "\0\0\0\n",
    "blank": "\n \r\n\t\n",
    "mark": "\xef\xbb\xbf{}\n",
    "marked": '\xef\xbb\xbf{"jsonrpc":"2.0","id":<id>,"result":{}}\n',
    "JSON": '7\n"x"\nnull\n[]\n{}\n[[1]]\n',
    "cut": '{"jsonrpc":"2.0","id":<id>,"result"\n',
    "deep": "[" * 10_000 + "\n",
    "no version": '{"id":<id>,"result":{}}\n',
    "no id": '{"jsonrpc":"2.0","result":{}}\n',
    "null id": '{"jsonrpc":"2.0","id":null,"result":{}}\n',
    "id twice": '{"jsonrpc":"2.0","id":<id>,"id":<id>,"result":{}}\n',
    "both": '{"jsonrpc":"2.0","id":<id>,"result":{},"error":{"code":1,"message":"no"}}\n',
    "neither": '{"jsonrpc":"2.0","id":<id>}\n',
    "no code": '{"jsonrpc":"2.0","id":<id>,"error":{"message":"no"}}\n',
    "no token": '{"jsonrpc":"2.0","method":"notifications/progress",'
    '"params":{"progressToken":{},"progress":1}}\n',
    "no URI": '{"jsonrpc":"2.0","method":"notifications/resources/updated"}\n',
    "no request": '{"jsonrpc":"2.0","method":"notifications/cancelled",'
    '"params":{"requestId":[]}}\n',
}
UNASKED = {
    "unknown id": '{"jsonrpc":"2.0","id":"nobody","result":{}}\n',
    "unknown number": '{"jsonrpc":"2.0","id":987654321,"result":{}}\n',
    "retyped id": '{"jsonrpc":"2.0","id":"<id>","result":{}}\n',
    "number with a fraction": '{"jsonrpc":"2.0","id":<id>.0,"result":{}}\n',
    "unknown token": '{"jsonrpc":"2.0","method":"notifications/progress",'
    '"params":{"progressToken":"nobody","progress":1}}\n',
    "unknown error": '{"jsonrpc":"2.0","id":"nobody","error":{"code":1,"message":"no"}}\n',
}


@pytest.fixture
def bystander(proxy: ProxyProcess, tmp_path: Path) -> Iterator[Bystander]:
    """In the middle of a call when the test begins."""
    yield Bystander(proxy, tmp_path / "gate")


# FLT-U1, U2, U12: the end of a child.


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("die", {}),
        ("die", {"code": 0}),
        ("say", {"text": '{"jsonrpc":"2.0","id":<id>,"result":{', "then": "die"}),
        ("say", {"text": '{"jsonrpc":"2.0","id":<id>,"result":{}}', "then": "die"}),
    ],
    ids=["killed", "exits", "half a line", "no line end"],
)
def test_call_is_answered_when_its_child_ends(
    proxy: ProxyProcess, mode: str, bystander: Bystander, tool: str, arguments: dict[str, object]
) -> None:
    """FLT-U1, U2, U12: at once, for its deadline is minutes away."""
    session = proxy.session()
    check_failure(session.call(tool, "x", **arguments), 502, "process-exited", "unknown", "x")
    bystander.check_fate(mode)
    working(proxy, session)
    assert proxy.pages() == (200, 200, 200)


def test_streamed_call_is_answered_when_its_child_ends(proxy: ProxyProcess) -> None:
    """FLT-U1: the status has left, so the last event tells it; the stream itself is whole."""
    session = proxy.session()
    token = {"progressToken": "a"}
    progress = '{"jsonrpc":"2.0","method":"notifications/progress",' \
        '"params":{"progressToken":<token>,"progress":1}}\n'
    arguments = {"text": progress, "then": "die"}
    params = {"name": "say", "arguments": arguments, "_meta": token}
    answer = session.send("tools/call", params).answer()
    first, last = answer.messages
    assert first["params"] == {"progressToken": "a", "progress": 1}
    data = last["error"]["data"]
    assert (data["reason"], data["executed"]) == ("process-exited", "unknown")
    assert data["upstream"] == "default"
    told = f"upstream_failed request={data['requestId']} upstream=default reason=process-exited "
    eventually(lambda: told in proxy.log())
    assert proxy.log().count(told) == 1
    working(proxy, session)


def test_last_words_of_a_child_are_heard(proxy: ProxyProcess, tmp_path: Path) -> None:
    """FLT-U2: it answers and ends, and the proxy sees both at once."""
    session = proxy.session()
    gate = tmp_path / "last words"
    os.mkfifo(gate)
    before = proxy.children()
    call = session.begin("answer-and-die", gate=str(gate))
    with gate.open("wb"):
        proxy.signal(signal.SIGSTOP)
    eventually(lambda: set(before) - set(proxy.children()))
    proxy.signal(signal.SIGCONT)
    assert call.answer().value == "last words"
    working(proxy, session)


def test_guardian_killed_is_replaced(proxy: ProxyProcess, bystander: Bystander) -> None:
    """It takes all children along, so this is everybody's; then there are others."""
    session = proxy.session()
    guardian, *children = proxy.descendants()
    proxy.errors.add("guardian_died")
    os.kill(guardian, signal.SIGKILL)
    bystander.check_lost()
    working(proxy, session)
    assert not {guardian, *children} & set(proxy.descendants())


# FLT-U7, U10: what is no message, or nobody's.


def test_garbage_is_dropped_and_counted(proxy: ProxyProcess, bystander: Bystander) -> None:
    """FLT-U7, U10; MCP-I-2."""
    session = proxy.session()
    for n, text in enumerate(GARBAGE.values()):
        answer = session.call("say", f"call-{n}", text=text * 3)
        assert (answer.value, len(answer.messages)) == ("said", 1)
    bystander.check_undisturbed()


def test_answers_that_nobody_waits_for_are_dropped(
    proxy: ProxyProcess, bystander: Bystander
) -> None:
    """FLT-U10, THR-T4."""
    session = proxy.session()
    for n, text in enumerate(UNASKED.values()):
        answer = session.call("say", n, text=text * 3)
        assert (answer.value, len(answer.messages), answer.message["id"]) == ("said", 1, n)
    bystander.check_undisturbed()


def test_second_answer_to_a_call_is_dropped(
    proxy: ProxyProcess, bystander: Bystander
) -> None:
    """FLT-U10: neither does it reach the call after it."""
    session = proxy.session()
    text = '{"jsonrpc":"2.0","id":<id>,"result":{"n":1}}\n' * 3
    assert session.call("say", 1, text=text).message["result"] == {"n": 1}
    assert session.call("echo", 2, n=2).value == {"n": 2}
    bystander.check_undisturbed()


def test_line_without_an_end_recycles_its_child(
    proxy: ProxyProcess, mode: str, bystander: Bystander
) -> None:
    """FLT-U7: at the cap, which bounds the memory that it takes."""
    session = proxy.session()
    before = proxy.rss_bytes()
    answer = session.call("huge", megabytes=FRAME_MEGABYTES_MAX * 4, end=False)
    check_failure(answer, 502, "process-exited", "unknown")
    assert proxy.rss_bytes() - before < 4 * FRAME_MEGABYTES_MAX * MEGABYTE
    bystander.check_fate(mode)
    working(proxy, session)


def test_large_messages_pass_both_ways_at_once(
    proxy: ProxyProcess, bystander: Bystander
) -> None:
    """MCP-I-9: far more than a pipe holds."""
    session = proxy.session()
    text = "x" * (3 * MEGABYTE)
    pending = [session.begin("echo", n, n=n, text=text) for n in range(4)]
    for n, call in enumerate(pending):
        assert call.answer().value == {"n": n, "text": text}
    assert session.call("huge", 5, megabytes=8, end=True).value == "x" * (8 * MEGABYTE)
    bystander.check_undisturbed()


# FLT-U9.


@pytest.mark.parametrize("line", ["noise\n", "x"], ids=["lines", "no line end"])
def test_flood_of_stderr_is_drained(
    proxy: ProxyProcess, bystander: Bystander, line: str
) -> None:
    """FLT-U9, MCP-I-3: memory stays as it was, and the log is not flooded."""
    session = proxy.session()
    before, logged = proxy.rss_bytes(), len(proxy.log())
    assert session.call("flood", megabytes=50, line=line).value is None
    assert proxy.rss_bytes() - before < 10 * MEGABYTE
    assert len(proxy.log()) - logged < 100_000
    bystander.check_undisturbed()


# FLT-U11.


def test_answers_out_of_order_reach_their_callers(
    proxy: ProxyProcess, mode: str, bystander: Bystander
) -> None:
    """FLT-U11: a hundred in flight, of two sessions; a child of a pool has one at a time."""
    sessions = [proxy.session(), proxy.session()]
    tool, count = ("echo", 0) if mode == "pool" else ("hold", 50 if mode == "session" else 100)
    pending = {
        (owner, n): session.begin(tool, n, count=count, owner=owner, n=n)
        for n in range(50)
        for owner, session in enumerate(sessions)
    }
    for (owner, n), call in pending.items():
        answer = call.answer()
        assert (answer.message["id"], answer.value["owner"], answer.value["n"]) == (n, owner, n)
    bystander.check_undisturbed()


# FLT-U16, and what operators see.


def test_calls_start_no_process(proxy: ProxyProcess, mode: str) -> None:
    """Children are long-lived: many calls, the same processes."""
    sessions = [proxy.session(), proxy.session()]
    before = proxy.log().count(" child_started ")
    pids = {session.call("echo", n).pid for n in range(40) for session in sessions}
    pids |= {call.answer().pid for call in [sessions[0].begin("echo", n) for n in range(20)]}
    assert len(pids) == {"session": 2, "shared": 1}.get(mode, len(pids)) <= 4
    assert proxy.log().count(" child_started ") == before


def test_usr2_writes_the_tree_of_actors(proxy: ProxyProcess, mode: str) -> None:
    """Each with the depth of its mailbox and how often it was started."""
    session = proxy.session()
    stream = session.listen()
    assert stream.head().status == 200
    session.call("say", text="garbage\n")
    if mode == "session":  # the session's own, and the next one's
        eventually(lambda: len(proxy.children()) == 2)
    eventually(lambda: all(f" pid={pid}\n" in proxy.log() for pid in proxy.children()))
    logged = len(proxy.log())
    proxy.signal(signal.SIGUSR2)
    eventually(lambda: " name=server " in proxy.log()[logged:])
    line = r" actor depth=(\d) name=(\S+) kind=(\w+) incarnation=1 mailbox=0 .* detail=({.*})\n"
    found = re.findall(line, proxy.log()[logged:])
    assert found[0][:3] == ("0", "root", "Root")
    kinds = [(int(depth), kind) for depth, _, kind, _ in found]
    upstream = "StdioUpstream" if mode == "session" else "StdioShared"
    for wanted in ((1, upstream), (1, "SessionRegistry"), (1, "HttpServer")):
        assert kinds.count(wanted) == 1
    assert "EventStream" in {kind for _, kind in kinds}
    processes = [ast.literal_eval(detail) for _, _, kind, detail in found if kind == "StdioProcess"]
    pids = {process["pid"] for process in processes if process["running"]}
    assert pids == set(proxy.children())
    assert sum(process["dropped"] for process in processes) >= 1
    stream.leave()
