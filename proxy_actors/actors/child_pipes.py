"""The pipes of one child process and the greenlets that serve them.

A part of `StdioProcess`, not an actor: its greenlets report to that actor by mail and hold nothing
but bytes on their way. Reading never stops while the process lives, during its shutdown neither: a
child that cannot write does not end (2025-11-25 basic/lifecycle, FLT-U9).
"""

from __future__ import annotations

import logging
import math
from collections import deque

from proxy_actors.actors.pipes import Pipes
from proxy_actors.actors.refs import Ref
from proxy_actors.errors import (
    DeadlineError,
    MessageError,
    SpawnError,
    StreamClosedError,
)
from proxy_actors.messages import stdio as m
from proxy_actors.protocol.jsonrpc import admit
from proxy_actors.protocol.stdio_framing import LineDecoder, encode_frame
from proxy_actors.world.base import ByteStream, Child, ChildCommand, ExitStatus, Waiter, World

SPAWN_S_MAX = 10.0
# As much as a pipe holds. Room for more would be asked for at each read, and given back.
READ_BYTES_MAX = 65_536
FRAME_BYTES_MAX = 16 * 1024 * 1024
UNWRITTEN_BYTES_MAX = 32 * 1024 * 1024
# What a chatty child may put into the log: so many lines in so many seconds, so long each.
LOG_LINES_MAX = 50
LOG_PERIOD_S = 10.0
LOG_LINE_CHARACTERS_MAX = 500

logger = logging.getLogger("proxy_actors.stdio")


