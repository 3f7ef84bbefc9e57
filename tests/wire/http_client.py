"""A client on a plain socket that sends whatever bytes it is given and reads answers strictly.

It shares no code with the proxy, so that the two cannot be wrong in the same way. A reset where an
answer was to come is an error of the test.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct

from tests.sim.virtual import Answer
from tests.wire.waiting import PATIENCE_S

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*")
_BODILESS = (204, 304)


class Wire:
    """One connection to the proxy.

    Args:
        address: where the proxy listens.
        source: the address to come from; empty for any.
        receive_bytes: what the kernel holds for a client that does not read; 0 for its default.
        tls: how to speak TLS; an end without close_notify is then an error.
    """

    def __init__(
        self,
        address: tuple[str, int],
        source: str = "",
        receive_bytes: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE_S)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if source:
            self.socket.bind((source, 0))
        try:
            self.socket.connect(address)
        except ConnectionError:
            self.socket.close()
            raise
        if tls is not None:
            self.socket = tls.wrap_socket(
                self.socket, server_hostname=address[0], suppress_ragged_eofs=False
            )
        self._ahead = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Sending.

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def send_what_is_taken(self, data: bytes) -> None:
        """Send until the proxy has had enough."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            pass

    def end(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish without a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    # Receiving.

    def ask(self, data: bytes, method: str = "POST") -> Answer:
        """Send a request and read its answer."""
        self.send(data)
        return self.answer(method)

    def answer(self, method: str = "POST") -> Answer:
        """Read one answer; `complete` is false when the connection ended before it did."""
        answer = self.head()
        if answer.status is not None:
            self._read_body(answer, method)
        return answer

    def head(self) -> Answer:
        """Read the head of a final answer; without a status when the connection has ended."""
        while True:
            lines = []
            while line := self._line():
                lines.append(line)
            if not lines:
                return Answer()
            status = _STATUS_LINE.fullmatch(lines[0])
            assert status is not None, lines[0]
            answer = Answer(int(status[1]))
            for line in lines[1:]:
                field = _FIELD_LINE.fullmatch(line)
                assert field is not None, line
                answer.fields.append((field[1].lower(), field[2]))
            assert answer.status is not None
            if answer.status >= 200:
                answer.keep_alive = answer.field(b"connection") != b"close"
                return answer
            assert not answer.fields, "an interim answer of the proxy has none"

    def interim(self) -> bytes:
        """Read the status line of an answer that is to be followed by another."""
        line = self._line()
        assert line is not None and self._line() == b""
        return line

    def more(self, answer: Answer) -> bool:
        """Read one more chunk of an answer; false at its end, complete or not."""
        size_line = self._line()
        if size_line is None:
            return False
        size = int(size_line, 16)
        data = self._exactly(size + 2)
        answer.body += data[:size]
        if len(data) < size + 2:
            return False
        assert data[size:] == b"\r\n"
        answer.complete = not size
        return bool(size)

    def rest(self) -> bytes:
        """Read to the end of the connection."""
        data, self._ahead = self._ahead, b""
        while more := self.socket.recv(65_536):
            data += more
        return data

    @property
    def has_ended(self) -> bool:
        """Wait for the end of the connection; false when there are bytes before it."""
        return not self.rest()

    def _read_body(self, answer: Answer, method: str) -> None:
        length = answer.field(b"content-length")
        chunked = answer.field(b"transfer-encoding") == b"chunked"
        assert not (length and chunked), "two framings"
        if method == "HEAD" or answer.status in _BODILESS:
            answer.complete = True
        elif chunked:
            while self.more(answer):
                pass
        elif length is not None:
            answer.body = self._exactly(int(length))
            answer.complete = len(answer.body) == int(length)
        else:
            assert not answer.keep_alive, "an endless answer on a connection that lives on"
            answer.body = self.rest()
            answer.complete = True

    def _line(self) -> bytes | None:
        """One line without its end; None at the end of the connection."""
        while b"\n" not in self._ahead:
            if not self._receive():
                return None
        line, _, self._ahead = self._ahead.partition(b"\n")
        assert line.endswith(b"\r") and b"\r" not in line[:-1], line
        return line[:-1]

    def _exactly(self, count: int) -> bytes:
        while len(self._ahead) < count and self._receive():
            pass
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        return data

    def _receive(self) -> bool:
        data = self.socket.recv(65_536)
        self._ahead += data
        return bool(data)
