"""The proxy as a process of its own, for tests: started, spoken to, watched, and ended.

`running` starts `python -m proxy_actors run` on a free port, and at the end asks it to stop: it
must exit with 0, leave no process behind, and have logged no error but those that the test names.
With `settings` it runs with other values of its constants, so that what takes minutes takes a
second. Each is the full name of one, such as `proxy_actors.actors.stdio_process.STOP_STEP_S`, or of
a struct whose fields get other defaults.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from proxy_actors.transports.guardian import ProcessTable
from tests.sim.virtual import initialize, request

from .guardian_peer import wait_gone, watched
from .http_client import Wire
from .session_client import SessionClient
from .waiting import PATIENCE_S, eventually

SCRIPTED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("scripted_child.py")))

_WITH_SETTINGS = """
import functools, importlib, json, sys
if module := sys.argv.pop(1):
    importlib.import_module(module)
for name, value in json.loads(sys.argv.pop(1)).items():
    module, _, constant = name.rpartition(".")
    module = importlib.import_module(module)
    present = getattr(module, constant)
    setattr(module, constant, functools.partial(present, **value) if callable(present) else value)
from proxy_actors.__main__ import main
sys.exit(main())
"""
# What a service manager does that has bound the socket: sd_listen_fds(3).
WITH_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="http")
os.environ.setdefault("LISTEN_FDS", "1")
os.execv(sys.argv[2], sys.argv[2:])
"""
_READY_LINE = re.compile(r"readiness +https?://\[?([^\]]+?)\]?:(\d+)/ready")
_POOL_STATE = re.compile(r"kind=ConnectionPool .* detail=(\{.*\})\n")


class ProxyProcess(SessionClient):
    """A proxy that serves; made by `running`.

    Attributes:
        process, pid: the process.
        address: where it listens.
        errors: what it may log as an error.
    """

    def __init__(
        self,
        process: subprocess.Popen[str],
        log: str,
        fields: Mapping[str, str],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.process = process
        self.pid = process.pid
        self.errors: set[str] = set()
        self._log = log
        self._tls = tls
        self.address = self._announced()
        super().__init__(self.address, fields)

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://127.0.0.1:{self.address[1]}/mcp"

    def wire(self) -> Wire:
        """Open a connection that sends whatever bytes it is given."""
        return Wire(self.address, tls=self._tls)

    def session_id(self) -> str:
        """Open a session on such a connection; return its id."""
        with self.wire() as wire:
            id = wire.ask(request(initialize())).field(b"mcp-session-id")
        assert id is not None
        return id.decode()

    def page(self, path: str) -> int | None:
        """Ask for a page on such a connection; return its status."""
        with self.wire() as wire:
            return wire.ask(request(None, "GET", path=path), "GET").status

    def wait_ready(self) -> None:
        """Return once it has reached its upstream."""
        eventually(lambda: self.page("/ready") == 200)

    @property
    def logged_bytes(self) -> int:
        """How much it has logged so far."""
        return Path(self._log).stat().st_size

    def log(self, since: int = 0) -> str:
        """What it has logged so far, behind so many bytes. The file ends with `running`."""
        with open(self._log, "rb") as file:
            file.seek(since)
            return file.read().decode(errors="surrogateescape")

    def line_to_try(self) -> str:
        """The last line that it printed when it was ready; to be read once."""
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if line.startswith("curl "))

    def pool(self) -> dict[str, int]:
        """Have it write its actors to the log; return the ledger of the pool."""
        before = len(_POOL_STATE.findall(self.log()))
        self.signal(signal.SIGUSR2)
        eventually(lambda: len(_POOL_STATE.findall(self.log())) > before)
        ledger: dict[str, int] = ast.literal_eval(_POOL_STATE.findall(self.log())[-1])
        return ledger

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def descendants(self) -> list[int]:
        """Everyone below it: first its guardian."""
        return ProcessTable().descendants(self.pid)

    def children(self) -> list[int]:
        """The server processes, whatever they have started included."""
        guardian, *others = self.descendants()
        return others

    def fds(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def take_stock(self, children: int) -> tuple[int, int]:
        """Wait until it is ready with so many children; count them and its descriptors.

        Nothing but the one connection that asks must be open.
        """
        eventually(lambda: self.get("/ready").status == 200 and len(self.children()) == children)
        return self.fds() - 1, children

    def check_rest(self, stock: tuple[int, int]) -> None:
        """End all sessions and connections; nothing is left that was not there before."""
        self.end_sessions()
        eventually(lambda: (self.fds(), len(self.children())) == stock)

    def rss_bytes(self) -> int:
        """How much memory it holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def wait(self) -> int:
        """Wait for its end and return its status."""
        return self.process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Ask it to end, and see that it does so cleanly and with everybody below it."""
        with watched([self.pid, *self.descendants()]) as pidfds:
            self.leave()
            self.signal(signal.SIGTERM)
            assert self.wait() == 0, self.log()
            wait_gone(*pidfds)
        if "actor_crashed" not in self.errors:
            assert "Traceback" not in self.log(), self.log()

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def check_errors(self) -> None:
        """See that it has logged no error but those in `errors`."""
        lines = re.findall(r"^[\d-]+ [\d:,]+ ERROR .*", self.log(), re.M)
        assert {line.split()[4] for line in lines} == self.errors, lines

    def _announced(self) -> tuple[str, int]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if match := _READY_LINE.match(line):
                return match[1], int(match[2])
        raise AssertionError(f"it ended with {self.wait()}: {self.log()}")


@contextmanager
def running(
    *words: str,
    listen: str = "127.0.0.1:0",
    tls: ssl.SSLContext | None = None,
    settings: Mapping[str, object] = {},
    env: Mapping[str, str] = {},
    fields: Mapping[str, str] = {},
    stderr: int | None = None,
    module: str = "",
    listening: socket.socket | None = None,
) -> Iterator[ProxyProcess]:
    """Run a proxy until the block ends.

    Args:
        words: what stands behind `run`.
        listen: where it listens.
        tls: how its clients speak to it.
        settings: see the module.
        env: added to the environment.
        fields: sent with every request of its `SessionClient`.
        stderr: takes what it logs, which then cannot be read here.
        module: is imported first.
        listening: a socket that it takes over.
    """
    python = [sys.executable, "-W", "error"]
    if settings or module:
        program = [*python, "-c", _WITH_SETTINGS, module, json.dumps(settings)]
    else:
        program = [*python, "-m", "proxy_actors"]
    fds: tuple[int, ...] = ()
    if listening is not None:
        fds = (listening.fileno(),)
        program = [*python, "-c", WITH_SOCKET, str(fds[0]), *program]
    with tempfile.NamedTemporaryFile() as log, subprocess.Popen(
        [*program, "run", "--listen", listen, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log if stderr is None else stderr,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
        start_new_session=True,
        pass_fds=fds,
    ) as process:
        proxy: ProxyProcess | None = None
        try:
            proxy = ProxyProcess(process, log.name, fields, tls)
            yield proxy
            if proxy.lives:
                proxy.stop()
            proxy.check_errors()
        finally:
            process.kill()  # its guardian ends the others
            if proxy is not None:
                proxy.leave()
