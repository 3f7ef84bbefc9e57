"""The proxy's side of the guardian: starts children and hears of their ends, from greenlets.

It owns: the socket to the guardian, the two greenlets that read and write it, one row for each
child, and the guardian process itself, which it reaps, and replaces at the next spawn if it died.
It hands the pipes of a child over to whoever asked for it and never reads or writes them; it never
decides when to stop or to restart a child. The gevent world is its only caller.

A guardian that dies takes its children along (PR_SET_PDEATHSIG), not their descendants: nobody is
left to adopt them. This side then kills whoever bears their mark or belongs to their sessions.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import posix
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from signal import SIGKILL, Signals
from typing import NamedTuple

import gevent
import gevent.event
import gevent.queue
import gevent.socket
import msgspec

from proxy_actors.errors import SpawnError
from proxy_actors.transports.guardian import MESSAGE_BYTES_MAX, ProcessTable, kill, mark_of
from proxy_actors.transports.guardian_launch import launch

OnExit = Callable[[int | None, int | None], None]

_log = logging.getLogger(__name__)

_STOP_GRACE_S = 2.0
_SWEEP_ROUNDS_MAX = 100
_SWEEP_PAUSE_S = 0.01
_FIX_OF_ERRNO = {
    errno.EACCES: "make it executable (chmod +x) and check its folders and noexec mounts",
    errno.ENOEXEC: "it is no program: give it a #! line or name its interpreter",
    errno.E2BIG: "shorten its arguments and environment",
    errno.EINVAL: "remove NUL characters, and '=' from the names of its environment",
    errno.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u, TasksMax)",
    errno.ENOMEM: "free memory or raise its limit",
}


class SpawnedChild(NamedTuple):
    """A started child, and our ends of its pipes: non-blocking, and the caller's to close."""

    pid: int
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int


class Spawned(msgspec.Struct, frozen=True, tag_field="type", tag="spawned"):
    """The child's program runs."""

    id: str
    pid: int


class SpawnFailed(msgspec.Struct, frozen=True, tag_field="type", tag="spawn_failed"):
    """The child could not be started; nothing of it is left."""

    id: str
    stage: str
    errno: int


class Exited(msgspec.Struct, frozen=True, tag_field="type", tag="exited"):
    """The child has ended, and what it left behind has been killed."""

    id: str
    pid: int
    code: int | None
    signal: int | None


_replies = msgspec.json.Decoder(Spawned | SpawnFailed | Exited)


class _Row:
    """A child, from the request to its end. `started` gets Spawned or SpawnFailed."""

    def __init__(self, on_exit: OnExit) -> None:
        self.on_exit = on_exit
        self.started = gevent.event.AsyncResult()


class _Packet(NamedTuple):
    """A message about a row, and descriptors that are closed on this side once it is sent."""

    row_id: str
    data: bytes
    fds: tuple[int, ...] = ()


class GuardianClient:
    """Starts children through a guardian that runs already.

    Args:
        fd: our end of the socket, as returned by `launch`; owned from now on.
        pid: the guardian's process id; reaped from now on.
    """

    def __init__(self, fd: int, pid: int) -> None:
        self._link = _Link(fd, pid)
        self._closed = False

    @classmethod
    def start(cls) -> GuardianClient:
        """Launch a guardian and return its client.

        Raises:
            SpawnError: the guardian could not be started.
        """
        return cls(*_launch())

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        deadline_s: float,
        on_exit: OnExit,
    ) -> SpawnedChild:
        """Start a child as leader of its own session and group, and wait until its program runs.

        A command without a slash is looked up in the PATH of `env`, which is the whole environment
        but for the guardian's mark. `on_exit` is called once, with an exit code or else a signal,
        after this has returned; it runs in a greenlet of this object and must not wait.

        Args:
            deadline_s: on the clock of `time.monotonic`; infinite for none.

        Raises:
            SpawnError: it was not started, or not in time; `on_exit` is then never called. The
                text names the command and what to do.
        """
        if not any(argv[:1]):
            raise SpawnError("cannot start a child: its command is empty; name a program")
        link = self._living_link()
        row_id = link.fresh_id()
        request = _request(row_id, argv, env, cwd)
        ours, theirs = _open_pipes(argv[0])
        row = link.open_row(row_id, on_exit)
        link.send(_Packet(row_id, request, theirs))
        try:
            wait_s = None if deadline_s == math.inf else max(0.0, deadline_s - time.monotonic())
            match row.started.wait(wait_s):
                case Spawned(pid=pid):
                    return SpawnedChild(pid, *ours)
                case SpawnFailed() as failed:
                    raise _failure(failed, argv[0], env, cwd)
                case _:
                    raise _refusal(argv[0], "not started by its deadline", "see what holds it up")
        except BaseException:
            _close(ours)
            link.abandon(row_id)
            raise

    def signal(self, pid: int, signum: Signals) -> None:
        """Send `signum` to the child's group, KILL also to its descendants. Never waits.

        No effect once the child's end was reported.
        """
        self._link.signal(pid, signum)

    def close(self) -> None:
        """End the guardian and with it every child; each end is reported. Idempotent.

        Waits until they are gone, at most 2 s for a guardian that does not answer, which is then
        killed. Must not be called from an `on_exit`.
        """
        self._closed = True
        self._link.stop()

    def _living_link(self) -> _Link:
        if self._closed:
            raise SpawnError("cannot start a child: the proxy is stopping")
        if self._link.ended:
            self._link = _Link(*_launch())
        return self._link


