"""Owns one end of a pipe, and is to a stream what a socket is to one. Never waits."""

from __future__ import annotations

import os


class Pipe:
    """One end of a pipe, which it takes over and sets non-blocking."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        """As a socket's."""
        return self._fd

    def recv_into(self, buffer: bytearray, bytes_max: int, /) -> int:
        """As a socket's."""
        return os.readv(self._fd, (memoryview(buffer)[:bytes_max],))

    def send(self, data: bytes | memoryview, /) -> int:
        """As a socket's."""
        return os.write(self._fd, data)

    def close(self) -> None:
        """As a socket's."""
        os.close(self._fd)
