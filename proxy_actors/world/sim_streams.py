"""Virtual byte streams and processes for the simulated world.

A pair of streams is two pipes. Bytes are delivered late, in order, and read in pieces of any size
down to one byte; a pipe can break at any delivery. A process is a function that runs in a greenlet
of the simulation and reads and writes the other ends of three pipes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from proxy_actors.errors import DeadlineError, StreamClosedError
from proxy_actors.world.base import ExitStatus

if TYPE_CHECKING:
    from proxy_actors.world.sim_waits import SimTask, SimWaiter
    from proxy_actors.world.sim_world import SimWorld

PIPE_BYTES_MAX = 65_536
# After so long a kernel gives up a connection whose peer acknowledges nothing.
VANISHED_S_MAX = 60.0
KILLED = 9
TERMINATED = 15


class _End(Enum):
    """What comes last in one direction."""

    CLEAN = "clean"
    RESET = "reset"


class SimPipe:
    """One direction of bytes.

    Attributes:
        truncated: whether it has ended before all that was written had come.
    """

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._underway: list[bytes | _End] = []
        self._underway_bytes = 0
        self._arrived = bytearray()
        self._eof = False
        self._broken = False
        self._shut = False
        self._vanished = False
        self.truncated = False
        self._reader: SimWaiter | None = None
        self._writer: SimWaiter | None = None
        self._departure: Callable[[], None] | None = None
        self._on_input: Callable[[], None] | None = None
        self.other_way: SimPipe | None = None

    def read(self, bytes_max: int, deadline_s: float) -> bytes:
        """Take some of what has arrived, of a size by chance."""
        while not self._arrived and not self._eof and not self._broken:
            if self._reader is not None:
                raise RuntimeError("two greenlets read the same stream")
            self._reader = self._world.waiter()
            try:
                self._reader.wait(deadline_s)
            finally:
                self._reader = None
        return self.read_now(bytes_max) or b""

    def read_now(self, bytes_max: int) -> bytes | None:
        """Take some of what has arrived, of a size by chance; None where nothing has."""
        if self._arrived:
            world = self._world
            size = 1 if world.draw(world.faults.fragment, "read_was_short") else bytes_max
            data = bytes(self._arrived[:size])
            del self._arrived[:size]
            self._wake_writer()
            return data
        if self._broken:
            raise StreamClosedError("reset by peer")
        return b"" if self._eof else None

    def on_input(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called while there is something to be read."""
        self._on_input = callback
        if callback is not None and not self.quiet():
            self._world.soon(self._announce_input)

    def write(self, data: bytes, deadline_s: float) -> None:
        """Send all, waiting for room."""
        if self._writer is not None:
            raise RuntimeError("two greenlets write to the same stream")
        rest = memoryview(data)
        while rest:
            if self._broken or self._shut:
                raise StreamClosedError("broken pipe")
            room = PIPE_BYTES_MAX - len(self._arrived) - self._underway_bytes
            if room <= 0:
                self._writer = self._world.waiter()
                try:
                    self._writer.wait(deadline_s)
                finally:
                    self._writer = None
                continue
            piece = bytes(rest[:room])
            self._underway_bytes += len(piece)
            self._send(piece)
            rest = rest[room:]

    def write_now(self, data: bytes) -> int:
        """Send the front of it that there is room for, or less by chance."""
        if self._writer is not None or self._broken or self._shut:
            return 0
        taken = data[:max(PIPE_BYTES_MAX - len(self._arrived) - self._underway_bytes, 0)]
        if taken and self._world.draw(self._world.faults.fragment, "write_was_short"):
            taken = taken[:self._world.chance.randrange(len(taken))]
        if taken:
            self._underway_bytes += len(taken)
            self._send(taken)
        return len(taken)

    def end(self) -> None:
        """End the output cleanly, after what was written."""
        self._finish(_End.CLEAN)

    def reset(self) -> None:
        """End the output with a reset, after what was written."""
        self._finish(_End.RESET)

    def break_off(self) -> None:
        """Reset: both ends fail at once, what is underway is lost."""
        self._broken = True
        self._underway.clear()
        self._underway_bytes = 0
        self._wake_reader()
        self._wake_writer()

    def on_departure(self, callback: Callable[[], None] | None) -> None:
        """Be told of the end while nobody reads; soon, if it is known already."""
        self._departure = callback
        if callback is not None and (self._eof or self._broken):
            self._world.soon(self._announce_departure)

    def quiet(self) -> bool:
        """Whether nothing has arrived, no end either."""
        return not self._arrived and not self._eof and not self._broken

    def _finish(self, end: _End) -> None:
        if not self._shut:
            self._shut = True
            self._send(end)
            self._wake_writer()

    def _send(self, data: bytes | _End) -> None:
        self._underway.append(data)
        world = self._world
        world.at(world.now_s() + world.latency_s(), self._deliver)

    def _deliver(self) -> None:
        if not self._underway or self._broken:
            return
        data = self._underway.pop(0)
        if self._vanished:
            pass  # it reaches nobody
        elif data is _End.CLEAN:
            self._eof = True
        elif data is _End.RESET:
            self._broken = True
            self._wake_writer()
        elif self._has_fault(data):
            return
        else:
            self._underway_bytes -= len(data)
            self._arrived += data
        self._wake_reader()

    def _has_fault(self, data: bytes) -> bool:
        """Draw whether a connection, which a pipe of a process is not, has one with this piece."""
        world, faults, other = self._world, self._world.faults, self.other_way
        if world.draw(faults.reset, "connection_reset"):
            self._break_both()
        elif other is None:
            return False
        elif world.draw(faults.truncate, "connection_truncated"):
            self.truncated = self._eof = self._shut = True
            self._arrived += data[: world.chance.randrange(len(data))]
            self._underway.clear()
            self._wake_reader()
            self._wake_writer()
        elif world.draw(faults.vanish, "peer_vanished"):
            self._vanished = other._vanished = True
            world.at(world.now_s() + VANISHED_S_MAX, self._break_both)
        else:
            return False
        return True

    def _break_both(self) -> None:
        for pipe in (self, self.other_way):
            if pipe is not None:
                pipe.break_off()

    def _wake_reader(self) -> None:
        if self._reader is not None:
            self._reader.set()
        elif self._on_input is not None:
            self._world.soon(self._announce_input)
        elif self._eof or self._broken:
            self._announce_departure()

    def _announce_input(self) -> None:
        if self._on_input is not None:
            self._on_input()
            self.on_input(self._on_input)

    def _announce_departure(self) -> None:
        callback, self._departure = self._departure, None
        if callback is not None:
            callback()

    def _wake_writer(self) -> None:
        if self._writer is not None:
            self._writer.set()