class _Link:
    """The life of one guardian process. Every row ends with it at the latest."""

    def __init__(self, fd: int, pid: int) -> None:
        self.ended = False
        self._pid = pid
        self._token = os.urandom(8).hex()
        self._ids_taken = 0
        self._rows: dict[str, _Row] = {}
        self._id_of: dict[int, str] = {}
        self._socket = gevent.socket.socket(fileno=fd)
        self._outbox = gevent.queue.Queue()
        self._reader = gevent.spawn(self._read)
        gevent.spawn(self._write)

    def fresh_id(self) -> str:
        """An id for a row; it marks the child's environment, so it is unique on the machine."""
        self._ids_taken += 1
        return f"{self._token}.{self._ids_taken}"

    def open_row(self, row_id: str, on_exit: OnExit) -> _Row:
        """Enter a child that is about to be asked for."""
        row = self._rows[row_id] = _Row(on_exit)
        return row

    def send(self, packet: _Packet) -> None:
        """Send in order, without waiting; the packet's descriptors are closed in any case."""
        self._outbox.put(packet)

    def signal(self, pid: int, signum: Signals) -> None:
        """Have the guardian signal a child by its process id, if it is one of this link's."""
        if (row_id := self._id_of.get(pid)) is not None:
            self._signal_row(row_id, signum)

    def abandon(self, row_id: str) -> None:
        """Forget a child whose asker gave up, and kill it wherever it has got to."""
        if self._rows.pop(row_id, None) is not None:
            self._signal_row(row_id, SIGKILL)

    def stop(self) -> None:
        """End the guardian, by its socket or else by force, and wait for the end of the link."""
        self._outbox.put(StopIteration)
        self._reader.join(_STOP_GRACE_S)
        if not self.ended:
            os.kill(self._pid, SIGKILL)
        self._reader.join()

    def _signal_row(self, row_id: str, signum: Signals) -> None:
        message = {"type": "signal", "id": row_id, "signal": int(signum)}
        self.send(_Packet(row_id, json.dumps(message).encode()))

    def _write(self) -> None:
        for packet in self._outbox:
            try:
                # gevent's sendmsg returns 0 when there is no room even after its wait for room.
                while not socket.send_fds(self._socket, [packet.data], packet.fds):
                    pass
            except OSError as error:
                self._settle(SpawnFailed(packet.row_id, "guardian", error.errno or errno.EPIPE))
            finally:
                _close(packet.fds)
        if not self.ended:
            self._socket.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        try:
            while data := self._socket.recv(MESSAGE_BYTES_MAX):
                reply = _replies.decode(data)
                if isinstance(reply, Exited):
                    self._report_end(reply)
                else:
                    self._settle(reply)
        except ConnectionResetError:
            pass  # it died with messages unread
        finally:
            self._finish()

    def _settle(self, reply: Spawned | SpawnFailed) -> None:
        """Answer a spawn, unless its asker gave up."""
        row = self._rows.get(reply.id)
        if row is None or row.started.ready():
            return
        if isinstance(reply, Spawned):
            self._id_of[reply.pid] = reply.id
        else:
            del self._rows[reply.id]
        row.started.set(reply)

    def _report_end(self, exited: Exited) -> None:
        self._id_of.pop(exited.pid, None)
        # A child may end at once: first let its asker, who was made ready before, take it.
        gevent.sleep(0)
        row = self._rows.pop(exited.id, None)
        if row is None:
            return
        try:
            row.on_exit(exited.code, exited.signal)
        except Exception:
            _log.exception("child_exit_callback_failed pid=%d", exited.pid)

    def _finish(self) -> None:
        """The socket ended: so did the guardian, or it does so now."""
        self.ended = True
        self._socket.close()
        self._outbox.put(StopIteration)
        try:
            # Its last descriptor is closed, so it ends within microseconds: no hub is held up.
            posix.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # gevent's child watchers, if anyone starts one, reap every child
        if self._rows:
            _log.error("guardian_died pid=%d children=%d", self._pid, len(self._rows))
            self._sweep()
        for pid, row_id in list(self._id_of.items()):
            self._report_end(Exited(row_id, pid, None, SIGKILL))
        for row_id in list(self._rows):
            self._settle(SpawnFailed(row_id, "guardian", errno.EPIPE))

    def _sweep(self) -> None:
        """Kill what a dead guardian left: its children are dying, their descendants are not."""
        for _ in range(_SWEEP_ROUNDS_MAX):
            left = [
                process.pid
                for process in ProcessTable().processes.values()
                if process.state != b"Z"
                and (
                    process.session in self._id_of
                    or (mark_of(process.pid) or "").startswith(self._token)
                )
            ]
            if not left:
                return
            for pid in left:
                kill(pid)
            gevent.sleep(_SWEEP_PAUSE_S)
        _log.error("guardian_sweep_incomplete pid=%d left=%s", self._pid, left)


