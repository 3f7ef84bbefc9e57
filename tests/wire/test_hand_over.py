"""A listening socket that outlives the process: systemd's socket activation, and restarts under it.

RELIABILITY 1.9; fault P4. The processes are real, and so is what a service manager does: it binds
the socket, and passes it to one process after another.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from proxy_actors.transports.activation import inherited_listener
from proxy_actors.world.gevent_world import GeventWorld
from tests.sim.virtual import Answer, call, initialize, request
from tests.wire.http_client import Wire
from tests.wire.proxy_process import WITH_SOCKET, running
from tests.wire.socket_upstream import SocketUpstream
from tests.wire.waiting import PATIENCE_S, eventually

RESTARTS = 4
CALLERS = 4
# So many calls of each caller are answered before a process is told to end.
ANSWERED = 10
INET = (socket.AF_INET, socket.SOCK_STREAM)
STEPS = (["json"], ["pause 0.05", "json"], ["sse", "note", "pause 0.02", "note", "answer", "end"])


@pytest.fixture
def upstream() -> Iterator[SocketUpstream]:
    with SocketUpstream(slow=True) as upstream:
        yield upstream


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening


class Callers:
    """Clients that call without a pause, on connections that are kept as long as they last.

    Attributes:
        answered: how often each caller has been answered; a caller that has seen anything else
            has stopped, and `failed` says what it was.
    """

    def __init__(self, address: tuple[str, int], session: str) -> None:
        self.answered = [0] * CALLERS
        self.calls = itertools.count(1)
        self.failed: list[object] = []
        self._address = address
        self._session = session
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(caller,)) for caller in range(CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def go_on(self) -> None:
        """Return when each has been answered some more times."""
        aims = [answered + ANSWERED for answered in self.answered]
        eventually(
            lambda: bool(self.failed) or all(a >= aim for a, aim in zip(self.answered, aims))
        )
        assert not self.failed, self.failed

    def stop(self) -> None:
        """Let running calls end, and begin no other."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a client hangs"
        assert not self.failed, self.failed

    def _run(self, caller: int) -> None:
        for steps in itertools.cycle(STEPS):
            try:
                with Wire(self._address) as wire:
                    for _ in range(3):
                        answer = self._call(wire, steps)
                        if self._over.is_set():
                            return
                        self.answered[caller] += 1
                        if not answer.keep_alive:
                            break
            except BaseException as error:  # whatever it is, it is what a client must not see
                self.failed.append(error)
                return

    def _call(self, wire: Wire, steps: list[str]) -> Answer:
        n = next(self.calls)
        data = request(call(n, *steps), session=self._session, path="/mcp/web")
        answer = wire.ask(data)
        assert answer.complete, f"{n} was cut: {answer}"
        assert answer.message["result"]["content"][0]["text"] == f"n={n}"
        return answer


def test_restarts_under_load_refuse_nobody_and_fail_no_call(
    upstream: SocketUpstream, listening: socket.socket, tmp_path: Path
) -> None:
    """P4: no connection is refused, no call fails, none is executed twice, no session is lost."""
    file = tmp_path / "config.toml"
    file.write_text(f"""
        state-dir = "{tmp_path / "state"}"
        [upstreams.web]
        url = "{upstream.url}"
    """)
    callers: Callers | None = None
    try:
        for _ in range(RESTARTS):
            with running("--config", str(file), listening=listening) as proxy:
                assert proxy.address == listening.getsockname()
                if callers is None:
                    callers = Callers(proxy.address, proxy.session_id())
                callers.go_on()
                proxy.signal(SIGTERM)
                assert proxy.wait() == 0, proxy.log()
        with running("--config", str(file), listening=listening):
            assert callers is not None
            callers.go_on()
            callers.stop()
    finally:
        if callers is not None:
            callers._over.set()
    called = next(callers.calls)
    assert [upstream.server.executions[n] for n in range(1, called)] == [1] * (called - 1)
    assert len(upstream.server.sessions) == 1


def test_who_connects_between_two_processes_waits_for_the_second(
    upstream: SocketUpstream, listening: socket.socket
) -> None:
    words = (upstream.url,)
    with running(*words, listening=listening) as proxy:
        proxy.session_id()
    with Wire(listening.getsockname()) as wire:
        wire.send(request(initialize()))
        with running(*words, listening=listening):
            assert wire.head().status == 200


def test_who_is_in_the_queue_as_a_process_closes_is_left_to_the_next(
    listening: socket.socket,
) -> None:
    world = GeventWorld(inherited=socket.fromfd(listening.fileno(), *INET))
    listener = world.listen("nowhere.test", 0, lambda stream: stream.close())
    assert (listener.address, listener.kept) == (listening.getsockname(), True)
    with socket.create_connection(listener.address, PATIENCE_S) as client:
        listener.close()
        accepted, name = listening.accept()
        accepted.close()
        assert name == client.getsockname()


def test_environment_of_children_does_not_speak_of_the_socket(listening: socket.socket) -> None:
    """Nor do they have it: another process that listened would take connections for itself."""
    code = """
import os, sys
names = [name for name in os.environ if "LISTEN" in name]
print(names, sorted(os.listdir("/proc/self/fd")), file=sys.stderr)
sys.stdin.read()
"""
    with running("--", sys.executable, "-c", code, listening=listening) as proxy:
        eventually(lambda: "stderr" in proxy.log())
        assert "text=[] ['0', '1', '2', '3']" in proxy.log()  # the last reads the directory
        flags = Path(f"/proc/{proxy.pid}/fdinfo/3").read_text().split()[3]
        assert int(flags, 8) & os.O_CLOEXEC


def refused(make: Callable[[], socket.socket], fds: str = "1") -> str:
    """Start a proxy that gets what it cannot serve; return what it says."""
    program = [sys.executable, "-m", "proxy_actors", "run", "--", "true"]
    with make() as passed:
        ended = subprocess.run(
            [sys.executable, "-c", WITH_SOCKET, str(passed.fileno()), *program],
            pass_fds=[passed.fileno()], env={**os.environ, "LISTEN_FDS": fds},
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
    assert ended.returncode == 78
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_what_cannot_be_served_is_refused_and_says_what_to_do() -> None:
    def unix() -> socket.socket:
        return socket.socket(socket.AF_UNIX)

    assert "one ListenStream= in its unit" in refused(unix, fds="2")
    assert "must be a listening TCP socket" in refused(unix)
    assert "must be a listening TCP socket" in refused(socket.socket)


def test_socket_of_another_process_is_left_alone() -> None:
    environment = {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1", "PATH": "/bin"}
    assert inherited_listener(environment) is None
    assert environment == {"PATH": "/bin"}
