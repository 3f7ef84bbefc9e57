"""Owns one end of a pipe to or from a child process, as a stream of one direction.

The world wraps the ends that the guardian hands over. Never starts or ends a process.
"""

from __future__ import annotations

import os
from functools import partial

from proxy_actors.transports.deadlines import DeadlineSweep
from proxy_actors.transports.fd_stream import FdStream


def reading_pipe(sweep: DeadlineSweep, fd: int, peer: str) -> FdStream:
    """Take over the reading end `fd`; writing to the stream raises `StreamClosedError`."""
    os.set_blocking(fd, False)
    return FdStream(sweep, fd, partial(os.read, fd), None, partial(os.close, fd), peer)


def writing_pipe(sweep: DeadlineSweep, fd: int, peer: str) -> FdStream:
    """Take over the writing end `fd`; reading from the stream raises `StreamClosedError`."""
    os.set_blocking(fd, False)
    return FdStream(sweep, fd, None, partial(os.write, fd), partial(os.close, fd), peer)