class SimStream:
    """The port's ByteStream over two virtual pipes; None where a direction does not exist."""

    def __init__(self, incoming: SimPipe | None, outgoing: SimPipe | None) -> None:
        self._in = incoming
        self._out = outgoing
        self._closed = False

    @property
    def peer(self) -> str:
        """The virtual peer's address."""
        return "127.0.0.1"

    def handshake(self, deadline_s: float) -> None:
        """Nothing comes before the first byte."""

    def read(self, bytes_max: int, deadline_s: float) -> bytes:
        """Read as the port says."""
        if self._closed or self._in is None:
            raise StreamClosedError("closed on this side")
        data = self._in.read(bytes_max, deadline_s)
        if self._closed:
            raise StreamClosedError("closed on this side")
        return data

    def read_now(self, bytes_max: int) -> bytes | None:
        """Read as the port says."""
        if self._closed or self._in is None:
            raise StreamClosedError("closed on this side")
        return self._in.read_now(bytes_max)

    def on_input(self, callback: Callable[[], None] | None) -> None:
        """Be called as the port says."""
        if self._in is not None:
            self._in.on_input(callback)

    def write(self, parts: Sequence[bytes], deadline_s: float) -> None:
        """Write as the port says."""
        if self._closed or self._out is None:
            raise StreamClosedError("closed on this side")
        self._out.write(b"".join(parts), deadline_s)

    def write_now(self, data: bytes) -> int:
        """Write as the port says."""
        return 0 if self._closed or self._out is None else self._out.write_now(data)

    def close(self) -> None:
        """End both directions; the peer sees the end after what was written."""
        if self._closed:
            return
        self._closed = True
        if self._out is not None:
            self._out.end()
        if self._in is not None:
            self._in.on_departure(None)
            self._in.break_off()

    def close_lingering(self, deadline_s: float) -> None:
        """End the output, discard input to its end or the deadline, close."""
        if self._closed:
            return
        if self._out is not None:
            self._out.end()
        try:
            while self._in is not None and self._in.read(PIPE_BYTES_MAX, deadline_s):
                pass
        except (DeadlineError, StreamClosedError):
            pass
        self._out = None
        self.close()

    def is_quiet(self) -> bool:
        """Whether the peer has sent nothing."""
        return not self._closed and (self._in is None or self._in.quiet())

    @property
    def looks_quiet(self) -> bool:
        """The same: what has been delivered has been seen."""
        return self.is_quiet()

    def on_departure(self, callback: Callable[[], None] | None) -> None:
        """Be told of the peer's end while nobody reads."""
        if self._in is not None:
            self._in.on_departure(callback)

    def reset(self) -> None:
        """End with a reset: the peer reads what was written before, then fails."""
        if self._out is not None:
            self._out.reset()
        self._out = None
        self.close()

    def break_off(self) -> None:
        """Break both directions: a fault of the network, which loses what is underway."""
        for pipe in (self._in, self._out):
            if pipe is not None:
                pipe.break_off()


