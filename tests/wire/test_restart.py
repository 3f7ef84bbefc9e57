"""Sessions outlive the proxy, however it ends: real processes, real signals, a real disk (FLT-P3).

An answer that a client has seen is a promise: a session that `initialize` has opened is there after
any restart, one whose DELETE was answered is not. What was not answered may have happened or not.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy_actors.storage.open import FILE_NAME
from tests.scripted_server import Link, ScriptedServer, Seen
from tests.sim.virtual import Answer, call, initialize, note, request
from tests.wire.http_client import Wire
from tests.wire.proxy_process import SCRIPTED, ProxyProcess, running
from tests.wire.socket_upstream import SocketUpstream, ThreadSignal
from tests.wire.waiting import PATIENCE_S, eventually

SEED = 3
SEQUENCES = 200
CLIENTS = 8
# How many things happen between two signals, drawn from the seed.
GAP = (60, 220)
DEMO = ("--", sys.executable, "-m", "proxy_actors.demo")
ENDS = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream() as upstream:
        yield upstream


def stop(proxy: ProxyProcess, end: signal.Signals) -> None:
    """End it, and see that it ends so."""
    proxy.signal(end)
    assert proxy.wait() == ENDS[end]


def ask(proxy: ProxyProcess, data: bytes, method: str = "POST") -> Answer:
    with proxy.wire() as wire:
        return wire.ask(data, method)


def tool(name: str, **arguments: object) -> dict[str, object]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def echo(proxy: ProxyProcess, session: str, text: str) -> str:
    """Have the demo server say something."""
    answer = ask(proxy, request(tool("echo", message=text), session=session))
    said: str = answer.message["result"]["content"][0]["text"]
    return said


def delete(front_id: str) -> bytes:
    return request(None, "DELETE", session=front_id)


def look(state: Path, copy: Path) -> bytes:
    """Check the file as a crash has left it, in a copy; return every byte that is on the disk."""
    shutil.copytree(state, copy)
    data = b"".join(part.read_bytes() for part in copy.iterdir())
    with closing(sqlite3.connect(copy / FILE_NAME)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    shutil.rmtree(copy)
    return data


# What goes on, and what does not.


def test_session_at_an_http_upstream_goes_on(state: Path, upstream: SocketUpstream) -> None:
    """The same session of the upstream's, calls and stream alike; stopping has ended nothing."""
    server, words = upstream.server, ("--state-dir", str(state), upstream.url)
    with running(*words) as proxy:
        session, other = proxy.session_id(), proxy.session_id()
        assert ask(proxy, request(call(1), session=session)).status == 200
        stop(proxy, signal.SIGTERM)
    assert server.deleted == []
    with running(*words) as proxy:
        assert ask(proxy, request(call(2), session=session)).status == 200
        assert ask(proxy, request(call(2), session=other)).status == 200
        assert ask(proxy, delete(other), "DELETE").status == 200
        eventually(lambda: server.deleted == ["up-2"])
        stop(proxy, signal.SIGKILL)
    with running(*words) as proxy:
        before = len(server.seen)
        assert ask(proxy, request(note("notifications/initialized"), session=session)).status == 202
        with proxy.wire() as wire:
            wire.send(request(None, "GET", session=session))
            assert wire.head().status == 200
        assert ask(proxy, request(call(3), session=session)).status == 200
        assert {seen.field("mcp-session-id") for seen in server.seen[before:]} == {"up-1"}
        assert ask(proxy, request(call(3), session=other)).status == 404
    assert server.deleted == ["up-2"]
    assert [server.executions[n] for n in (1, 2, 3)] == [1, 2, 1]


@pytest.mark.parametrize("mode", ["shared", "pool"])
def test_session_at_shared_children_goes_on(mode: str, state: Path) -> None:
    words = ("--state-dir", str(state), "--stdio", mode, *DEMO)
    with running(*words) as proxy:
        session, other = proxy.session_id(), proxy.session_id()
        stop(proxy, signal.SIGTERM)
    with running(*words) as proxy:
        assert echo(proxy, session, "after TERM") == "after TERM"
        assert ask(proxy, delete(other), "DELETE").status == 200
        stop(proxy, signal.SIGKILL)
    with running(*words) as proxy:
        assert echo(proxy, session, "after kill -9") == "after kill -9"
        assert ask(proxy, request(tool("echo", message="x"), session=other)).status == 404


