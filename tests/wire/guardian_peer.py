"""A plain socket's view of the guardian, for tests: ask, hear, watch processes end.

Ends are awaited on process descriptors (pidfd), which the kernel makes readable: no polling, and no
confusion with a later process of the same number.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from proxy_actors.transports.guardian import MESSAGE_BYTES_MAX, Process
from proxy_actors.transports.guardian_launch import launch

from .waiting import PATIENCE_S

ENV = {"PATH": os.environ["PATH"]}

# Starts one relative of the kind argv[1], then goes on as argv[2], a line of shell. Both print
# their numbers, the relative first, ignore TERM, HUP and INT, and do not care for their stdin.
FAMILY = """
import os, signal, sys
for name in ("SIGTERM", "SIGHUP", "SIGINT"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
kind, ending = sys.argv[1:]
told, tell = os.pipe()
os.set_inheritable(tell, True)
pid = os.fork()
if pid == 0:
    if kind != "group":
        os.setsid()
    if kind.endswith("daemon") and os.fork():
        os._exit(0)
    env = {} if kind.startswith("hidden") else os.environ
    script = f"echo $$; echo >&{tell}; exec {tell}>&-; exec sleep 1000"
    os.execve("/bin/sh", ["sh", "-c", script], env)
os.close(tell)
os.read(told, 1)
if kind.endswith("daemon"):
    os.waitpid(pid, 0)
os.execve("/bin/sh", ["sh", "-c", "echo $$; " + ending], os.environ)
"""
STAY = "exec sleep 1000"
EXIT_WHEN_TOLD = "read line; exit 7"


def request(child_id: str, argv: tuple[str, ...], env: dict[str, str], cwd: str | None) -> bytes:
    message = {"type": "spawn", "id": child_id, "argv": argv, "env": env, "cwd": cwd}
    return json.dumps(message).encode()


class Child:
    """A child that was asked for, and our ends of its pipes."""

    def __init__(self, child_id: str, pipes: list[int], stack: ExitStack) -> None:
        self.id = child_id
        self.pid = 0
        self.stdin = stack.enter_context(os.fdopen(pipes[0], "wb", buffering=0))
        self.stdout = stack.enter_context(os.fdopen(pipes[1], "rb", buffering=0))
        self.stderr = stack.enter_context(os.fdopen(pipes[2], "rb", buffering=0))

    def number(self) -> int:
        return int(self.stdout.readline())


class Peer:
    """The other end of a guardian, as the proxy would be."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        fd, self.pid = launch()
        self.control = stack.enter_context(socket.socket(fileno=fd))
        self.control.settimeout(10)
        self._asked = 0

    def ask(self, *argv: str, cwd: str | None = None, env: dict[str, str] = ENV) -> Child:
        """Ask for a child; the answer is not read."""
        self._asked += 1
        (stdin, ours_in), (ours_out, stdout), (ours_err, stderr) = (os.pipe() for _ in range(3))
        data = request(f"id-{self._asked}", argv, env, cwd)
        socket.send_fds(self.control, [data], [stdin, stdout, stderr])
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        return Child(f"id-{self._asked}", [ours_in, ours_out, ours_err], self.stack)

    def spawn(self, *argv: str, cwd: str | None = None, env: dict[str, str] = ENV) -> Child:
        child = self.ask(*argv, cwd=cwd, env=env)
        answer = self.hear()
        assert (answer["type"], answer["id"]) == ("spawned", child.id), answer
        child.pid = answer["pid"]
        return child

    def family(self, kind: str, ending: str = STAY) -> tuple[Child, int, int]:
        """Start a child with a relative; return it and the process descriptors of both."""
        child = self.spawn(sys.executable, "-I", "-S", "-c", FAMILY, kind, ending)
        relative, pid = child.number(), child.number()
        assert pid == child.pid
        return child, self.watch(pid), self.watch(relative)

    def watch(self, pid: int) -> int:
        pidfd = os.pidfd_open(pid)
        self.stack.callback(os.close, pidfd)
        return pidfd

    def signal(self, child: Child, signum: int) -> None:
        message = {"type": "signal", "id": child.id, "signal": signum}
        self.control.send(json.dumps(message).encode())

    def hear(self) -> dict[str, object]:
        return json.loads(self.control.recv(MESSAGE_BYTES_MAX))

    def hear_end_of(self, child: Child) -> tuple[object, object]:
        answer = self.hear()
        assert (answer["type"], answer["id"]) == ("exited", child.id), answer
        assert answer["pid"] == child.pid
        return answer["code"], answer["signal"]

    def fds(self) -> list[str]:
        return sorted(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def watched(pids: Iterable[int]) -> Iterator[list[int]]:
    """Process descriptors of all these that are not gone: what starts something may end at once."""
    with ExitStack() as stack:
        pidfds = []
        for pid in pids:
            with suppress(ProcessLookupError):
                pidfds.append(os.pidfd_open(pid))
                stack.callback(os.close, pidfds[-1])
        yield pidfds


def wait_gone(*pidfds: int) -> None:
    """Wait until all these processes have ended."""
    deadline_s = time.monotonic() + PATIENCE_S
    for pidfd in pidfds:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        left_ms = max(0, int((deadline_s - time.monotonic()) * 1000))
        assert poll.poll(left_ms), "a process is left"


def lives(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def stat_of(pid: int) -> Process:
    return Process(pid, Path(f"/proc/{pid}/stat").read_bytes())


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
