"""The MCP servers of a scenario as real processes: killed, and started again where they were."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos.http_server import READY
from chaos.ledger import SECRET
from tests.wire.proxy_process import SCRIPTED

DEMO = (sys.executable, "-m", "proxy_actors.demo")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class HttpServer:
    """A scripted server over HTTP in a process of its own. A context manager.

    Args:
        journal: where it writes what it executes.
        words: further ones for its command line.
        host: where it listens.
        inside: what its command begins with, to be executed elsewhere.
    """

    def __init__(
        self, journal: Path, *words: str, host: str = "127.0.0.1", inside: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self._host = host
        self._inside = inside
        self._journal = journal
        self._words = words
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._host, self.port

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://{self._host}:{self.port}/mcp"

    @property
    def pid(self) -> int:
        """The process of now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, where it was before."""
        words = [self._host, str(self.port), str(self._journal), *self._words]
        self._process = subprocess.Popen(
            [*self._inside, sys.executable, "-m", "chaos.http_server", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # an INT of the terminal is not for it
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == READY

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None

    def restore(self) -> None:
        """Start it, if it has been killed."""
        if self._process is None:
            self.start()

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()


# For faults that would have a breaker open, where the row is about what comes before.
NO_BREAKERS = "[upstreams.victim.breaker]\nenabled = false\n"


def http_upstream(url: str, pool: str = "", after: str = "", **settings: object) -> str:
    """The table of an upstream at a URL; its credentials must be told nobody.

    Args:
        url: where it is.
        pool: settings of its pool.
        after: further tables.
        settings: of its own.
    """
    text = f'url = "{url}"\nheaders = {{ Authorization = "Bearer {SECRET}" }}\n'
    text += 'transport = "streamable"\n' + _settings(settings)
    return text + f"[upstreams.victim.pool]\nidle-timeout-s = 0.2\n{pool}\n{after}"


def stdio_upstream(mode: str, journal: Path, *words: str, **settings: object) -> str:
    """The table of a scripted child."""
    return command_upstream(mode, [*SCRIPTED, *words, "journal", str(journal)], **settings)


def command_upstream(mode: str, command: Sequence[str], **settings: object) -> str:
    """The table of any command."""
    return (
        f'command = {json.dumps(command)}\nstdio = "{mode}"\nenv = {{ TOKEN = "{SECRET}" }}\n'
        + _settings(settings)
    )


def shell_upstream(mode: str, journal: Path, first: str, *words: str, **settings: object) -> str:
    """The table of a scripted child that a shell becomes after it has run the script `first`."""
    child = shlex.join([*SCRIPTED, *words, "journal", str(journal)])
    return command_upstream(mode, ["/bin/sh", "-c", f"{first}\nexec {child}"], **settings)


def _settings(settings: dict[str, object]) -> str:
    rows = (f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in settings.items())
    return "".join(rows)