def test_session_never_goes_on_at_another_server(
    state: Path, upstream: SocketUpstream
) -> None:
    """THR-T5: the id that one server gave is no business of another's under the same name."""
    with SocketUpstream() as other:
        for first, second in ((upstream, other), (other, upstream)):
            with running("--state-dir", str(state), first.url) as proxy:
                session = proxy.session_id()
                assert ask(proxy, request(call(1), session=session)).status == 200
                stop(proxy, signal.SIGTERM)
            with running("--state-dir", str(state), second.url) as proxy:
                before = len(second.server.seen)
                for data, method in ((request(call(1), session=session), "POST"),
                                     (request(None, "GET", session=session), "GET"),
                                     (delete(session), "DELETE")):  # fmt: skip
                    assert ask(proxy, data, method).status == 404
                assert second.server.seen[before:] == []
                stop(proxy, signal.SIGTERM)
            assert first.server.deleted == []
            with running("--state-dir", str(state), first.url) as proxy:
                assert ask(proxy, request(call(1), session=session)).status == 404, "it has ended"


@pytest.mark.parametrize(
    "other",
    [("--stdio", "shared", *DEMO, "--another"), ("--stdio", "session", *DEMO),
     ("--stdio", "pool", "--env", "X=1", *DEMO)],
    ids=["arguments", "mode", "the same"],
)  # fmt: skip
def test_session_goes_on_at_the_same_command_alone(other: tuple[str, ...], state: Path) -> None:
    """How many processes there are is no matter, but whether a session has one of its own."""
    with running("--state-dir", str(state), "--stdio", "shared", *DEMO) as proxy:
        session = proxy.session_id()
        stop(proxy, signal.SIGTERM)
    with running("--state-dir", str(state), *other) as proxy:
        answer = ask(proxy, request(tool("echo", message="x"), session=session))
        assert answer.status == (200 if "pool" in other else 404)


def test_new_shared_child_is_told_what_clients_of_the_old_one_had_set(state: Path) -> None:
    """Level and subscriptions are in the row; who has subscribed hears of the resource again."""
    words = ("--state-dir", str(state), "--stdio", "shared", "--", *SCRIPTED)
    uri = "file:///watched"
    with running(*words) as proxy:
        session = proxy.session_id()
        for method, params in (
            ("logging/setLevel", {"level": "warning"}), ("resources/subscribe", {"uri": uri})
        ):
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            assert ask(proxy, request(message, session=session)).message["result"] == {}
        stop(proxy, signal.SIGTERM)
    with running(*words) as proxy, proxy.wire() as stream:

        def told() -> str:
            return ask(proxy, request(tool("lines"), session=session)).body.decode()

        stream.send(request(None, "GET", session=session))
        heard = stream.head()
        eventually(lambda: "logging/setLevel" in told() and "resources/subscribe" in told())
        assert "warning" in told() and uri in told()
        updated = json.dumps(note("notifications/resources/updated", uri=uri)) + "\n"
        assert ask(proxy, request(tool("say", text=updated), session=session)).status == 200
        while uri.encode() not in heard.body:
            assert stream.more(heard)


def test_session_with_a_child_of_its_own_ends_with_it(state: Path) -> None:
    """The child is gone; 404 has the client open another session (MCP-S-5)."""
    words = ("--state-dir", str(state), *DEMO)
    ended: list[str] = []
    for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        with running(*words) as proxy:
            for session in ended:
                answer = ask(proxy, request(tool("echo", message="x"), session=session))
                assert answer.status == 404
            ended.append(proxy.session_id())
            assert echo(proxy, ended[-1], "hello") == "hello"
            stop(proxy, end)


def test_without_a_state_directory_sessions_end_with_the_proxy(upstream: SocketUpstream) -> None:
    with running(upstream.url) as proxy:
        session = proxy.session_id()
        stop(proxy, signal.SIGTERM)
    assert upstream.server.deleted == []
    with running(upstream.url) as proxy:
        assert ask(proxy, request(call(1), session=session)).status == 404


# What befalls the disk.