class SimProcess:
    """Both sides of a virtual process: the program's, and the port's Child.

    Attributes:
        ignores_term: whether TERM has no effect; for the program to say.
        has_descendant: whether there is one that holds the output open when the process exits by
            itself; for the program to say.
        running: whether it has not ended.
    """

    def __init__(self, world: SimWorld, on_exit: Callable[[ExitStatus], None]) -> None:
        pipes = [SimPipe(world) for _ in range(3)]
        self.world = world
        self.pid = 10_000 + world.chance.randrange(10_000)
        self.stdin = SimStream(None, pipes[0])
        self.stdout = SimStream(pipes[1], None)
        self.stderr = SimStream(pipes[2], None)
        self.input = SimStream(pipes[0], None)
        self.output = SimStream(None, pipes[1])
        self.errors = SimStream(None, pipes[2])
        self.task: SimTask | None = None
        self.ignores_term = False
        self.has_descendant = False
        self.running = True
        self._on_exit = on_exit

    def terminate(self) -> None:
        """End by TERM, unless the program ignores it."""
        if not self.ignores_term:
            self._end(ExitStatus(None, TERMINATED))

    def kill(self) -> None:
        """End by KILL."""
        self._end(ExitStatus(None, KILLED))

    def exit(self, code: int) -> None:
        """For programs: end with this code, from whichever of its greenlets."""
        self._end(ExitStatus(code, None))

    def run(self, program: Callable[[SimProcess], int]) -> None:
        """Run the program to its end, as a greenlet."""
        try:
            code = program(self)
        except StreamClosedError:
            code = 1
        self.exit(code)

    def _end(self, status: ExitStatus) -> None:
        if not self.running:
            return
        self.running = False
        self.input.close()
        if status.signal is not None or not self.has_descendant:
            self.output.close()
            self.errors.close()
        if self.task is not None:
            self.task.kill()
        self.world.at(self.world.now_s() + self.world.latency_s(), lambda: self._on_exit(status))


def stream_pair(world: SimWorld) -> tuple[SimStream, SimStream]:
    """Make the two ends of a virtual connection."""
    there, back = SimPipe(world), SimPipe(world)
    there.other_way, back.other_way = back, there
    return SimStream(back, there), SimStream(there, back)


def start_process(
    world: SimWorld,
    program: Callable[[SimProcess], int],
    on_exit: Callable[[ExitStatus], None],
) -> SimProcess:
    """Start `program` in a greenlet of its own."""
    process = SimProcess(world, on_exit)
    process.task = world.spawn("process", lambda: process.run(program))
    return process
