"""Stands for `everything_server.py --stdio` where many are started, and starts in a blink.

    forked_stdio.py SOCKET

Importing the SDK takes a second of CPU, and the conformance suite opens more than thirty sessions,
each with a process of its own. So one process, `everything_server.py --forks SOCKET`, imports it
once and forks a server for each connection; this program hands it its three pipes and lives until
that server has ended. Imports next to nothing, and neither reads nor writes the pipes.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(sys.argv[1])
        socket.send_fds(server, [b"\0"], [0, 1, 2])
        # Whoever reads the server's output must see its end at the end of the server.
        quiet = os.open(os.devnull, os.O_RDWR)
        for pipe in (0, 1, 2):
            os.dup2(quiet, pipe)
        server.recv(1)  # nothing is ever sent: this is the end of the server, or of its parent


if __name__ == "__main__":
    main()
