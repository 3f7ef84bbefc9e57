"""A name server of one name: it answers as it is told, or not at all."""

from __future__ import annotations

import os
import socket
import struct
import threading

NAME = "victim.example"
FOUND, NO_SUCH_NAME, FAILED, SILENT = "found", "no such name", "failed", "silent"
_CODES = {FOUND: 0, NO_SUCH_NAME: 3, FAILED: 2}
_QUERY_HEAD = 12


class NameServer:
    """Says that the name is at 127.0.0.1, for no time at all. A context manager.

    Raises:
        PermissionError: the port cannot be had.

    Attributes:
        address: where it is.
        says: what it answers now.
        asked: how often it was.
    """

    def __init__(self) -> None:
        self.says = FOUND
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # A resolver knows servers at port 53 only; the loopback has addresses enough.
        self.address = "127.{}.{}.53".format(*divmod(os.getpid() % 65_000, 255))
        self._socket.bind((self.address, 53))
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                query, peer = self._socket.recvfrom(512)
            except OSError:
                continue
            self.asked += 1
            if self.says != SILENT:
                self._socket.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", _QUERY_HEAD) + 5
        question = query[_QUERY_HEAD:end]
        (kind,) = struct.unpack("!H", question[-4:-2])
        wanted = self.says == FOUND and kind == 1  # A; the name has no address of another kind
        head = query[:2] + struct.pack("!HHHHH", 0x8180 | _CODES[self.says], 1, int(wanted), 0, 0)
        row = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton("127.0.0.1")
        return head + question + (row if wanted else b"")
