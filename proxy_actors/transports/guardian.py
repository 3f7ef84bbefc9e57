"""The guardian: a small process that starts, signals and reaps every stdio child.

It owns the child processes, from fork to reaping, and every descendant of theirs. It is executed
as a script (`guardian_launch`), so that the proxy, large and full of greenlets, never forks; it
therefore imports nothing but the standard library. It never reads or writes a child's pipes, never
restarts anything, never outlives the proxy. Only `guardian_client` talks to it.

One SOCK_SEQPACKET socket, one JSON object a packet, at most MESSAGE_BYTES_MAX bytes:

    to the guardian                                  from it
    spawn  {id, argv, env, cwd} + three fds          spawned      {id, pid}
                                                     spawn_failed {id, stage, errno}
    signal {id, signal}                              exited       {id, pid, code, signal}

- The fds are the child's stdin, stdout and stderr. A spawn is answered once; `exited` follows
  `spawned` once, with `code` or `signal` set and the other null. `stage` says what failed: "fork",
  "cwd" or "exec". Text is UTF-8; bytes that are not are lone surrogates.
- A child leads a session and a group of its own, has fds 0, 1 and 2 only, default signal actions,
  and the environment that was given plus MARK=id. PR_SET_PDEATHSIG ends it with the guardian.
- `signal` goes to the child's group; KILL also to all its descendants.

How nothing is left behind. The guardian is a *child subreaper*: who loses its parent below it
becomes its direct child. So once a child has ended, each survivor it left heads a tree directly
under the guardian, and the only question is whose it was: the daemon of a child that lives must
live too. Its session tells, or else the mark in its environment; if it hides both, it goes once no
living child is old enough to be its ancestor. Killing a tree races with forks in it, but who slips
through is adopted when its parent dies, and that death is our next look.

When the socket ends, the proxy is gone or wants no more: all descendants are killed and reaped.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys

MARK = "PROXY_ACTORS_CHILD"
MESSAGE_BYTES_MAX = 128 * 1024

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IGNORED = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "TSTP", "TTIN", "TTOU")
_FDS_BYTES = 3 * 4
_ENVIRON_BYTES_MAX = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4


class Process:
    """What /proc/PID/stat says of a process. `started` is in clock ticks since boot."""

    def __init__(self, pid: int, stat: bytes) -> None:
        # The name in parentheses may hold spaces and parentheses itself.
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.started = int(fields[19])


class ProcessTable:
    """One reading of /proc: all processes that this one may see, and who is whose child.

    Acting on it later is safe although a number could name another process by then: the kernel
    hands numbers out in a circle, so all others would have to be used up within milliseconds.
    """

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self._children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and (stat := _read(f"/proc/{name}/stat", 1024)):
                process = Process(int(name), stat)
                self.processes[process.pid] = process
                self._children.setdefault(process.parent, []).append(process.pid)

    def descendants(self, pid: int) -> list[int]:
        """Everyone below `pid`, itself excluded, parents before their children."""
        found = list(self._children.get(pid, ()))
        for child in found:
            found += self._children.get(child, ())
        return found


def mark_of(pid: int) -> str | None:
    """The value of MARK in the environment of `pid`, None without one or if it is unreadable."""
    environ = b"\0" + _read(f"/proc/{pid}/environ", _ENVIRON_BYTES_MAX)
    _, found, rest = environ.partition(b"\0" + MARK.encode() + b"=")
    return rest.partition(b"\0")[0].decode(errors="replace") if found else None


def kill(pid: int) -> None:
    """Send KILL to one process; one that is gone, or that may not be killed, is no error."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


class _Child:
    """A child from its fork to its reaping. `start_fd` tells how its exec went, None once told."""

    def __init__(self, child_id: str, pid: int, start_fd: int) -> None:
        self.id = child_id
        self.pid = pid
        self.start_fd: int | None = start_fd
        self.failure = b""


