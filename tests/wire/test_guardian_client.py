"""The gevent side of the guardian. pytest is never patched: each scenario is a process of its own.

A scenario prints nothing and exits 0, or its traceback is the failure.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

PRELUDE = """
import gevent.monkey
gevent.monkey.patch_all()
import json, logging, math, os, posix, resource, select, signal, socket, sys, time
import gevent, gevent.event, gevent.pool
from proxy_actors.errors import SpawnError
from proxy_actors.transports import guardian_client
from proxy_actors.transports.guardian_client import GuardianClient
from wire.guardian_peer import EXIT_WHEN_TOLD, FAMILY, STAY, lives, stat_of, wait_gone

ENV = {"PATH": os.environ["PATH"]}

class Ends:
    "Collects the ends of children, and waits for the next."
    def __init__(self):
        self.seen = []
        self.arrived = gevent.event.Event()
    def __call__(self, code, signum):
        self.seen.append((code, signum))
        self.arrived.set()
    def wait(self):
        assert self.arrived.wait(10), "no end was reported"
        self.arrived.clear()
        return self.seen[-1]

def spawn(client, *argv, on_exit=lambda code, signum: None, cwd=None, after_s=math.inf, env=ENV):
    return client.spawn(argv, env, cwd, time.monotonic() + after_s, on_exit)

def family(client, kind, on_exit):
    child = spawn(client, sys.executable, "-I", "-S", "-c", FAMILY, kind, STAY, on_exit=on_exit)
    os.set_blocking(child.stdout_fd, True)
    with os.fdopen(os.dup(child.stdout_fd)) as lines:
        relative, pid = int(lines.readline()), int(lines.readline())
    return child, os.pidfd_open(pid), os.pidfd_open(relative)

def close(child):
    for fd in child[1:]:
        posix.close(fd)

def fds():
    return sorted(os.listdir("/proc/self/fd"))

def descendants_of(pid):
    return guardian_client.ProcessTable().descendants(pid)

def wait_for_descendants(pid, count):
    "Wait until there are so many: a process that was sent KILL ends when it is next scheduled."
    deadline_s = time.monotonic() + 20
    while len(found := descendants_of(pid)) != count:
        assert time.monotonic() < deadline_s, found
        gevent.event.Event().wait(0.005)

client = GuardianClient.start()
"""


def run(scenario: str) -> None:
    """Run the scenario in a patched process that treats warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(scenario)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_child_is_started_spoken_to_and_its_end_reported() -> None:
    run(
        """
        ends = Ends()
        child = spawn(client, "sh", "-c", "read line; echo $line >&2; cat; exit 3", on_exit=ends)
        assert os.getpgid(child.pid) == child.pid and stat_of(child.pid).parent != os.getpid()
        for fd in child[1:]:
            assert not os.get_blocking(fd) and not os.get_inheritable(fd)
        os.write(child.stdin_fd, b"error\\noutput")
        posix.close(child.stdin_fd)
        assert ends.wait() == (3, None)
        assert os.read(child.stdout_fd, 99) == b"output"
        assert os.read(child.stderr_fd, 99) == b"error\\n"
        client.signal(child.pid, signal.SIGKILL)  # no effect any more
        child = spawn(client, "cat", on_exit=ends)
        client.signal(child.pid, signal.SIGTERM)
        assert ends.wait() == (None, signal.SIGTERM)
        client.close()
        assert ends.seen == [(3, None), (None, signal.SIGTERM)]
        """
    )


def test_error_names_the_command_and_what_to_do() -> None:
    run(
        """
        def text(*argv, cwd=None, env={"PATH": "/nope"}):
            before = fds()
            try:
                spawn(client, *argv, cwd=cwd, env=env, on_exit=None)
            except SpawnError as error:
                assert fds() == before
                return str(error)
        spawn(client, "cat")
        assert text("srv") == (
            "cannot start 'srv': not found in PATH '/nope'; install it or give its full path")
        assert text("/srv/x") == (
            "cannot start '/srv/x': No such file or directory; "
            "correct its path, or the #! line of the script")
        assert text("/etc/passwd").startswith(
            "cannot start '/etc/passwd': Permission denied; make it executable")
        assert text("/bin/sh", cwd="/nope") == (
            "cannot start '/bin/sh': its working directory '/nope': No such file or directory; "
            "create or correct it")
        assert "NUL" in text("/bin/sh", "a\\0b")
        assert "NUL" in text("/bin/sh", env={"A=B": ""})
        assert text("/bin/sh", "x" * 200_000).startswith(
            "cannot start '/bin/sh': its arguments and environment take 200")
        assert "empty" in text() and "empty" in text("")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(fds()) + 2, limit[1]))
        try:
            spawn(client, "srv")
            raise AssertionError("it had no descriptors")
        except SpawnError as error:
            assert "cannot start 'srv': Too many open files; raise" in str(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        client.close()
        assert text("cat") == "cannot start a child: the proxy is stopping"
        """
    )