def test_disk_that_fails_refuses_what_it_cannot_keep_and_nothing_else(
    state: Path, upstream: SocketUpstream
) -> None:
    """FLT-P6: calls go on, /ready says so, and all is well when there is room again."""

    def sessions(proxy: ProxyProcess) -> object:
        return ask(proxy, request(None, "GET", path="/ready"), "GET").message["sessions"]

    words = ("--state-dir", str(state), upstream.url)
    with running(*words) as proxy:
        session, other = proxy.session_id(), proxy.session_id()
        limits = resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE)
        bytes_max = (state / f"{FILE_NAME}-wal").stat().st_size
        resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (bytes_max, limits[1]))
        for data, method in ((request(initialize()), "POST"), (delete(other), "DELETE")):
            refused = ask(proxy, data, method)
            assert refused.status == 503 and refused.field(b"retry-after") == b"5"
        assert sessions(proxy) == "not stored"
        assert ask(proxy, request(call(1), session=session)).status == 200
        resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, limits)
        third = proxy.session_id()
        assert sessions(proxy) == "stored"
        eventually(lambda: upstream.server.deleted == ["up-3"])  # it was opened in vain
        stop(proxy, signal.SIGKILL)
        proxy.errors.add("session_write_failed")
    with running(*words) as proxy:
        for front_id in (session, third):
            assert ask(proxy, request(call(2), session=front_id)).status == 200


def test_damaged_file_costs_the_sessions_and_not_the_service(
    state: Path, upstream: SocketUpstream
) -> None:
    """FLT-P7: set aside, loudly; clients hear 404 and open others."""
    words = ("--state-dir", str(state), upstream.url)
    with running(*words) as proxy:
        session = proxy.session_id()
        stop(proxy, signal.SIGTERM)
    with (state / FILE_NAME).open("r+b") as file:
        file.write(b"no database")
    with running(*words) as proxy:
        assert ask(proxy, request(call(1), session=session)).status == 404
        session = proxy.session_id()
        stop(proxy, signal.SIGKILL)
        proxy.errors.add("session_file_set_aside")
    assert (state / f"{FILE_NAME}.damaged-1").read_bytes().startswith(b"no database")
    with running(*words) as proxy:
        assert ask(proxy, request(call(2), session=session)).status == 200


# Two at once.


def test_second_proxy_on_one_directory_ends_with_one_line_and_harms_nobody(
    state: Path, upstream: SocketUpstream
) -> None:
    words = ("--state-dir", str(state), upstream.url)
    command = [sys.executable, "-m", "proxy_actors", "run", "--listen", "127.0.0.1:0", *words]
    with running(*words) as proxy:
        session = proxy.session_id()
        second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert (second.returncode, second.stdout) == (78, "")
        assert second.stderr == (
            f"proxy-actors: {state / FILE_NAME}: database is locked; another process uses it, and "
            "each proxy needs a directory of its own\n"
        )
        assert ask(proxy, request(call(1), session=session)).status == 200
        other = proxy.session_id()
        stop(proxy, signal.SIGTERM)
    with running(*words) as proxy:
        for front_id in (session, other):
            assert ask(proxy, request(call(2), session=front_id)).status == 200


# Whenever it comes.


