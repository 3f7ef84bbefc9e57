"""The ports: everything that the actors and the data plane may know of time, chance and I/O.

A world is handed to every actor and greenlet through its constructor. `gevent_world` implements it
on a real machine, `sim_world` in a seeded simulator with virtual time; one contract suite runs on
both. Every wait takes an absolute deadline on `now_s`'s clock (`math.inf` for none) and either
returns or raises; nothing here kills a greenlet: an end is asked for by message or by closing the
stream that the greenlet waits on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from proxy_actors.messages.metrics import ProcessFigures
from proxy_actors.metrics import Figure


class Mailbox(Protocol):
    """Where mail can be put. `tell` never raises and never waits."""

    def tell(self, message: Any) -> bool:  # Any: each actor has its own vocabulary
        """Put `message` in the box; False when it was not accepted (stopped, or full)."""


class Waiter(Protocol):
    """A one-shot meeting of one greenlet that parks and anyone who unparks it."""

    def wait(self, deadline_s: float) -> Any:  # Any: the value is the setter's
        """Park until set; return the value or raise the error that it was set to.

        Raises:
            DeadlineError: `now_s()` reached `deadline_s` first (with a grain of 50 ms).
        """

    def set(self, value: Any = None) -> bool:  # Any: see wait
        """Unpark with a value. False, and no effect, when set or failed before."""

    def fail(self, error: Exception) -> bool:
        """Unpark with an error. False, and no effect, when set or failed before."""

    @property
    def is_set(self) -> bool:
        """Whether a value or an error has arrived."""


class ByteStream(Protocol):
    """Two directions of bytes: a socket, or one end of a pipe (which has one direction only)."""

    def handshake(self, deadline_s: float) -> None:
        """Do what must come before the first byte of an accepted stream; mostly nothing.

        Raises:
            DeadlineError: the peer was late; close the stream.
            StreamClosedError: the two sides do not agree (HandshakeError), or the peer has gone.
        """

    def read(self, bytes_max: int, deadline_s: float) -> bytes:
        """Return 1 to `bytes_max` bytes, or b"" at the end of input.

        Raises:
            DeadlineError: nothing arrived in time; the stream is as it was.
            StreamClosedError: reset by the peer, or closed on this side.
        """

    def read_now(self, bytes_max: int) -> bytes | None:
        """As `read`, but return None where that would wait.

        Raises:
            StreamClosedError: as `read`.
        """

    def on_input(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called while there may be something for `read_now`; None to unset.

        By the loop, never within this call: so it must not wait. It is called for an end, a reset
        and a close on this side as for bytes, and again as long as something is left, so that an
        end is where to unset it; perhaps for nothing. While it is set no greenlet reads, and
        departures are not told.
        """

    def write(self, parts: Sequence[bytes], deadline_s: float) -> None:
        """Write all parts in order, waiting for room as needed.

        Raises:
            DeadlineError: not all was taken in time; how much is unknown, so close the stream.
            StreamClosedError: the peer reads no more, or the stream is closed on this side.
        """

    def write_now(self, data: bytes) -> int:
        """Write what is taken at once; return how many bytes of the front that was, perhaps none.

        Never waits and never raises: whoever writes the rest learns why no more was taken.
        """

    def close(self) -> None:
        """Close both directions. Idempotent; a greenlet parked on it gets StreamClosedError."""

    def close_lingering(self, deadline_s: float) -> None:
        """End the output, discard input until the peer ends or the deadline, then close.

        So a peer that is still sending sees the answer and not a reset (RFC 9112 section 9.6).
        """

    def is_quiet(self) -> bool:
        """Whether the peer has sent nothing, no end either: an idle connection fit for reuse.

        May read ahead into this side's buffer, never loses a byte.
        """

    @property
    def looks_quiet(self) -> bool:
        """What `is_quiet` says of what has been seen so far, at no cost.

        It misses what has arrived since the loop last looked at the descriptor.
        """

    def on_departure(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once when the peer ends or resets while nobody reads; None to unset.

        Bytes that arrive meanwhile are kept for the next read, up to a bound.
        """

    @property
    def peer(self) -> str:
        """The peer's address without its port, or what stands for it; for limits and logs."""


class TlsClient(msgspec.Struct, frozen=True):
    """How to be a TLS client. Files are PEM; "" stands for none, and for the system's authorities.

    `server_name` is asked for and verified; "" stands for the host that is connected to.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""


class TlsServer(msgspec.Struct, frozen=True):
    """How to be a TLS server. Files are PEM.

    With `client_ca` clients must show a certificate that one of its authorities has signed.
    """

    certificate: str
    key: str
    client_ca: str = ""


class Listener(Protocol):
    """A bound listening socket. While nobody serves it, the kernel keeps connections waiting.

    Nothing but `address` and `kept` has an effect, once it is closed.
    """

    @property
    def address(self) -> tuple[str, int]:
        """The bound host and port (the real port when 0 was asked for)."""

    @property
    def kept(self) -> bool:
        """Whether others hold the socket: who connects waits even when this one is closed."""

    def serve(self, accept: Callable[[ByteStream], None]) -> None:
        """Run `accept` in a greenlet of its own for each connection, those that wait first."""

    def pause(self) -> None:
        """Accept no more until it is served again."""

    def close(self) -> None:
        """Accept no more, ever. Connections already accepted live on."""


class Task(Protocol):
    """A greenlet with an owner."""

    @property
    def done(self) -> bool:
        """Whether its function has returned or raised."""


class ChildCommand(msgspec.Struct, frozen=True):
    """What to execute. argv is never passed through a shell; env is the whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None = None

    def __repr__(self) -> str:
        """Name the program alone: arguments and variables hold secrets."""
        return f"ChildCommand({self.argv[0]!r}, ...)"


class ExitStatus(msgspec.Struct, frozen=True):
    """How a child ended: an exit code, or the signal that ended it."""

    code: int | None
    signal: int | None


class Child(Protocol):
    """A running child process, leader of a process group of its own."""

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""

    @property
    def stdin(self) -> ByteStream:
        """Write only."""

    @property
    def stdout(self) -> ByteStream:
        """Read only."""

    @property
    def stderr(self) -> ByteStream:
        """Read only."""

    def terminate(self) -> None:
        """Send TERM to the child's group. No effect once it has ended."""

    def kill(self) -> None:
        """Send KILL to the child's group and to descendants that left it."""


class MetricSink(Protocol):
    """Where figures go."""

    def send(self, figures: Sequence[Figure]) -> tuple[int, str]:
        """Hand all figures on; never waits. Return how many packets were lost, and the last error.

        That none was lost is no sign that somebody receives them.
        """

    def close(self) -> None:
        """Release what it holds. Idempotent; nothing is sent afterwards."""


class World(Protocol):
    """Time, chance and I/O."""

    def now_s(self) -> float:
        """Monotonic seconds; the only clock of deadlines, timeouts and policies."""

    def wall_s(self) -> float:
        """Seconds since the epoch; only for what is stored or shown."""

    def random(self) -> float:
        """Uniform in [0, 1); not for secrets."""

    def token(self, random_bytes: int = 16) -> str:
        """An unguessable URL-safe string from a CSPRNG with that many random bytes."""

    def waiter(self) -> Waiter:
        """A fresh one-shot waiter."""

    def timer(self, after_s: float, mailbox: Mailbox, message: Any) -> Callable[[], None]:
        """Tell `message` to `mailbox` after `after_s` seconds; the result cancels, idempotently."""

    def spawn(
        self,
        owner: str,
        function: Callable[[], None],
        on_exit: Callable[[BaseException | None], None] | None = None,
    ) -> Task:
        """Run `function` in a greenlet counted under `owner` until it ends.

        `on_exit` is called with the error that ended it, or None. An error without an `on_exit`
        is logged with its traceback.
        """

    def spawn_in_turn(self, owner: str, function: Callable[[], None]) -> Task:
        """Like spawn; of many at once only a few begin, then others go on, then some more begin.

        For those of which one event can wake thousands.
        """

    def tasks(self) -> Mapping[str, int]:
        """How many greenlets live, by owner. For leak checks and metrics."""

    def may_inline(self) -> bool:
        """Whether an ask to an idle actor may run on the asker's stack (the simulator draws)."""

    def listen(
        self,
        host: str,
        port: int,
        accept: Callable[[ByteStream], None] | None = None,
        tls: TlsServer | None = None,
    ) -> Listener:
        """Bind, and serve at once where `accept` is given.

        With `tls` the streams accepted need a handshake before anything else.

        Raises:
            ConnectError: the address cannot be bound; the text says why.
            TlsFileError: a file that `tls` names cannot be used.
        """

    def prepare_tls(self, tls: TlsClient) -> None:
        """Read the files of settings that `connect` will be given; what is read is kept.

        Raises:
            TlsFileError: a file cannot be used.
        """

    def connect(
        self, host: str, port: int, deadline_s: float, tls: TlsClient | None = None
    ) -> ByteStream:
        """Open a TCP connection, TCP_NODELAY set, and with `tls` a TLS session on it.

        Raises:
            ConnectError: refused, unreachable, unresolvable, not who it should be, or not done by
                the deadline.
        """

    def open_metrics(self, host: str, port: int, prefix: str, deadline_s: float) -> MetricSink:
        """Open a sink to a statsd server; every name is sent with `prefix` and a dot before it.

        Raises:
            ConnectError: the host cannot be resolved, or was not by the deadline.
        """

    def process_figures(self) -> ProcessFigures:
        """Describe the process. Never waits."""

    def watch_lag(self, every_s: float, on_look: Callable[[float], None]) -> Callable[[], None]:
        """Tell how many seconds too late the loop comes to what is due, again and again.

        `on_look` runs in the loop and must not wait. The result cancels.
        """

    def spawn_child(
        self,
        command: ChildCommand,
        deadline_s: float,
        on_exit: Callable[[ExitStatus], None],
    ) -> Child:
        """Start a child through the guardian. `on_exit` is called once, after its end was seen.

        Raises:
            SpawnError: it could not be started; `on_exit` is then never called.
        """


def no_timer() -> None:
    """Cancel nothing: what stands for the end of a timer where none is on."""
