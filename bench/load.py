"""The load: one MCP session, and `tools/call` over many connections, driven by wrk."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

VERSION = "2025-06-18"
TEXT = "hello world"
FIELDS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
_SCRIPT = """
local fields = {}
%s
local id = 100
request = function()
  id = id + 1
  local body = '{"jsonrpc":"2.0","id":' .. id
    .. ',"method":"tools/call","params":{"name":"echo","arguments":{"message":"%s"}}}'
  return wrk.format("POST", nil, fields, body)
end
"""


@dataclass(frozen=True)
class Load:
    """What a run of the load saw. Times in milliseconds; `errors` are requests without a result."""

    requests: int
    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int = 0


def open_session(url: str) -> dict[str, str]:
    """Open a session and make one call; return the fields that every request then needs."""
    in_session = open_listener(url)
    _, body = _post(url, in_session, "tools/call", call())
    if TEXT.encode() not in body:
        raise RuntimeError(f"{url} does not echo: {body[:200]!r}")
    return in_session


def open_listener(url: str) -> dict[str, str]:
    """Open a session and nothing more; return the fields that every request then needs."""
    fields, _ = _post(url, FIELDS, "initialize", {
        "protocolVersion": VERSION, "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    })
    session_id = fields.get("mcp-session-id")
    in_session = {**FIELDS, "MCP-Protocol-Version": VERSION}
    if session_id:
        in_session["Mcp-Session-Id"] = session_id
    _post(url, in_session, "notifications/initialized", None)
    return in_session


def call_tool(url: str, in_session: dict[str, str], tool: str) -> None:
    """Call a tool once."""
    _post(url, in_session, "tools/call", {"name": tool, "arguments": {"message": TEXT}})


def call() -> dict[str, Any]:
    """The params of the call that is measured: a request body of about 110 bytes."""
    return {"name": "echo", "arguments": {"message": TEXT}}


def run(
    url: str, connections: int, seconds: int, core: int, errs: bool = False,
    session: dict[str, str] | None = None,
) -> Load:
    """Load the endpoint for so long from one core.

    Args:
        errs: whether errors are counted, and do not end it.
        session: the fields of one that is open; None: opens one.

    Raises:
        RuntimeError: an answer was wrong, or a connection broke.
    """
    fields = session or (open_listener(url) if errs else open_session(url))
    rows = "\n".join(f'fields["{name}"] = "{value}"' for name, value in fields.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua(rows))
        script.flush()
        command = [
            "taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
            "--timeout", "30s", "-s", script.name, url,
        ]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    report = re.search(r"^report (\d+) (\d+) (\S+) (\S+) (\S+) (\d+)$", out, re.M)
    if report is None or (int(report[6]) and not errs):
        raise RuntimeError(f"errors under load:\n{out}")
    requests, micros = int(report[1]), int(report[2])
    p50, p95, p99 = (float(report[n]) / 1000 for n in (3, 4, 5))
    return Load(requests, requests / micros * 1e6, p50, p95, p99, int(report[6]))


def lua(rows: str) -> str:
    """Return the script of the load, with these fields of every request."""
    return _SCRIPT % (rows, TEXT) + _REPORT


_REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format("report %d %d %f %f %f %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(95), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def _post(
    url: str, fields: dict[str, str], method: str, params: dict[str, Any] | None
) -> tuple[dict[str, str], bytes]:
    parts = urlsplit(url)
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message |= {"id": 1, "params": params}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("POST", parts.path, json.dumps(message), fields)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 202):
            raise RuntimeError(f"{url} answered {method} with {answer.status}: {body[:200]!r}")
        return {name.lower(): value for name, value in answer.getheaders()}, body
    finally:
        connection.close()
