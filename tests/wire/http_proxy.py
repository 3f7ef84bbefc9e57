"""The proxy as a process of its own: started as its users do, spoken to by sockets and signals."""

from __future__ import annotations

import ast
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.sim.virtual import initialize, request
from tests.wire.http_client import Wire
from tests.wire.waiting import PATIENCE_S, eventually

_READY_LINE = re.compile(r"readiness +https?://\[?([^\]]+?)\]?:(\d+)/ready")
_POOL_STATE = re.compile(r"kind=ConnectionPool .* detail=(\{.*\})\n")


class HttpProxy:
    """A running proxy.

    `address` is where it listens, `errors` what it may log as one, `tls` how clients speak to it.
    """

    def __init__(
        self, process: subprocess.Popen[str], log: str, tls: ssl.SSLContext | None
    ) -> None:
        self.process = process
        self._log = log
        self.errors: set[str] = set()
        self.tls = tls
        self.address = self._announced()

    def wire(self) -> Wire:
        """Open a connection."""
        return Wire(self.address, tls=self.tls)

    def session(self) -> str:
        """Open a session."""
        with self.wire() as wire:
            id = wire.ask(request(initialize())).field(b"mcp-session-id")
        assert id is not None
        return id.decode()

    def page(self, path: str) -> int | None:
        """Ask for a page; return its status."""
        with self.wire() as wire:
            return wire.ask(request(None, "GET", path=path), "GET").status

    def wait_ready(self) -> None:
        """Return once it has reached its upstream."""
        eventually(lambda: self.page("/ready") == 200)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return its exit status."""
        return self.process.wait(PATIENCE_S)

    def pool(self) -> dict[str, int]:
        """Have it write its actors to the log; return the ledger of the pool."""
        before = len(_POOL_STATE.findall(self.log()))
        self.signal(signal.SIGUSR2)
        eventually(lambda: len(_POOL_STATE.findall(self.log())) > before)
        ledger: dict[str, int] = ast.literal_eval(_POOL_STATE.findall(self.log())[-1])
        return ledger

    def log(self) -> str:
        """Return what it has written to its standard error."""
        with open(self._log, encoding="utf-8") as lines:
            return lines.read()

    def _announced(self) -> tuple[str, int]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if match := _READY_LINE.match(line):
                return match[1], int(match[2])
        raise AssertionError(f"it ended with {self.wait()}: {self.log()}")


@contextmanager
def http_proxy(url: str, listen: str = "127.0.0.1:0", *options: str) -> Iterator[HttpProxy]:
    """Run `proxy-actors run` in front of a URL. What it logs as an error fails the test."""
    with running(listen, *options, url) as proxy:
        yield proxy


@contextmanager
def running(
    listen: str, *words: str, tls: ssl.SSLContext | None = None
) -> Iterator[HttpProxy]:
    """Run `proxy-actors run` with these words. What it logs as an error fails the test."""
    command = [sys.executable, "-W", "error", "-m", "proxy_actors", "run", "--listen", listen]
    with tempfile.NamedTemporaryFile() as log, subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=log, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            proxy = HttpProxy(process, log.name, tls)
            yield proxy
            errors = [line for line in proxy.log().splitlines() if " ERROR " in line]
            assert {line.split()[4] for line in errors} == proxy.errors, errors
        finally:
            process.kill()
