"""The guardian process, spoken to over a plain socket: FLT-U5, FLT-U6, and no orphan, ever."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from proxy_actors.transports.guardian import MARK, MESSAGE_BYTES_MAX

from .guardian_peer import (
    ENV,
    EXIT_WHEN_TOLD,
    FAMILY,
    STAY,
    Peer,
    lives,
    request,
    stat_of,
    status_of,
    wait_gone,
)
from .waiting import eventually

# Plays the proxy: starts a guardian and a family, and prints the numbers of all three.
PROXY = """
import json, os, socket, sys
from proxy_actors.transports.guardian_launch import launch
fd, guardian_pid = launch()
control = socket.socket(fileno=fd)
request = {"type": "spawn", "id": "1", "argv": sys.argv[1:], "env": {}, "cwd": None}
null = os.open("/dev/null", os.O_RDWR)
output, child_output = os.pipe()
socket.send_fds(control, [json.dumps(request).encode()], [null, child_output, null])
lines = os.fdopen(output)
print(guardian_pid, int(lines.readline()), int(lines.readline()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A guardian that ends with the test and is reaped."""
    with ExitStack() as stack:
        peer = Peer(stack)
        yield peer
    os.waitpid(peer.pid, 0)


@pytest.mark.parametrize(
    ("script", "end"),
    [("exit 0", (0, None)), ("exit 3", (3, None)), ("kill -TERM $$", (None, signal.SIGTERM))],
)
def test_exit_code_or_signal_is_reported_once(
    peer: Peer, script: str, end: tuple[int | None, int | None]
) -> None:
    child = peer.spawn("sh", "-c", script)
    assert peer.hear_end_of(child) == end
    peer.spawn("cat")  # whatever else there was to hear would come first


def test_child_reads_and_writes_the_pipes_that_were_passed(peer: Peer) -> None:
    child = peer.spawn("sh", "-c", "cat; echo oops >&2")
    child.stdin.write(b"hello")
    child.stdin.close()
    assert child.stdout.readall() == b"hello"
    assert child.stderr.readall() == b"oops\n"


def test_child_has_exactly_the_environment_given_and_the_mark(peer: Peer) -> None:
    """No variable of the proxy reaches a child (threat T12); bytes that are not UTF-8 do."""
    env = {"PATH": "/usr/bin:/bin", "EMPTY": "", "RAW": "\udcff", MARK: "forged"}
    child = peer.spawn("cat", env=env)
    environ = Path(f"/proc/{child.pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    mark = f"{MARK}={child.id}".encode()
    assert sorted(environ) == sorted([b"PATH=/usr/bin:/bin", b"EMPTY=", b"RAW=\xff", mark])


def test_child_has_no_descriptor_but_its_pipes(peer: Peer) -> None:
    others = [peer.spawn("cat") for _ in range(3)]
    fds = f"/proc/{others[-1].pid}/fd"
    # While it is being loaded it has its libraries open, one after another.
    eventually(lambda: sorted(os.listdir(fds)) == ["0", "1", "2"])


def test_guardian_keeps_no_descriptor_that_it_inherited() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with ExitStack() as stack:
        peer = Peer(stack)
        peer.spawn("cat")  # it has started by now
        os.close(writing)
        assert os.read(reading, 1) == b""  # and its guardian does not hold the pipe open
        os.close(reading)
        assert peer.fds() == ["0", "1", "2", "3", "4", "5"]
        assert Path(f"/proc/{peer.pid}/environ").read_bytes() == b""
    os.waitpid(peer.pid, 0)


def test_child_starts_with_default_signals_in_a_session_of_its_own(peer: Peer) -> None:
    """Python ignores PIPE, and the guardian TERM and others: a child must not inherit that."""
    child = peer.spawn("cat")
    status = status_of(child.pid)
    # The C library's posix_spawn ignores 32 and 33, which are its own.
    masks = [int(status[name], 16) & ~(0b11 << 31) for name in ("SigBlk", "SigIgn", "SigCgt")]
    assert masks == [0, 0, 0]
    assert status["Umask"] == status_of(os.getpid())["Umask"]
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid


def test_command_is_looked_up_in_the_path_given_relative_to_cwd(
    peer: Peer, tmp_path: Path
) -> None:
    """A symbolic link is started by its own name, which virtual environments depend on."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "linked").symlink_to("/bin/sh")
    script = 'echo "$0 $PWD"'
    child = peer.spawn("linked", "-c", script, cwd=str(tmp_path), env={"PATH": "/nope:bin"})
    assert child.stdout.readall() == f"linked {tmp_path}\n".encode()
    child = peer.ask("bin/linked", "-c", script, cwd=str(tmp_path), env={})
    assert child.stdout.readall() == f"bin/linked {tmp_path}\n".encode()


@pytest.mark.parametrize(
    ("argv", "cwd", "stage", "number"),
    [
        (["no-such-command"], None, "exec", errno.ENOENT),
        (["/no/such/command"], None, "exec", errno.ENOENT),
        (["{tmp}/plain"], None, "exec", errno.EACCES),
        (["plain"], None, "exec", errno.EACCES),
        (["{tmp}/garbage"], None, "exec", errno.ENOEXEC),
        (["{tmp}/orphaned-script"], None, "exec", errno.ENOENT),
        (["sh", "\0"], None, "exec", errno.EINVAL),
        (["sh"], "/no/such/folder", "cwd", errno.ENOENT),
        (["sh"], "{tmp}/plain", "cwd", errno.ENOTDIR),
    ],
)
def test_start_that_fails_is_reported_with_stage_and_errno(
    peer: Peer, tmp_path: Path, argv: list[str], cwd: str | None, stage: str, number: int
) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "garbage").write_bytes(b"\0\1\2\3")
    (tmp_path / "garbage").chmod(0o755)
    (tmp_path / "orphaned-script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "orphaned-script").chmod(0o755)
    argv = [part.replace("{tmp}", str(tmp_path)) for part in argv]
    cwd = cwd and cwd.replace("{tmp}", str(tmp_path))
    child = peer.ask(*argv, cwd=cwd, env={"PATH": f"{tmp_path}:/no/such/folder"})
    expected = {"type": "spawn_failed", "id": child.id, "stage": stage, "errno": number}
    assert peer.hear() == expected
    peer.spawn("cat")  # no end is reported of what never started


@pytest.mark.parametrize("room", [0, 2, 3, 4])
def test_start_without_room_for_descriptors_fails_and_leaks_none(peer: Peer, room: int) -> None:
    """The kernel drops the descriptors of a message that find no room (0, 2); the rest is ours."""
    peer.spawn("cat")
    fds = peer.fds()
    _, hard = resource.prlimit(peer.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(peer.pid, resource.RLIMIT_NOFILE, (len(fds) + room, hard))
    child = peer.ask("cat")
    answer = peer.hear()
    assert (answer["id"], answer["stage"], answer["errno"]) == (child.id, "fork", errno.EMFILE)
    resource.prlimit(peer.pid, resource.RLIMIT_NOFILE, (hard, hard))
    peer.spawn("cat")
    assert peer.fds() == fds


def test_message_of_the_largest_size_is_understood(peer: Peer) -> None:
    """An argument may have 128 KiB less one byte on Linux, so the rest goes to the environment."""
    argv = ("sh", "-c", "echo ${#A} ${#B}")
    spare = MESSAGE_BYTES_MAX - len(request("id-1", argv, dict(ENV, A="", B=""), None))
    child = peer.spawn(*argv, env=dict(ENV, A="x" * 60_000, B="x" * (spare - 60_000)))
    assert child.stdout.readline().split() == [b"60000", b"%d" % (spare - 60_000)]


def test_signals_of_a_terminal_or_an_init_do_not_end_the_guardian(peer: Peer) -> None:
    peer.spawn("cat")
    assert os.getsid(peer.pid) == peer.pid != os.getsid(0)
    for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "TSTP", "PIPE"):
        os.kill(peer.pid, signal.Signals["SIG" + name])
    peer.spawn("cat")


def test_signal_goes_to_the_whole_group(peer: Peer) -> None:
    child = peer.spawn("sh", "-c", "sleep 1000 & echo $!; wait")
    sleeper = peer.watch(child.number())
    peer.signal(child, signal.SIGTERM)
    wait_gone(sleeper)
    assert peer.hear_end_of(child) == (None, signal.SIGTERM)


@pytest.mark.parametrize("kind", ["group", "session", "daemon", "hidden-session"])
def test_kill_reaches_descendants_that_left_the_group(peer: Peer, kind: str) -> None:
    """FLT-U5: whatever the relative did, and although all of them ignore TERM and EOF."""
    bystander = peer.watch(peer.spawn("cat").pid)
    child, child_fd, relative_fd = peer.family(kind)
    child.stdin.close()
    peer.signal(child, signal.SIGTERM)
    assert lives(child_fd) and lives(relative_fd)
    peer.signal(child, signal.SIGKILL)
    assert peer.hear_end_of(child) == (None, signal.SIGKILL)
    wait_gone(child_fd, relative_fd)
    assert lives(bystander)


@pytest.mark.parametrize("kind", ["group", "session", "daemon"])
def test_child_that_ends_by_itself_leaves_nothing_behind(peer: Peer, kind: str) -> None:
    """FLT-U5, for a server that exits at the end of its input and forgets its helpers."""
    bystander = peer.watch(peer.spawn("cat").pid)
    child, child_fd, relative_fd = peer.family(kind, EXIT_WHEN_TOLD)
    child.stdin.write(b"now\n")
    assert peer.hear_end_of(child) == (7, None)
    wait_gone(child_fd, relative_fd)
    assert lives(bystander)


def test_daemon_of_a_living_child_outlives_another_child(peer: Peer) -> None:
    owner, _, daemon_fd = peer.family("daemon")
    other = peer.spawn("true")
    peer.hear_end_of(other)
    peer.spawn("cat")
    assert lives(daemon_fd)
    peer.signal(owner, signal.SIGKILL)
    wait_gone(daemon_fd)


def test_daemon_without_a_mark_goes_once_no_older_child_lives(peer: Peer) -> None:
    """It hid its session and its environment: its age is all that tells whose it may be."""
    elder = peer.spawn("cat")
    child, _, daemon_fd = peer.family("hidden-daemon", EXIT_WHEN_TOLD)
    # Start times have a grain of 10 ms: the younger one must be seen to be younger.
    younger = peer.spawn("cat")
    first_ticks = stat_of(younger.pid).started
    while stat_of(younger.pid).started == first_ticks:
        younger.stdin.close()
        peer.hear_end_of(younger)
        younger = peer.spawn("cat")
    child.stdin.write(b"now\n")
    peer.hear_end_of(child)
    peer.spawn("cat")
    assert lives(daemon_fd), "it could be the elder's"
    elder.stdin.close()
    peer.hear_end_of(elder)
    wait_gone(daemon_fd)
    assert stat_of(younger.pid).parent == peer.pid


def test_stopped_child_is_really_killed(peer: Peer) -> None:
    """FLT-U4: KILL works on a process that STOP holds."""
    child = peer.spawn("cat")
    peer.signal(child, signal.SIGSTOP)
    eventually(lambda: stat_of(child.pid).state == b"T")
    peer.signal(child, signal.SIGKILL)
    assert peer.hear_end_of(child) == (None, signal.SIGKILL)


def test_signal_to_a_child_that_has_ended_is_ignored(peer: Peer) -> None:
    child = peer.spawn("true")
    peer.hear_end_of(child)
    peer.signal(child, signal.SIGKILL)
    peer.spawn("cat")


def test_orphans_are_reaped(peer: Peer) -> None:
    """The parent of an orphan is the guardian, so its zombie is the guardian's to reap."""
    child = peer.spawn("sh", "-c", "(sh -c 'echo $$; exec cat' <&3 &) 3<&0; exec sleep 1000")
    orphan = child.number()
    orphan_fd = peer.watch(orphan)
    child.stdin.close()
    wait_gone(orphan_fd)
    peer.spawn("cat")  # answered by a later turn than the one that its end woke
    assert not Path(f"/proc/{orphan}").exists()


def test_many_children_leave_no_descriptor_and_no_zombie(peer: Peer) -> None:
    peer.spawn("cat")
    fds = peer.fds()
    for _ in range(200):
        with ExitStack() as peer.stack:
            peer.hear_end_of(peer.spawn("true"))
    assert peer.fds() == fds
    states = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            stat = stat_of(int(name))
            states += [stat.state] if stat.parent == peer.pid else []
    assert states == [b"S"]


def test_spawns_asked_for_at_once_are_each_answered(peer: Peer) -> None:
    children = {child.id: child for child in (peer.ask("sh", "-c", "exit 5") for _ in range(30))}
    answers = [peer.hear() for _ in range(60)]
    spawned = {answer["id"]: answer["pid"] for answer in answers if answer["type"] == "spawned"}
    exited = {answer["id"]: answer["pid"] for answer in answers if answer["type"] == "exited"}
    assert spawned.keys() == children.keys() and spawned == exited
    assert {answer["code"] for answer in answers if answer["type"] == "exited"} == {5}


@pytest.mark.parametrize("kind", ["group", "session", "daemon", "hidden-daemon"])
def test_proxy_killed_ends_its_children_and_grandchildren(peer: Peer, kind: str) -> None:
    """FLT-U6: they ignore EOF and TERM, and the relative has even left the session."""
    family = [sys.executable, "-I", "-S", "-c", FAMILY, kind, STAY]
    with subprocess.Popen(
        [sys.executable, "-c", PROXY, *family], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as proxy:
        assert proxy.stdout is not None
        guardian_fd, *family_fds = (peer.watch(int(pid)) for pid in proxy.stdout.readline().split())
        proxy.kill()
        wait_gone(*family_fds, guardian_fd)


def test_end_of_the_socket_ends_and_reports_every_child() -> None:
    """The order of the proxy's stop: its half of the socket ends, the reports still arrive."""
    with ExitStack() as stack:
        peer = Peer(stack)
        relatives = [peer.family(kind) for kind in ("daemon", "hidden-daemon")]
        peer.control.shutdown(socket.SHUT_WR)
        ends = {peer.hear()["id"] for _ in relatives}
        assert ends == {child.id for child, _, _ in relatives}
        assert peer.control.recv(1) == b""
        os.waitpid(peer.pid, 0)
        assert not any(lives(fd) for _, *fds in relatives for fd in fds)


def test_guardian_killed_takes_its_children_along() -> None:
    with ExitStack() as stack:
        peer = Peer(stack)
        child_fd = peer.watch(peer.spawn("sleep", "1000").pid)
        os.kill(peer.pid, signal.SIGKILL)
        os.waitpid(peer.pid, 0)
        wait_gone(child_fd)