class ChildPipes(Pipes):
    """Spawns `command` and moves its bytes."""

    def __init__(self, world: World, command: ChildCommand, upstream: str) -> None:
        self._world = world
        self._command = command
        self._upstream = upstream
        self._child: Child | None = None
        self._outgoing: deque[tuple[bytes, int | None]] = deque()
        self._outgoing_bytes = 0
        self._writer: Waiter | None = None
        self._ended = False
        self._stdin_closing = False
        self._log_lines = 0
        self._log_since_s = -math.inf

    @property
    def pid(self) -> int | None:
        """The process id; None before it runs."""
        return None if self._child is None else self._child.pid

    def start(self, channel: Ref) -> None:
        """Spawn; the actor is told ProcessSpawned or ProcessFailed, and later ProcessExited."""
        self._world.spawn("stdio spawn", lambda: self._spawn(channel))

    def begin(self, actor: Ref) -> None:
        """Begin to read and write."""
        child = self._child
        assert child is not None
        self._world.spawn("stdio stdout", lambda: self._read(child.stdout, actor))
        self._world.spawn("stdio stdin", lambda: self._write_all(child.stdin))
        self._world.spawn("stdio stderr", lambda: self._drain(child.stderr))

    def write(self, data: bytes, call_id: int | None) -> bool:
        """Queue one line for the child; False when too much waits already."""
        frame = encode_frame(data)
        if self._outgoing_bytes + len(frame) > UNWRITTEN_BYTES_MAX or self._ended:
            return False
        self._outgoing.append((frame, call_id))
        self._outgoing_bytes += len(frame)
        self._wake_writer()
        return True

    def close_stdin(self) -> None:
        """End the child's input after what is queued."""
        self._stdin_closing = True
        self._wake_writer()

    def terminate(self) -> None:
        """Send TERM to the child's group."""
        if self._child is not None and not self._ended:
            self._child.terminate()

    def kill(self) -> None:
        """Send KILL to the child's group."""
        if self._child is not None and not self._ended:
            self._child.kill()

    def end(self) -> set[int]:
        """The process is no more: end all greenlets; return the calls that were never written."""
        self._ended = True
        self._log_suppressed()
        unwritten = {call_id for _, call_id in self._outgoing if call_id is not None}
        self._outgoing.clear()
        self._wake_writer()
        if self._child is not None:
            for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
                stream.close()
        return unwritten

    def log_garbage(self, text: str) -> None:
        """Log the head of a line that is no message."""
        self._log("stdout_garbage", text)

    def give_up(self, text: str) -> None:
        """The child is of no use: log why, and kill it."""
        self._log("child_given_up", text)
        self.kill()

    # Greenlets.

    def _spawn(self, actor: Ref) -> None:
        def on_exit(status: ExitStatus) -> None:
            level = logging.INFO if self._stdin_closing else logging.WARNING
            logger.log(
                level, "child_exited upstream=%s pid=%s code=%s signal=%s",
                self._upstream, self.pid, status.code, status.signal,
            )
            actor.tell(m.ProcessExited(status.code, status.signal))

        try:
            deadline_s = self._world.now_s() + SPAWN_S_MAX
            child = self._world.spawn_child(self._command, deadline_s, on_exit)
        except SpawnError as error:
            logger.error("spawn_failed upstream=%s error=%s", self._upstream, error)
            actor.tell(m.ProcessFailed("the server process could not be started"))
            return
        self._child = child
        logger.info("child_started upstream=%s pid=%d", self._upstream, child.pid)
        if not actor.tell(m.ProcessSpawned()):
            child.kill()
            self.end()

    def _read(self, stdout: ByteStream, actor: Ref) -> None:
        decoder = LineDecoder(FRAME_BYTES_MAX)
        try:
            while data := stdout.read(READ_BYTES_MAX, math.inf):
                for line in decoder.feed(data):
                    for mail in _mail_of(line):
                        actor.deliver_when_room(mail, math.inf)
                if decoder.overflowed:
                    actor.tell(m.FrameTooLong())
                    self._discard(stdout)
        except StreamClosedError:
            pass  # the exit is told apart from this
        finally:
            actor.tell(m.OutputEnded())

    def _discard(self, stream: ByteStream) -> None:
        try:
            while stream.read(READ_BYTES_MAX, math.inf):
                pass
        except StreamClosedError:
            pass

    def _write_all(self, stdin: ByteStream) -> None:
        """Write what is queued, joined, whenever there is something."""
        try:
            while not self._ended:
                if self._outgoing:
                    # Whatever is taken may have reached the child, however the write ends.
                    frames = [frame for frame, _ in self._outgoing]
                    self._outgoing.clear()
                    stdin.write(frames, math.inf)
                    self._outgoing_bytes -= sum(map(len, frames))
                elif self._stdin_closing:
                    break
                else:
                    self._writer = self._world.waiter()
                    self._writer.wait(math.inf)
        except (StreamClosedError, DeadlineError):
            pass  # a child that reads no more is about to end, or will be ended
        finally:
            stdin.close()

    def _drain(self, stderr: ByteStream) -> None:
        decoder = LineDecoder(READ_BYTES_MAX)
        try:
            while data := stderr.read(READ_BYTES_MAX, math.inf):
                if self._log_is_full():
                    # Not even looked at: a flood must not cost the others more than its reading.
                    self._log_lines += data.count(b"\n")
                    decoder = LineDecoder(READ_BYTES_MAX)
                    continue
                for line in decoder.feed(data):
                    self._log("stderr", line.decode("utf-8", "replace"))
                if decoder.overflowed:
                    self._log("stderr", "a line was too long and left out")
                    decoder = LineDecoder(READ_BYTES_MAX)
        except StreamClosedError:
            pass  # the exit is told apart from this

    def _wake_writer(self) -> None:
        if self._writer is not None:
            self._writer.set()

    def _log(self, event: str, text: str) -> None:
        """Log a line of the child: at most so many, escaped, cut."""
        now_s = self._world.now_s()
        if now_s - self._log_since_s >= LOG_PERIOD_S:
            self._log_suppressed()
            self._log_since_s = now_s
        self._log_lines += 1
        if self._log_lines <= LOG_LINES_MAX:
            cut = text[:LOG_LINE_CHARACTERS_MAX].encode("unicode_escape").decode("ascii")
            logger.info("%s upstream=%s pid=%s text=%s", event, self._upstream, self.pid, cut)

    def _log_is_full(self) -> bool:
        since_s = self._world.now_s() - self._log_since_s
        return self._log_lines > LOG_LINES_MAX and since_s < LOG_PERIOD_S

    def _log_suppressed(self) -> None:
        """Say how many lines were left out, and count anew."""
        suppressed = self._log_lines - LOG_LINES_MAX
        if suppressed > 0:
            logger.warning(
                "lines_suppressed upstream=%s pid=%s count=%d",
                self._upstream, self.pid, suppressed,
            )
        self._log_lines = 0


def _mail_of(line: bytes) -> list[m.FrameReceived | m.GarbageReceived]:
    """Judge a line. What was meant to be a message is not quoted: clients' words are in it."""
    if not line.strip():
        return []
    try:
        admitted = admit(line)
    except MessageError as error:
        quoted = b"a message" if line.lstrip().startswith((b"{", b"[")) else line[:200]
        return [m.GarbageReceived(f"{error.text}: {quoted.decode('utf-8', 'replace')}")]
    frames = admitted if isinstance(admitted, tuple) else (admitted,)
    return [m.FrameReceived(frame) for frame in frames]