class Guardian:
    """The loop of the process: one thread, woken by the proxy, by SIGCHLD and by starting ones."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        self._pid_of: dict[str, int] = {}
        self._starting: dict[int, _Child] = {}
        self._hunting = False
        self._poll = select.poll()
        self._wake_fd, self._wake_write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Run until the socket ends, then return; the children still live."""
        signal.set_wakeup_fd(self._wake_write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._control.setblocking(True)
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._wake_fd:
                    os.read(self._wake_fd, 4096)
                    self._reap()
                elif fd != self._control.fileno():
                    self._settle(self._starting.get(fd))
                elif not self._receive():
                    return

    def end_all(self) -> None:
        """Kill and reap every descendant. Returns when none is left.

        Each wait comes after a look at /proc that came after the last death, so whoever that look
        missed has an ancestor on its way to die, and that death wakes us for the next look.
        """
        while True:
            for pid in ProcessTable().descendants(os.getpid()):
                kill(pid)
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                return
            for child, code, signum in self._collect():
                self._report_end(child, code, signum)

    def _receive(self) -> bool:
        """Take one message; False at the end of the socket."""
        try:
            data, control, _, _ = self._control.recvmsg(
                MESSAGE_BYTES_MAX, socket.CMSG_LEN(_FDS_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return False
        # socket.recv_fds would drop the flag, and each child inherit these once more.
        fds = [fd for _, _, rights in control for fd in memoryview(rights).cast("i")]
        try:
            if not data:
                return False
            message = json.loads(data)
            if message["type"] == "spawn":
                self._spawn(message, fds)
            elif message["id"] in self._pid_of:
                self._signal(self._pid_of[message["id"]], message["signal"])
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _spawn(self, request: dict[str, object], fds: list[int]) -> None:
        child_id = str(request["id"])
        ends: tuple[int, ...] = ()
        try:
            if len(fds) != 3:  # the kernel drops descriptors that it finds no room for here
                raise OSError(errno.EMFILE, "descriptors were dropped")
            ends = start_fd, failure_fd = os.pipe()
            parent = os.getpid()
            pid = os.fork()
        except OSError as error:
            for fd in ends:
                os.close(fd)
            self._report_failure(child_id, "fork", error.errno or errno.EAGAIN)
            return
        if pid == 0:
            _become(request, fds, failure_fd, parent)
        os.close(failure_fd)
        # Exec can hang in a dead file system: the others must not wait for it.
        os.set_blocking(start_fd, False)
        child = _Child(child_id, pid, start_fd)
        self._children[pid] = child
        self._pid_of[child_id] = pid
        self._starting[start_fd] = child
        self._poll.register(start_fd, select.POLLIN)

    def _settle(self, child: _Child | None) -> None:
        """Learn how an exec went: the pipe holds an error, or was closed by the exec itself.

        `child` is None, or still starting, when its descriptor was closed earlier in this turn.
        """
        if child is None or child.start_fd is None:
            return
        try:
            child.failure = os.read(child.start_fd, 256)
        except BlockingIOError:
            return
        self._poll.unregister(child.start_fd)
        del self._starting[child.start_fd]
        os.close(child.start_fd)
        child.start_fd = None
        if not child.failure:
            self._send({"type": "spawned", "id": child.id, "pid": child.pid})

    def _signal(self, pid: int, signum: int) -> None:
        below = ProcessTable().descendants(pid) if signum == signal.SIGKILL else []
        _signal_group(pid, signum)
        for descendant in below:
            kill(descendant)

    def _reap(self) -> None:
        ended = self._collect()
        if ended or self._hunting:
            self._kill_strays({child.pid for child, _, _ in ended})
        for child, code, signum in ended:
            self._report_end(child, code, signum)

    def _collect(self) -> list[tuple[_Child, int | None, int | None]]:
        """Reap every zombie; return the children among them with exit code or signal.

        A group is killed while its leader is still a zombie: the zombie keeps the number taken.
        """
        ended: list[tuple[_Child, int | None, int | None]] = []
        try:
            while info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                child = self._children.pop(info.si_pid, None)
                if child is not None:
                    _signal_group(child.pid, signal.SIGKILL)
                    del self._pid_of[child.id]
                    exited = info.si_code == os.CLD_EXITED
                    status = info.si_status
                    ended.append((child, status, None) if exited else (child, None, status))
                os.waitpid(info.si_pid, 0)
        except ChildProcessError:
            pass  # none left at all
        return ended

    def _kill_strays(self, ended: set[int]) -> None:
        """Kill the trees that ended children left. `_hunting` asks for a look after each death."""
        table = ProcessTable()
        strays = [
            process.pid
            for process in table.processes.values()
            if process.parent == os.getpid() and self._is_stray(process, ended, table)
        ]
        self._hunting = bool(strays)
        for stray in strays:
            for pid in (stray, *table.descendants(stray)):
                kill(pid)

    def _is_stray(self, process: Process, ended: set[int], table: ProcessTable) -> bool:
        """Whether a process directly below us is no child of ours, nor left by one that lives."""
        if process.pid in self._children or process.session in self._children:
            return False
        if process.session in ended:
            return True
        mark = mark_of(process.pid)
        if mark is not None:
            return mark not in self._pid_of
        living = [table.processes[pid] for pid in self._children if pid in table.processes]
        return all(child.started > process.started for child in living)

    def _report_failure(self, child_id: str, stage: str, number: int) -> None:
        self._send({"type": "spawn_failed", "id": child_id, "stage": stage, "errno": number})

    def _report_end(self, child: _Child, code: int | None, signum: int | None) -> None:
        self._settle(child)
        if child.failure:
            stage, _, number = child.failure.decode().partition(" ")
            self._report_failure(child.id, stage, int(number))
            return
        self._send(
            {"type": "exited", "id": child.id, "pid": child.pid, "code": code, "signal": signum}
        )

    def _send(self, message: dict[str, object]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the proxy is gone; reading will say so


def main(fd: int) -> None:
    """Serve on the inherited socket `fd` until it ends, then leave no descendant behind."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for name in _IGNORED:
        signal.signal(signal.Signals["SIG" + name], signal.SIG_IGN)
    # All that was inherited but stderr, which takes the traceback of a bug.
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=fd)
    control.set_inheritable(False)
    guardian = Guardian(control)
    try:
        guardian.serve()
    finally:
        guardian.end_all()


def _become(request: dict[str, object], fds: list[int], failure_fd: int, parent: int) -> None:
    """Turn the forked process into the child, or report why not and exit. Never returns."""
    stage = "exec"
    try:
        # An ignored signal stays ignored across exec; a handler does not.
        for signum in signal.valid_signals():
            if signal.getsignal(signum) is signal.SIG_IGN:
                signal.signal(signum, signal.SIG_DFL)
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)  # it died before the line above could tell us
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        if request["cwd"] is not None:
            stage = "cwd"
            os.chdir(_bytes(request["cwd"]))
            stage = "exec"
        _execute(request)
    except BaseException as error:
        number = getattr(error, "errno", None) or errno.EINVAL
        os.write(failure_fd, f"{stage} {number}".encode())
    finally:
        os._exit(127)


def _execute(request: dict[str, object]) -> None:
    """Exec the first candidate that can be. The mark comes first in the environment: `mark_of`."""
    argv, given, mark = request["argv"], request["env"], {MARK: request["id"]}
    assert isinstance(argv, list) and isinstance(given, dict)
    env = {_bytes(name): _bytes(value) for name, value in (mark | given | mark).items()}
    command = _bytes(argv[0])
    path = b"" if b"/" in command else env.get(b"PATH", os.defpath.encode())
    refusal: OSError = FileNotFoundError(errno.ENOENT, "not found")
    for folder in path.split(b":"):
        try:
            os.execve(os.path.join(folder, command), [_bytes(part) for part in argv], env)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except PermissionError as error:
            refusal = error  # another folder may hold one that may be executed
    raise refusal


def _bytes(text: object) -> bytes:
    return str(text).encode("utf-8", "surrogateescape")


def _signal_group(pid: int, signum: int) -> None:
    """Signal the group of a child that is not reaped yet."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:
        os.kill(pid, signum)  # forked, but not leader of its group yet
    except PermissionError:
        pass  # all of it runs as another user


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _read(path: str, bytes_max: int) -> bytes:
    """The start of a file of /proc, b"" when its process is gone or not ours to see."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(bytes_max) or b""
    except OSError:
        return b""


if __name__ == "__main__":
    main(int(sys.argv[1]))
