"""A real process that serves MCP over HTTP and does with each call what the call says.

`python -m chaos.http_server HOST PORT JOURNAL [WORD ...]`: the scripted server of the tests on real
sockets. It writes a line into the journal for each execution of a call with an argument `n`, which
outlives a kill. It ends with its standard input. Words:

    ids        clients can come back to its streams
    stateless  it gives its sessions no id
    STEP       is what it does with calls that do not say it, one step after another
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter, deque
from pathlib import Path
from typing import Any

from tests.scripted_streams import Resumption
from tests.wire.socket_upstream import SocketUpstream

KEPT = 100
READY = "ready\n"


class Journal(Counter[object]):
    """Counts executions, and writes each down first."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __setitem__(self, n: object, count: int) -> None:
        if n is not None:
            os.write(self._file, f"{n}\n".encode())


class JournalledUpstream(SocketUpstream):
    """Such a server, which forgets what it need not know."""

    def __init__(self, host: str, port: int, journal: Path, words: list[str]) -> None:
        listening = socket.create_server((host, port), backlog=512)
        super().__init__(
            "stateless" not in words,
            listening=listening,
            slow=True,
            resumption=Resumption(retry_ms=50) if "ids" in words else None,
        )
        self.server.usual = [x for x in words if x not in ("ids", "stateless")] or None
        seen: Any = deque(maxlen=KEPT)  # Any: a list elsewhere
        self.server.seen = seen
        self.server.executions = Journal(journal)
        self.server.capabilities = {"tools": {"listChanged": True}}


def main() -> None:
    """Serve until the end of input."""
    host, port, journal, *words = sys.argv[1:]
    with JournalledUpstream(host, int(port), Path(journal), words):
        sys.stdout.write(READY)
        sys.stdout.flush()
        sys.stdin.buffer.read()
        os._exit(0)  # scripts may be in the middle of anything


if __name__ == "__main__":
    main()
