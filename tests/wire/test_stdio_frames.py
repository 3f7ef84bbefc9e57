"""One message is one line, and an answer is its asker's: THR-T4, T21; MCP-G-1, G-3, I-1.

The child tells which lines it has read. A hidden message is a complete one, on a line of its own
inside of another: whoever cuts at line ends would execute it.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator

import pytest

from .proxy_process import SCRIPTED, ProxyProcess, running
from .session_client import Session

LINE_ENDS = {"LF": "\n", "CR": "\r", "CRLF": "\r\n"}
HIDDEN = '{"jsonrpc":"2.0","id":666,"method":"tools/call","params":{"name":"echo","arguments":{}}}'
BODIES = {
    "request": '{"jsonrpc":"2.0","id":"seen","method":"ping",<>"params":{"a":<><hidden><>}<>}',
    "between": '<>{"jsonrpc":"2.0",<>"id":"seen",<>"method":<>"ping"<>,"params":<>{"a":1}<>}<>',
    "_meta": '{"jsonrpc":"2.0","id":"seen","method":"ping",'
    '"params":{"_meta":{"b":[<><hidden><>]}}}',
    "notification": '{"jsonrpc":"2.0","method":"notifications/x","params":{"a":<><hidden><>}}',
}
IDS = [
    0, -1, 7, "7", 2**53 + 1, 10**40, "", "0", 'a"b\\c', "line\nend\r",
    "\u00e9\u6f22\U0001f3ad", "\u2028", "x" * 500,
]  # fmt: skip
CLIENTS = 1000


def lines_read(session: Session) -> tuple[int, list[bytes]]:
    """How many lines the child has read, and the last of them: each one message, none hidden."""
    count, last = session.call("lines", "lines").value
    lines = [line.encode("latin-1") for line in last]
    for line in lines:
        assert line.endswith(b"\n") and b"\r" not in line
        assert json.loads(line).get("id") != 666
    return count, lines


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_message_is_one_line_whatever_white_space_is_in_it(
    proxy: ProxyProcess, mode: str, body: str, line_end: str
) -> None:
    """THR-T21, MCP-I-1."""
    session = proxy.session()
    data = body.replace("<>", line_end).replace("<hidden>", HIDDEN).encode()
    before, _ = lines_read(session)
    sent = session.post(data).answer()
    notes = "notification" in body
    assert (sent.status, len(sent.messages)) == (202, 0) if notes else (200, 1)
    count, lines = lines_read(session)
    if mode != "pool":  # there the two may have asked different children
        assert count == before + 2
        assert json.loads(lines[-2])["params"] == json.loads(data)["params"]


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
def test_each_element_of_a_batch_is_one_line(
    proxy: ProxyProcess, mode: str, line_end: str
) -> None:
    """THR-T21, MCP-S-12."""
    session = proxy.session("2025-03-26")
    before, _ = lines_read(session)
    bodies = [BODIES["request"].replace("seen", f"seen-{n}") for n in range(3)]
    batch = "<>[<>" + "<>,<>".join([*bodies, BODIES["notification"]]) + "<>]<>"
    data = batch.replace("<>", line_end).replace("<hidden>", HIDDEN).encode()
    answer = session.post(data).answer()
    assert {one["id"] for one in answer.messages} == {"seen-0", "seen-1", "seen-2"}
    count, _ = lines_read(session)
    if mode != "pool":  # there other children may have been asked
        assert count == before + 5


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
def test_answer_of_a_client_is_one_line(
    proxy: ProxyProcess, mode: str, line_end: str
) -> None:
    """THR-T21: it reaches the child in SESSION mode alone; elsewhere nobody asks clients."""
    session = proxy.session()
    ask = '{"jsonrpc":"2.0","id":"ask","method":"roots/list"}\n'
    call = session.begin("say", text=ask)
    if mode == "session":
        assert call.event()["id"] == "ask"
    body = '{"jsonrpc":"2.0",<>"id":"ask","result":{"roots":[],"_meta":{"a":<><hidden><>}}<>}'
    data = body.replace("<>", line_end).replace("<hidden>", HIDDEN).encode()
    assert session.post(data).answer().status == 202
    call.answer()
    _, lines = lines_read(session)
    if mode == "session":
        assert json.loads(lines[-2]) == json.loads(data)


def test_answer_of_a_child_is_one_event(proxy: ProxyProcess) -> None:
    """THR-T21: CR ends a line of an event stream too, so what stands after it would be lost."""
    session = proxy.session()
    progress = (
        '{"jsonrpc":"2.0","method":"notifications/progress",\r'
        '"params":{"progressToken":<token>,\r"progress":1}}\r\n'
    )
    answer = '\r{"jsonrpc":"2.0","id":<id>,\r"result":\r{"hidden":\r' + HIDDEN + "\r}}\r\n"
    params = {
        "name": "say",
        "arguments": {"text": progress + answer, "then": "silence"},
        "_meta": {"progressToken": 1},
    }
    streamed = session.send("tools/call", params, 5).answer()
    assert b"\r" not in streamed.body
    assert streamed.messages[0]["params"] == {"progressToken": 1, "progress": 1}
    assert streamed.message == {"jsonrpc": "2.0", "id": 5, "result": {"hidden": json.loads(HIDDEN)}}
    params = {"name": "say", "arguments": {"text": answer, "then": "silence"}}
    single = session.send("tools/call", params, 6).answer()
    assert b"\r" not in single.body
    assert single.message["result"] == {"hidden": json.loads(HIDDEN)}


def test_ids_come_back_with_value_and_type(proxy: ProxyProcess, mode: str) -> None:
    """MCP-G-1: all in flight at once, of two sessions."""
    sessions = [proxy.session(), proxy.session()]
    tool, count = ("echo", 0) if mode == "pool" else ("hold", len(IDS) * (1 + (mode == "shared")))
    calls = [
        (id, (owner, n), session.begin(tool, id, count=count, of=[owner, n]))
        for owner, session in enumerate(sessions)
        for n, id in enumerate(IDS)
    ]
    for id, of, call in calls:
        answer = call.answer()
        assert (answer.message["id"], type(answer.message["id"])) == (id, type(id))
        assert answer.value["of"] == list(of)


def test_progress_reaches_the_one_who_asked_for_it(proxy: ProxyProcess, mode: str) -> None:
    """THR-T4: clients choose the same tokens, too."""
    sessions = [proxy.session() for _ in range(3)]
    text = (
        '{"jsonrpc":"2.0","method":"notifications/progress",'
        '"params":{"progressToken":<token>,"progress":%d}}\n'
    )
    calls = []
    for n, session in enumerate(sessions):
        for token in ("t", 0):
            arguments = {"text": text % n * 2}
            params = {"name": "say", "arguments": arguments, "_meta": {"progressToken": token}}
            calls.append((n, token, session.send("tools/call", params, f"{token}")))
    for n, token, call in calls:
        *progress, last = call.answer().messages
        assert last["id"] == f"{token}"
        told = [note["params"] for note in progress]
        assert told == [{"progressToken": token, "progress": n}] * 2
        assert {type(params["progressToken"]) for params in told} == {type(token)}


@pytest.fixture
def room_for_sockets() -> Iterator[None]:
    """A descriptor for each client, here and in the proxy, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CLIENTS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousand_clients_with_one_id_get_their_own_answers(
    room_for_sockets: None
) -> None:
    """THR-T4: all in flight at once at one child, which answers them in no order."""
    with running("--stdio", "shared", "--", *SCRIPTED) as proxy:
        sessions = [proxy.adopt(proxy.begin_session().answer()) for _ in range(CLIENTS)]
        calls = [session.begin("hold", 0, count=CLIENTS, n=n) for n, session in enumerate(sessions)]
        for n, call in enumerate(calls):
            answer = call.answer()
            assert (answer.message["id"], answer.value["n"]) == (0, n)
