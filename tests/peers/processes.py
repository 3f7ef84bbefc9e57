"""Child processes of the peers' tests: started on a free port, waited for, and ended whole.

Owns each child's process group and log file. It knows nothing of what the children are.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0
LOOK_AGAIN_S = 0.02
LOG_BYTES_SHOWN = 6_000


class NotReadyError(Exception):
    """A server ended early, or did not become ready in time; the text carries its log."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """True when something accepts connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def says_ready(port: int, tls: ssl.SSLContext | None = None) -> bool:
    """True when GET /ready is answered with 200, in TLS where it is said how."""
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=1, context=tls)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Server:
    """One child, run in a directory, with its own process group and a log of both outputs.

    It serves one upstream by one route; the two name it.
    """

    def __init__(
        self, route: str, upstream: str, command: Sequence[str], directory: Path, log: Path
    ) -> None:
        self.route = route
        self.name = f"{route}-{upstream}"
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_BYTES_SHOWN:]

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Return once ready() holds.

        Raises NotReadyError when the child ends or READY_WITHIN_S passes. Waiting for the
        child's end is also the pause between two looks.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        while not ready():
            try:
                status = self._process.wait(LOOK_AGAIN_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
                status = None
            why = "not ready in time" if status is None else f"ended early with {status}"
            raise NotReadyError(f"{self.name}: {why}\n{self.log()}")

    def ask_to_stop(self) -> None:
        """Ask the group to end."""
        self._signal(signal.SIGTERM)

    def stop_at_once(self) -> None:
        """Kill the group."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Wait for the end that was asked for, then end what is left of the group."""
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
