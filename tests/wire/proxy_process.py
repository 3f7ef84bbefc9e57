"""The proxy as a process of its own, for tests: started, spoken to over HTTP, watched, and ended.

`running` starts `python -m proxy_actors run` on a free port, and at the end asks it to stop: it
must exit with 0, leave no process behind, and have logged no traceback. With `settings` it runs
with other values of its constants, so that what takes minutes takes a second. Each is the full name
of one, such as `proxy_actors.actors.stdio_process.STOP_STEP_S`, or of a struct whose fields get
other defaults.

A request is sent before its answer is read, so that one thread can have a thousand underway.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_actors.transports.guardian import ProcessTable

from .guardian_peer import wait_gone, watched
from .waiting import PATIENCE_S, eventually

VERSION = "2025-11-25"
SCRIPTED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("scripted_child.py")))

Json = dict[str, Any]  # Any: JSON

_WITH_SETTINGS = """
import functools, importlib, json, sys
for name, value in json.loads(sys.argv.pop(1)).items():
    module, _, constant = name.rpartition(".")
    module = importlib.import_module(module)
    present = getattr(module, constant)
    setattr(module, constant, functools.partial(present, **value) if callable(present) else value)
from proxy_actors.__main__ import main
sys.exit(main())
"""


@dataclass
class Answer:
    """An HTTP response; `messages` are the JSON body, or the messages of the event stream."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes
    messages: list[Json]

    @property
    def message(self) -> Json:
        """The last message, which answers the request."""
        return self.messages[-1]

    @property
    def value(self) -> Any:
        """What a scripted child's tool returned."""
        assert self.status == 200 and "result" in self.message, (self.status, self.body[:500])
        return self.message["result"]["structuredContent"]["value"]

    @property
    def pid(self) -> int:
        """Which scripted child answered."""
        pid: int = self.message["result"]["structuredContent"]["pid"]
        return pid


def check_failure(answer: Answer, status: int, reason: str, executed: str, id: object = 1) -> None:
    """Check the whole error contract: RELIABILITY 1.11."""
    assert answer.status == status, (answer.status, answer.body[:500])
    message = answer.message
    assert message.keys() == {"jsonrpc", "id", "error"}
    assert (message["jsonrpc"], message["id"]) == ("2.0", id)
    assert type(message["id"]) is type(id)
    error = message["error"]
    assert error.keys() == {"code", "message", "data"}
    assert error["code"] == -32603
    assert not re.search(r"/|\.py|Traceback|Errno|0x", error["message"])
    data = error["data"]
    retry_after_ms = data.pop("retryAfterMs", None)
    assert data.pop("requestId")
    assert data == {
        "reason": reason,
        "upstream": "default",
        "executed": executed,
        "retryable": executed == "no",
    }
    if status == 503:
        assert int(answer.fields["Retry-After"]) * 1000 >= retry_after_ms >= 0
    else:
        assert retry_after_ms is None


