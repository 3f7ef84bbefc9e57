"""How the guardian process is started.

It owns nothing. It is called first of all by `service`, before anything large is imported, and by
`guardian_client` to replace a guardian that died. It imports next to nothing, to be fast; it never
forks by itself: `posix_spawn` suspends the calling thread for the exec only and copies no page
tables, so that even a large process full of greenlets can afford it.
"""

from __future__ import annotations

import os
import posix
import socket
import sys

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guardian.py")
_GUARDIAN_FD = 3


def launch() -> tuple[int, int]:
    """Start a guardian; return our end of the socket to it and its process id.

    It has a session of its own, so that no terminal's signal reaches it, an empty environment, and
    ends when our end of the socket is closed. Whoever launches it reaps it.

    Raises:
        OSError: no descriptor, process or memory was to be had.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Not os.posix_spawn: gevent's version of it has the event loop reap the process.
        pid = posix.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-X", "utf8", _SCRIPT, str(_GUARDIAN_FD)],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _GUARDIAN_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours.detach(), pid