class Nemesis:
    """Counts what happens, and at a drawn moment sends the signal, from whatever thread it is.

    `tick` is called by clients before and after each request, and by the upstream likewise.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._clients = 0
        self._left = 0
        self._proxy: ProxyProcess | None = None
        self._up = threading.Event()
        self._over = threading.Event()
        self.ends: list[signal.Signals] = []

    def strike(self, proxy: ProxyProcess) -> bool:
        """Let clients use this proxy until it is struck and has ended; False if they are done."""
        with self._lock:
            if not self._clients:
                return False
            self._proxy, self._left = proxy, self._chance.randint(*GAP)
            self._over.clear()
            self._up.set()
        assert self._over.wait(PATIENCE_S)
        if self._up.is_set():
            return False
        assert proxy.wait() == ENDS[self.ends[-1]]
        return True

    def tick(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left or self._proxy is None:
                return
            self._up.clear()
            self.ends.append(self._chance.choice(list(ENDS)))
            self._proxy.signal(self.ends[-1])
            self._over.set()

    def wait_for_proxy(self) -> tuple[str, int]:
        """Return the address of the one that lives, once there is one."""
        assert self._up.wait(PATIENCE_S)
        assert self._proxy is not None
        return self._proxy.address

    def enter(self) -> None:
        """One more client."""
        self._clients += 1

    def leave(self) -> None:
        """One client is done."""
        with self._lock:
            self._clients -= 1
            if not self._clients:
                self._left = 0
                self._over.set()


class WatchedServer(ScriptedServer):
    """Ticks as it gets a request, and as it has answered it."""

    def __init__(self, upstream: SocketUpstream, nemesis: Nemesis) -> None:
        super().__init__(upstream._pause, ThreadSignal)
        self._nemesis = nemesis

    def _answer(self, link: Link, seen: Seen) -> None:
        self._nemesis.tick()
        super()._answer(link, seen)
        self._nemesis.tick()


class Client:
    """Opens sessions and ends most of them, one after another; notes what it was answered.

    Attributes:
        open: sessions that were opened and of which no end was asked for.
        ended: sessions whose end was answered.
        cut: how many requests were not answered.
        failure: what was wrong with an answer.
    """

    def __init__(self, nemesis: Nemesis, seed: int) -> None:
        self.open: set[str] = set()
        self.ended: set[str] = set()
        self.cut = 0
        self.failure: BaseException | None = None
        self._chance = random.Random(seed)
        self._nemesis = nemesis
        self._thread = threading.Thread(target=self._run)
        nemesis.enter()
        self._thread.start()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            for _ in range(SEQUENCES // CLIENTS):
                self._sequence()
        except BaseException as error:
            self.failure = error
        finally:
            self._nemesis.leave()

    def _sequence(self) -> None:
        """Open a session; use it, perhaps; end it, or in one case of four keep it."""
        while (opened := self._ask(request(initialize()))) is None:
            pass
        field = opened.field(b"mcp-session-id")
        assert opened.status == 200 and field is not None
        front_id = field.decode()
        self.open.add(front_id)
        if self._chance.random() < 0.5:
            used = self._ask(request(call(1), session=front_id))
            assert used is None or used.status == 200
        if self._chance.random() < 0.25:
            return
        self.open.discard(front_id)  # from here on it may be there or not
        asked = 1
        while (ended := self._ask(delete(front_id), "DELETE")) is None:
            asked += 1
        assert ended.status == 200 or (ended.status == 404 and asked > 1)
        self.ended.add(front_id)

    def _ask(self, data: bytes, method: str = "POST") -> Answer | None:
        """Ask the proxy that lives; None when it refused for its end, or ended in the middle."""
        address = self._nemesis.wait_for_proxy()
        try:
            with Wire(address) as wire:
                wire.send(data)
                self._nemesis.tick()
                answer = wire.answer(method)
        except OSError:
            answer = Answer()
        if not answer.complete or answer.status == 503:
            self.cut += 1
            return None
        self._nemesis.tick()
        return answer


def check(proxy: ProxyProcess, clients: list[Client], checked: set[str]) -> None:
    """No acknowledged session is lost, no deleted one alive; those checked already are left out."""
    with proxy.wire() as wire:
        for client in clients:
            for front_id in sorted(client.open):
                status = wire.ask(request(call(2), session=front_id)).status
                assert status == 200, f"{status}: a session is lost"
            for front_id in sorted(client.ended - checked):
                status = wire.ask(request(call(2), session=front_id)).status
                assert status == 404, f"{status}: a session that was ended is alive"
                checked.add(front_id)


def test_two_hundred_sessions_keep_their_promises_through_every_end(
    state: Path, tmp_path: Path
) -> None:
    """TERM and kill -9 at seeded points, from the first byte of a request to the last of an answer.

    Each end leaves a sound file, in which no id that a client holds is to be found (THR-T5).
    """
    nemesis = Nemesis(SEED)
    disk = b""
    with SocketUpstream() as upstream:
        upstream.server = WatchedServer(upstream, nemesis)
        words = ("--state-dir", str(state), upstream.url)
        clients = [Client(nemesis, SEED + number) for number in range(CLIENTS)]
        checked: set[str] = set()
        struck = True
        while struck:
            with running(*words) as proxy:
                check(proxy, clients, checked)
                struck = nemesis.strike(proxy)
            disk += look(state, tmp_path / "copy")
        for client in clients:
            client.join()
        with running(*words) as proxy:
            check(proxy, clients, set())
    known = [front_id for client in clients for front_id in client.open | client.ended]
    assert len(known) == SEQUENCES
    assert min(nemesis.ends.count(end) for end in ENDS) >= 3
    assert sum(client.cut for client in clients) >= 8, "nothing was underway"
    assert b"up-" in disk, "this is where ids would be"
    for front_id in known:
        assert front_id.removeprefix("v1.0.").encode() not in disk