class Pending:
    """A request underway on a connection of its own."""

    def __init__(self, proxy: ProxyProcess, connection: http.client.HTTPConnection) -> None:
        self._proxy = proxy
        self._connection = connection
        self._response: http.client.HTTPResponse | None = None

    @property
    def answered(self) -> bool:
        """Whether something of the response has come."""
        return bool(select.select([self._connection.sock], [], [], 0)[0])

    def head(self) -> http.client.HTTPResponse:
        """Wait for the head of the response."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def event(self) -> Json:
        """Wait for the next message of the event stream."""
        data = b""
        while (line := self.head().readline().rstrip(b"\r\n")) or not data:
            data += line[5:] if line.startswith(b"data:") else b""
        message: Json = json.loads(data)
        return message

    def answer(self) -> Answer:
        """Wait for the whole response; the connection is used again afterwards."""
        response = self.head()
        body = response.read()
        kind = response.getheader("Content-Type", "")
        if kind.startswith("text/event-stream"):
            lines = body.split(b"\n")
            messages = [json.loads(line[5:]) for line in lines if line.startswith(b"data:")]
        else:
            document = json.loads(body) if body else []
            messages = document if isinstance(document, list) else [document]
        self._proxy.give_back(self._connection)
        return Answer(response.status, response.headers, body, messages)

    def leave(self) -> None:
        """Go away without the answer."""
        self._proxy.close(self._connection)


class Session:
    """An MCP session at the proxy."""

    def __init__(self, proxy: ProxyProcess, id: str, path: str = "/mcp") -> None:
        self.proxy = proxy
        self.id = id
        self.path = path
        self._extra = {"Mcp-Session-Id": id}

    def post(self, body: bytes, **extra: str) -> Pending:
        """Send bytes as they are."""
        return self.proxy.send("POST", self.path, body, {**self._extra, **extra})

    def send(self, method: str, params: object = None, id: object = 1) -> Pending:
        """Send a request, or with None as its id a notification."""
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
        if id is None:
            del message["id"]
        return self.post(json.dumps(message).encode())

    def begin(self, tool: str, id: object = 1, **arguments: object) -> Pending:
        """Send a call of a tool."""
        return self.send("tools/call", {"name": tool, "arguments": arguments}, id)

    def call(self, tool: str, id: object = 1, **arguments: object) -> Answer:
        """Call a tool."""
        return self.begin(tool, id, **arguments).answer()

    def listen(self) -> Pending:
        """Open the standalone stream."""
        return self.proxy.send("GET", self.path, None, self._extra)

    def delete(self) -> Answer:
        """End the session."""
        return self.proxy.send("DELETE", self.path, None, self._extra).answer()


class ProxyProcess:
    """A proxy that serves; made by `running`."""

    def __init__(self, process: subprocess.Popen[str], log: Path, extra: dict[str, str]) -> None:
        self._process = process
        self._log = log
        self._extra = extra
        self._sessions: list[Session] = []
        self._idle: list[http.client.HTTPConnection] = []
        self._connections: set[http.client.HTTPConnection] = set()
        self.pid = process.pid
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.fullmatch(r"MCP endpoint +(http://127\.0\.0\.1:(\d+)/mcp)\n", first)
        assert found is not None, (first, self.log())
        self.url, self.port = found[1], int(found[2])

    # HTTP.

    def send(
        self, method: str, path: str, body: bytes | None = None, extra: Mapping[str, str] = {}
    ) -> Pending:
        """Send a request on a connection of its own."""
        fields = {"Accept": "application/json, text/event-stream", **self._extra, **extra}
        if body is not None:
            fields["Content-Type"] = "application/json"
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            self._connections.add(connection)
        connection.request(method, path, body, fields)
        return Pending(self, connection)

    def get(self, path: str) -> Answer:
        """Get a page."""
        return self.send("GET", path).answer()

    def pages(self) -> tuple[int, int, int]:
        """The statuses of /health, /ready and /admin/health."""
        health, ready, admin = map(self.get, ("/health", "/ready", "/admin/health"))
        assert admin.body == health.body
        return health.status, ready.status, admin.status

    def begin_session(self, version: str = VERSION, path: str = "/mcp") -> Pending:
        """Send an initialize."""
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": info}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        return self.send("POST", path, json.dumps(message).encode())

    def session(self, version: str = VERSION, path: str = "/mcp") -> Session:
        """Open a session."""
        opened = self.begin_session(version, path).answer()
        assert opened.status == 200, (opened.status, opened.body, self.log())
        session = self.adopt(opened, path)
        assert session.send("notifications/initialized", id=None).answer().status == 202
        return session

    def adopt(self, opened: Answer, path: str = "/mcp") -> Session:
        """The session that this answer to initialize has opened."""
        session = Session(self, opened.fields["Mcp-Session-Id"], path)
        self._sessions.append(session)
        return session

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection for the next request, unless it was closed."""
        if connection.sock is None:
            self._connections.discard(connection)
        else:
            self._idle.append(connection)

    def close(self, connection: http.client.HTTPConnection) -> None:
        """Close a connection, whatever it is doing."""
        self._connections.discard(connection)
        connection.close()

    # The process.

    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="surrogateescape")

    def line_to_try(self) -> str:
        """The last line that it printed when it was ready; to be read once."""
        assert self._process.stdout is not None
        return next(line for line in self._process.stdout if line.startswith("curl "))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

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
        for session in self._sessions:
            session.delete()
        self._sessions.clear()
        self.leave()
        eventually(lambda: (self.fds(), len(self.children())) == stock)

    def rss_bytes(self) -> int:
        """How much memory it holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def wait(self) -> int:
        """Wait for its end and return its status."""
        return self._process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Ask it to end, and see that it does so cleanly and with everybody below it."""
        with watched([self.pid, *self.descendants()]) as pidfds:
            self.leave()
            self.signal(signal.SIGTERM)
            assert self.wait() == 0, self.log()
            wait_gone(*pidfds)
        assert "Traceback" not in self.log(), self.log()

    def leave(self) -> None:
        """Close every connection to it."""
        for connection in list(self._connections):
            self.close(connection)
        self._idle.clear()

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None


@contextmanager
def running(
    directory: Path,
    *target: str,
    options: Sequence[str] = (),
    settings: Mapping[str, object] = {},
    env: Mapping[str, str] = {},
    fields: Mapping[str, str] = {},
) -> Iterator[ProxyProcess]:
    """Run a proxy in front of a command, of one URL, or of what a file says, until the block ends.

    Args:
        directory: where its log goes.
        target: what stands behind `--`, or a URL; nothing where the options name a file.
        options: further options of `run`.
        settings: see the module.
        env: added to the environment.
        fields: sent with every request.
    """
    python = [sys.executable, "-W", "error"]
    if settings:
        program = [*python, "-c", _WITH_SETTINGS, json.dumps(settings)]
    else:
        program = [*python, "-m", "proxy_actors"]
    words = ["run", "--listen", "127.0.0.1:0", *options]
    if target:
        words += target if "://" in target[0] else ("--", *target)
    log = directory / "proxy.log"
    with log.open("wb") as errors, subprocess.Popen(
        [*program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, **env},
        start_new_session=True,
    ) as process:
        proxy: ProxyProcess | None = None
        try:
            proxy = ProxyProcess(process, log, dict(fields))
            yield proxy
            if proxy.lives:
                proxy.stop()
        finally:
            process.kill()  # its guardian ends the others
            if proxy is not None:
                proxy.leave()
