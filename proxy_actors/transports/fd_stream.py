"""Owns the bytes of one non-blocking file descriptor: the watchers, the look-ahead and both ends.

The read watcher is started once and stays. When the descriptor becomes readable and a greenlet is
parked in `read`, the loop receives and switches straight into it with the bytes; who has asked for
it is called instead, and reads; when nobody reads, the loop reads ahead into a bounded buffer and
notes an end of input. So a read never begins with a failing system call, and the departure of a
silent peer is seen at once. A write is tried directly; only when there is no room does it start a
watcher and park.

`SocketStream` and `pipe_stream` say what a descriptor is. Never resolves, connects or frames.
"""

from __future__ import annotations

from _socket import socket
from collections.abc import Callable, Sequence
from typing import Any

from proxy_actors.errors import StreamClosedError
from proxy_actors.transports.deadlines import DeadlineSweep, Parking
from proxy_actors.transports.pipe import Pipe
from proxy_actors.transports.reception import BUFFER, BUFFER_BYTES, VIEW

AHEAD_BYTES_MAX = BUFFER_BYTES
READABLE = 1
WRITABLE = 2
_CLOSED = "the stream is closed on this side"


class FdStream:
    """A `ByteStream` over one descriptor. Whoever makes it closes it: the loop holds it alive.

    At most one greenlet reads and one writes at a time.

    Args:
        sweep: where its waits are watched over.
        channel: what reads, writes and closes the descriptor; non-blocking, taken over.
        peer: see `ByteStream.peer`.
        reads, writes: whether it has input, and output.
    """

    __slots__ = (
        "peer", "_sweep", "_channel", "_reader", "_writer", "_read_bytes_max", "_ahead",
        "_on_departure", "_on_ahead", "_on_input", "_input_end", "_output_end", "_write_failure",
        "_read_watcher", "_write_watcher",
    )  # fmt: skip

    def __init__(
        self,
        sweep: DeadlineSweep,
        channel: socket | Pipe,
        peer: str,
        reads: bool = True,
        writes: bool = True,
    ) -> None:
        self.peer = peer
        self._sweep = sweep
        self._channel = channel
        self._reader = Parking(sweep)
        # Where a greenlet waits for room, while one does.
        self._writer: Parking | None = None
        self._read_bytes_max = 0
        self._ahead = b""
        self._on_departure: Callable[[], None] | None = None
        self._on_ahead: Callable[[], None] | None = None
        self._on_input: Callable[[], None] | None = None
        # Why there is no more input: None while there may be, "" for a clean end.
        self._input_end: str | None = None
        # Why there can be no more output: None while there can.
        self._output_end: str | None = None
        self._write_failure = ""
        self._read_watcher: Any = None  # Any: gevent has no type hints
        self._write_watcher: Any = None  # Any: as above
        if not writes:
            self._output_end = "the stream is read only"
        if reads:
            self._read_watcher = sweep.loop.io(channel.fileno(), READABLE)
            self._read_watcher.start(self._on_readable)
        else:
            self._input_end = "the stream is write only"

    def handshake(self, deadline_s: float) -> None:
        """See `ByteStream.handshake`: nothing comes before the first byte."""

    def read(self, bytes_max: int, deadline_s: float) -> bytes:
        """See `ByteStream.read`. What was read ahead comes first, whatever ended the input."""
        if bytes_max < 1:
            raise ValueError("bytes_max must be at least 1: no bytes mean the end of input")
        if self._ahead:
            return self._take_ahead(bytes_max)
        if self._input_end is not None:
            if self._input_end:
                raise StreamClosedError(self._input_end)
            return b""
        self._read_bytes_max = min(bytes_max, BUFFER_BYTES)
        data: bytes = self._reader.park(deadline_s)
        return data

    def read_now(self, bytes_max: int) -> bytes | None:
        """See `ByteStream.read_now`."""
        if self._ahead:
            return self._take_ahead(bytes_max)
        if self._input_end is None:
            try:
                data = self._receive(bytes_max)
            except BlockingIOError:
                return None
            except OSError as error:
                raise self._break(error) from error
            if data:
                return data
            self._end_input()
        if self._input_end:
            raise StreamClosedError(self._input_end)
        return b""

    def on_input(self, callback: Callable[[], None] | None) -> None:
        """See `ByteStream.on_input`."""
        self._on_input = callback
        if self._read_watcher is not None:
            self._read_watcher.callback = callback or self._on_readable
        if callback is not None and (self._ahead or self._input_end is not None):
            self._sweep.run_callback(self._announce_input)

    def write(self, parts: Sequence[bytes], deadline_s: float) -> None:
        """See `ByteStream.write`. Returns without a switch when the kernel has room for all."""
        if self._output_end is not None:
            raise StreamClosedError(self._output_end)
        if self._writer is not None:
            raise RuntimeError("two greenlets write to the same stream")
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            sent = self._channel.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._reads_no_more(error) from error
        if sent != len(data):
            self._write_rest(memoryview(data)[sent:], deadline_s)

    def write_now(self, data: bytes) -> int:
        """See `ByteStream.write_now`. Nothing is taken while a greenlet writes."""
        if self._output_end is not None or self._writer is not None:
            return 0
        try:
            return self._channel.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._reads_no_more(error)
            return 0

    def close(self) -> None:
        """See `ByteStream.close`. Never switches: who is parked is resumed by the loop."""
        if self._input_end is _CLOSED:
            return
        self._input_end = self._output_end = _CLOSED
        self._ahead = b""
        self._on_departure = self._on_ahead = None
        # Watchers go first: the kernel may give the descriptor's number to the next one opened.
        for watcher in (self._read_watcher, self._write_watcher):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._read_watcher = self._write_watcher = None
        self._channel.close()
        for parking in (self._reader, self._writer):
            if parking is not None and parking.greenlet is not None:
                self._sweep.run_callback(parking.throw, StreamClosedError(_CLOSED))
        if self._on_input is not None:
            self._sweep.run_callback(self._announce_input)

    def close_lingering(self, deadline_s: float) -> None:
        """See `ByteStream.close_lingering`. A pipe's bytes outlive its writer: just close."""
        self.close()

    def is_quiet(self) -> bool:
        """See `ByteStream.is_quiet`. False, too, while a greenlet reads or after a failed write."""
        if not self.looks_quiet:
            return False
        self._read_ahead()
        return not self._ahead and self._input_end is None

    @property
    def looks_quiet(self) -> bool:
        """See `ByteStream.looks_quiet`."""
        return (
            not self._ahead
            and self._input_end is None
            and self._reader.greenlet is None
            and not self._write_failure
        )

    def on_departure(self, callback: Callable[[], None] | None) -> None:
        """See `ByteStream.on_departure`. Called by the loop; soon, if the end is known already."""
        self._on_departure = callback
        if self._input_end is not None and self._input_end is not _CLOSED:
            self._sweep.run_callback(self._announce_departure)

    def _on_readable(self) -> None:
        if self._reader.greenlet is None:
            self._read_ahead()
            return
        try:
            # As `_receive`: most of what comes comes here.
            data = VIEW[: self._channel.recv_into(BUFFER, self._read_bytes_max)].tobytes()
        except BlockingIOError:
            return
        except OSError as error:
            self._reader.throw(self._break(error))
            return
        if data:
            self._reader.greenlet.switch(data)
            return
        self._end_input()
        if self._input_end:
            self._reader.throw(StreamClosedError(self._input_end))
        else:
            self._reader.unpark(data)

    def _read_ahead(self) -> None:
        try:
            data = self._receive(AHEAD_BYTES_MAX - len(self._ahead))
        except BlockingIOError:
            return
        except OSError as error:
            self._break(error)
        else:
            if data:
                self._ahead += data
                if len(self._ahead) == AHEAD_BYTES_MAX:
                    self._read_watcher.stop()
                if self._on_ahead is not None:
                    self._sweep.run_callback(self._on_ahead)
                return
            self._end_input()
        self._sweep.run_callback(self._announce_departure)

    def _receive(self, bytes_max: int) -> bytes:
        return VIEW[: self._channel.recv_into(BUFFER, min(bytes_max, BUFFER_BYTES))].tobytes()

    def _announce_input(self) -> None:
        """Tell what the watcher does not: what was read ahead, and an end that is known."""
        if self._on_input is not None:
            self._on_input()
            self.on_input(self._on_input)

    def _take_ahead(self, bytes_max: int) -> bytes:
        if len(self._ahead) == AHEAD_BYTES_MAX and self._input_end is None:
            self._read_watcher.start(self._on_input or self._on_readable)
        taken = self._ahead[:bytes_max]
        self._ahead = self._ahead[bytes_max:]
        return taken

    def _end_input(self) -> None:
        """Note the end of input: not a clean one if output failed.

        The kernel reports a reset once. When the writer was told, the reader is only given b"",
        and a body that ends with its connection would look whole.
        """
        self._input_end = self._write_failure
        self._read_watcher.stop()

    def _break(self, error: OSError) -> StreamClosedError:
        self._input_end = self._output_end = f"the peer is gone: {error.strerror}"
        self._read_watcher.stop()
        return StreamClosedError(self._output_end)

    def _announce_departure(self) -> None:
        callback, self._on_departure = self._on_departure, None
        if callback is not None:
            callback()

    def _reads_no_more(self, error: OSError) -> StreamClosedError:
        """End the output. Input stays open: an upstream may have answered before it stopped."""
        self._output_end = self._write_failure = f"the peer reads no more: {error.strerror}"
        return StreamClosedError(self._write_failure)

    def _write_rest(self, rest: memoryview, deadline_s: float) -> None:
        if self._write_watcher is None:
            self._write_watcher = self._sweep.loop.io(self._channel.fileno(), WRITABLE)
        watcher = self._write_watcher
        writer = self._writer = Parking(self._sweep)
        watcher.start(writer.unpark)
        try:
            while rest:
                writer.park(deadline_s)
                try:
                    rest = rest[self._channel.send(rest):]
                except BlockingIOError:
                    pass
                except OSError as error:
                    raise self._reads_no_more(error) from error
        finally:
            self._writer = None
            watcher.stop()