def test_end_is_reported_after_the_spawn_has_returned() -> None:
    """Both answers of a guardian played here arrive at once, before the asker runs again."""
    run(
        """
        ours, theirs = gevent.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        dead = posix.posix_spawn("/bin/true", ["true"], {})
        played = GuardianClient(ours.detach(), dead)
        order = []
        def ask():
            spawn(played, "cat", on_exit=lambda code, signum: order.append("ended"))
            order.append("spawned")
        asker = gevent.spawn(ask)
        row_id = json.loads(theirs.recv(9999))["id"]
        theirs.send(json.dumps({"type": "spawned", "id": row_id, "pid": 1}).encode())
        theirs.send(json.dumps(
            {"type": "exited", "id": row_id, "pid": 1, "code": 0, "signal": None}).encode())
        asker.join()
        theirs.close()
        played.close()
        assert order == ["spawned", "ended"], order
        client.close()
        """
    )


def test_guardian_that_dies_is_reported_swept_and_replaced() -> None:
    """Its children die with it; their descendants, daemons included, are found and killed."""
    run(
        """
        logging.disable()
        guardians = [stat_of(pid) for pid in descendants_of(os.getpid())]
        ends = Ends()
        relatives = [family(client, kind, ends) for kind in ("group", "daemon", "hidden-session")]
        with_group_left = relatives[0]
        os.kill(guardians[0].pid, signal.SIGKILL)
        while len(ends.seen) < 3:
            ends.wait()
        assert ends.seen == [(None, signal.SIGKILL)] * 3
        for child, child_fd, relative_fd in relatives[:2]:
            wait_gone(child_fd, relative_fd)
        # Empty environment, own session, no parent: found by nothing, so ended here.
        signal.pidfd_send_signal(relatives[2][2], signal.SIGKILL)
        assert descendants_of(os.getpid()) == []
        child = spawn(client, "cat", on_exit=ends)
        assert stat_of(child.pid).parent == descendants_of(os.getpid())[0] != guardians[0].pid
        client.close()
        assert len(ends.seen) == 4
        """
    )


def test_spawn_under_way_when_the_guardian_dies_fails() -> None:
    run(
        """
        logging.disable()
        guardian_pid, = descendants_of(os.getpid())
        os.kill(guardian_pid, signal.SIGSTOP)
        before = fds()
        gevent.spawn(os.kill, guardian_pid, signal.SIGKILL)
        try:
            spawn(client, "cat", on_exit=None)
            raise AssertionError("there was no guardian")
        except SpawnError as error:
            assert "the guardian ended" in str(error)
        assert len(fds()) < len(before)
        client.close()
        """
    )


def test_spawn_that_misses_its_deadline_leaves_no_child() -> None:
    """The guardian is held up, then starts what nobody waits for any more: it is killed."""
    run(
        """
        spawn(client, "cat")
        guardian_pid = descendants_of(os.getpid())[0]
        before = fds()
        os.kill(guardian_pid, signal.SIGSTOP)
        try:
            spawn(client, "sleep", "1000", after_s=0.01, on_exit=None)
            raise AssertionError("the guardian was stopped")
        except SpawnError as error:
            assert "not started by its deadline" in str(error)
        assert fds() == before
        os.kill(guardian_pid, signal.SIGCONT)
        ends = Ends()
        close(spawn(client, "cat", on_exit=ends))
        ends.wait()
        wait_for_descendants(guardian_pid, 1)  # the first cat
        client.close()
        """
    )


def test_asker_killed_while_it_waits_leaves_no_child() -> None:
    run(
        """
        before = fds()
        asker = gevent.spawn(spawn, client, "sleep", "1000", on_exit=None)
        gevent.sleep(0)
        asker.kill()
        ends = Ends()
        close(spawn(client, "true", on_exit=ends))
        ends.wait()  # by now the guardian has started what nobody waits for
        wait_for_descendants(os.getpid(), 1)  # the guardian
        assert len(fds()) == len(before)
        client.close()
        """
    )


def test_close_ends_all_and_reports_each_end() -> None:
    run(
        """
        ends = Ends()
        relatives = [family(client, kind, ends) for kind in ("daemon", "hidden-daemon")]
        client.close()
        client.close()
        assert ends.seen == [(None, signal.SIGKILL)] * 2
        assert not any(lives(fd) for _, *pidfds in relatives for fd in pidfds)
        assert descendants_of(os.getpid()) == []
        """
    )


def test_close_ends_a_guardian_that_does_not_answer() -> None:
    run(
        """
        logging.disable()
        guardian_client._STOP_GRACE_S = 0.05
        ends = Ends()
        child, child_fd, relative_fd = family(client, "daemon", ends)
        os.kill(descendants_of(os.getpid())[0], signal.SIGSTOP)
        client.close()
        assert ends.seen == [(None, signal.SIGKILL)]
        wait_gone(child_fd, relative_fd)
        """
    )


def test_failing_callback_does_not_silence_the_others() -> None:
    run(
        """
        logging.disable()
        def fail(code, signum):
            raise ValueError("a bug of the caller's")
        spawn(client, "true", on_exit=fail)
        ends = Ends()
        spawn(client, "true", on_exit=ends)
        ends.wait()
        client.close()
        """
    )


def test_200_concurrent_children_leave_no_descriptor_and_no_zombie() -> None:
    run(
        """
        spawn(client, "cat")
        before = fds()
        ends = Ends()
        pool = gevent.pool.Pool(20)
        for _ in range(200):
            pool.spawn(lambda: close(spawn(client, "true", on_exit=ends)))
        assert pool.join(20)
        while len(ends.seen) < 200:
            ends.wait()
        assert fds() == before
        assert len(descendants_of(os.getpid())) == 2, "the guardian and the cat"
        client.close()
        assert set(ends.seen) == {(0, None)}
        """
    )
