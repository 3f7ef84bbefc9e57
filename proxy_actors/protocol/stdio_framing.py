"""The framing of MCP on a pipe: one message is one line (basic/transports, "stdio").

Owns the bytes of a line that has not ended yet. Never looks into a line: `jsonrpc.admit` judges
it, the caller counts what it refuses. Reader and writer of a stdio child use it.
"""

from __future__ import annotations

from proxy_actors.errors import FrameTooLargeError


class LineDecoder:
    """Cuts a child's output into lines, in time linear in the bytes fed.

    What half a line is left at the end of input is dropped with the decoder.

    Args:
        frame_bytes_max: the longest line accepted, in bytes, its line end not counted.
    """

    __slots__ = ("overflowed", "_frame_bytes_max", "_partial")

    def __init__(self, frame_bytes_max: int) -> None:
        self.overflowed = False
        """Whether a line was too long. The lines before it have been returned; none follows."""
        self._frame_bytes_max = frame_bytes_max
        self._partial = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` ends, without LF or CRLF; blank ones are returned too.

        A line too long sets `overflowed` at once, and not an error, so that the answers before it
        are not lost; how the bytes were cut into reads makes no difference.

        Raises:
            FrameTooLargeError: fed again after `overflowed`.
        """
        if self.overflowed:
            raise FrameTooLargeError(f"a line exceeds {self._frame_bytes_max} bytes")
        *lines, rest = data.split(b"\n")
        if lines and self._partial:
            lines[0] = bytes(self._partial + lines[0])
            self._partial = bytearray()
        complete: list[bytes] = []
        for line in lines:
            if not self._fits(line):
                return self._overflow(complete)
            complete.append(line.removesuffix(b"\r"))
        self._partial += rest
        if not self._fits(self._partial):
            return self._overflow(complete)
        return complete

    def _fits(self, line: bytes | bytearray) -> bool:
        # A CR at the end may be half of the line end, which is not counted.
        return len(line) - line.endswith(b"\r") <= self._frame_bytes_max

    def _overflow(self, complete: list[bytes]) -> list[bytes]:
        self.overflowed = True
        self._partial = bytearray()
        return complete


def encode_frame(message: bytes) -> bytes:
    """Return `message` as the line to write.

    Raises:
        ValueError: it holds a CR or LF, so the child would read two messages. Whatever went
            through `jsonrpc.admit` or was built by `jsonrpc_rewrite` holds none.
    """
    # An integer asks memchr at once, several times faster than a one-byte string does.
    if 10 in message or 13 in message:
        raise ValueError("a frame must not hold a line end")
    return message + b"\n"
