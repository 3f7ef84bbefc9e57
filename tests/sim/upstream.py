"""A virtual upstream: answers lines with lines, or with a stream of them; not always nice."""

from __future__ import annotations

from proxy_actors.errors import DeadlineError, StreamClosedError
from proxy_actors.world.base import ByteStream
from proxy_actors.world.sim_world import SimWorld

HOST, PORT = "upstream.test", 80
STREAM_ENDS = b"end\n"


class LineReader:
    """Reads lines from a stream that gives them in pieces."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._ahead = b""

    def line(self, deadline_s: float) -> bytes:
        """Return a line with its end, or b"" at the end of input."""
        while b"\n" not in self._ahead:
            data = self._stream.read(100, deadline_s)
            if not data:
                return b""
            self._ahead += data
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line + b"\n"


class Upstream:
    """Serves the lines "call N" and "stream N"; every line of an answer names N."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self.moody = True
        world.listen(HOST, PORT, self._serve)

    def _serve(self, stream: ByteStream) -> None:
        try:
            self._answer(stream)
        except StreamClosedError:
            pass
        finally:
            stream.close()

    def _answer(self, stream: ByteStream) -> None:
        reader, world = LineReader(stream), self._world
        try:
            while line := reader.line(world.now_s() + self._patience_s()):
                world.pass_time(world.latency_s())
                if line.startswith(b"stream"):
                    for _ in range(world.chance.randrange(4)):
                        stream.write((line,), world.now_s() + 5.0)
                        world.pass_time(world.chance.random() * 2)
                    stream.write((STREAM_ENDS,), world.now_s() + 5.0)
                else:
                    stream.write((line,), world.now_s() + 5.0)
                if self._is(0.05):
                    break
        except DeadlineError:
            if self._is(0.5):
                stream.write((b"you are too slow\n",), world.now_s() + 5.0)
                world.pass_time(1.0)

    def _patience_s(self) -> float:
        return self._world.chance.random() * 6 if self._is(0.5) else 60.0

    def _is(self, probability: float) -> bool:
        return self.moody and self._world.chance.random() < probability
