"""Owns one end of a pipe to or from a child process, as a stream of one direction.

The world wraps the ends that the guardian hands over. Never starts or ends a process.
"""

from __future__ import annotations

from proxy_actors.transports.deadlines import DeadlineSweep
from proxy_actors.transports.fd_stream import FdStream
from proxy_actors.transports.pipe import Pipe


def reading_pipe(sweep: DeadlineSweep, fd: int, peer: str) -> FdStream:
    """Take over the reading end `fd`; writing to the stream raises `StreamClosedError`."""
    return FdStream(sweep, Pipe(fd), peer, writes=False)


def writing_pipe(sweep: DeadlineSweep, fd: int, peer: str) -> FdStream:
    """Take over the writing end `fd`; reading from the stream raises `StreamClosedError`."""
    return FdStream(sweep, Pipe(fd), peer, reads=False)