def _launch() -> tuple[int, int]:
    try:
        return launch()
    except OSError as error:
        raise _system_refusal("the guardian", error) from error


def _request(row_id: str, argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> bytes:
    # json and not msgspec: lone surrogates stand for bytes that are not UTF-8.
    request = {"type": "spawn", "id": row_id, "argv": list(argv), "env": dict(env), "cwd": cwd}
    data = json.dumps(request).encode()
    if len(data) > MESSAGE_BYTES_MAX:
        size = f"its arguments and environment take {len(data)} of {MESSAGE_BYTES_MAX} bytes"
        raise _refusal(argv[0], size, _FIX_OF_ERRNO[errno.E2BIG])
    return data


def _open_pipes(command: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Our ends and the child's of its stdin, stdout and stderr."""
    fds: list[int] = []
    try:
        for _ in range(3):
            fds += os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        _close(fds)
        raise _system_refusal(command, error) from error
    ours = (fds[1], fds[2], fds[4])
    for fd in ours:
        os.set_blocking(fd, False)
    return ours, (fds[0], fds[3], fds[5])


def _failure(
    failed: SpawnFailed, command: str, env: Mapping[str, str], cwd: str | None
) -> SpawnError:
    what = os.strerror(failed.errno)
    fix = _FIX_OF_ERRNO.get(failed.errno)
    if failed.stage == "guardian":
        return _refusal(command, f"the guardian ended ({what})", "the next spawn starts another")
    if failed.stage == "cwd":
        return _refusal(command, f"its working directory {cwd!r}: {what}", "create or correct it")
    if failed.errno == errno.ENOENT and "/" not in command:
        path = env.get("PATH", os.defpath)
        what, fix = f"not found in PATH {path!r}", "install it or give its full path"
    elif failed.errno == errno.ENOENT:
        fix = "correct its path, or the #! line of the script"
    return _refusal(command, what, fix)


def _system_refusal(command: str, error: OSError) -> SpawnError:
    number = error.errno or errno.EAGAIN
    return _refusal(command, os.strerror(number), _FIX_OF_ERRNO.get(number))


def _refusal(command: str, what: str, fix: str | None) -> SpawnError:
    return SpawnError(f"cannot start {command!r}: {what}" + (f"; {fix}" if fix else ""))


def _close(fds: Sequence[int]) -> None:
    """Close now. gevent's os.close does so after the loop's next poll: never, if that is idle."""
    for fd in fds:
        posix.close(fd)
