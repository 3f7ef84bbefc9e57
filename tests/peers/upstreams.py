"""The real servers that a proxy can stand before, and what to ask of each.

Owns their commands and their plans: a plan names, in one vocabulary for all clients, the calls
that show progress, sampling, cancellation and so on, since no two servers name tools alike. It
starts nothing: that is endpoint.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any  # a plan is JSON for the drivers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NODE_HOME = ROOT / ".peers"
NODE = NODE_HOME / "node_modules/node/bin/node"
SCOPE = NODE_HOME / "node_modules/@modelcontextprotocol"

Plan = dict[str, Any]


@dataclass(frozen=True)
class Upstream:
    """One real server: how to start it on each transport, and its plan."""

    name: str
    http: tuple[str, ...]  # "{port}" is replaced by the port to listen on
    sse: tuple[str, ...]  # so here; the transport of 2024-11-05
    stdio: tuple[str, ...]
    plan: Plan
    forked: bool = False  # whether FORKED_SERVER, which starts in a blink, can stand for stdio


def on_port(command: tuple[str, ...], port: int) -> list[str]:
    return [word.replace("{port}", str(port)) for word in command]


def missing_node_parts() -> str | None:
    """Why the Node peers cannot be used, or None; a stale installation counts as missing."""
    wanted = hashlib.sha256()
    for name in ("package.json", "package-lock.json"):
        wanted.update((HERE / name).read_bytes())
    installed = NODE_HOME / "installed"
    if installed.is_file() and installed.read_text().strip() == wanted.hexdigest():
        return None
    return f"the Node peers are missing or out of date: run sh {HERE / 'install.sh'}"


def call(tool: str, **arguments: Any) -> Plan:
    return {"tool": tool, "arguments": arguments}


PYTHON_SERVER = (sys.executable, str(HERE / "everything_server.py"))
FORKING_SERVER = (*PYTHON_SERVER, "--forks")
FORKED_SERVER = (sys.executable, "-IS", str(HERE / "forked_stdio.py"))
NODE_SERVER = (str(NODE), str(SCOPE / "server-everything/dist/index.js"))

EVERYTHING = Upstream(
    name="everything",
    http=(*PYTHON_SERVER, "--http", "{port}"),
    sse=(*PYTHON_SERVER, "--sse", "{port}"),
    stdio=(*PYTHON_SERVER, "--stdio"),
    forked=True,
    plan={
        "echo": {"tool": "test_echo", "argument": "text"},
        "progress": call("test_tool_with_progress"),
        "progressed": [[0, 100], [50, 100], [100, 100]],
        "endless": call("test_endless", mark="MARK"),
        "cancelled": call("test_await_cancelled", mark="MARK"),
        "sampling": {"tool": "test_sampling", "argument": "prompt"},
        "elicitation": call("test_elicitation", message="Who are you?"),
        "roots": [call("test_roots"), call("test_roots_standalone")],
        "asking": {
            "sampling": call("test_sampling", prompt="Anybody?"),
            "elicitation": call("test_elicitation", message="Anybody?"),
            "roots": call("test_roots"),
        },
        "refused": {
            "sampling": "The client does not support sampling",
            "elicitation": "The client does not support elicitation",
            "roots": "this client declared no such capability",
        },
        "logging": {**call("test_tool_with_logging"), "match": "Tool", "count": 3},
        "touch": call("test_touch_resource", uri="URI"),
    },
)

# The same server with an event store: its streams carry event ids, retry and priming events.
RESUMABLE = Upstream(
    name="resumable",
    http=(*EVERYTHING.http, "--resumable"),
    sse=EVERYTHING.sse,
    stdio=EVERYTHING.stdio,
    plan=EVERYTHING.plan,
)

# The same server for one client after the other: in a shared process, a log message goes to nobody
# while more than one session is open.
UNDISTURBED = replace(EVERYTHING, name="undisturbed")

SERVER_EVERYTHING = Upstream(
    name="server-everything",
    http=("env", "PORT={port}", *NODE_SERVER, "streamableHttp"),
    sse=("env", "PORT={port}", *NODE_SERVER, "sse"),
    stdio=(*NODE_SERVER, "stdio"),
    plan={
        "echo": {"tool": "echo", "argument": "message"},
        "progress": call("trigger-long-running-operation", duration=0.6, steps=3),
        "progressed": [[1, 3], [2, 3], [3, 3]],
        "endless": call("trigger-long-running-operation", duration=60, steps=600),
        "cancelled": None,
        "sampling": {"tool": "trigger-sampling-request", "argument": "prompt"},
        "elicitation": call("trigger-elicitation-request"),
        "roots": [call("get-roots-list")],
        "asking": {
            "sampling": call("trigger-sampling-request", prompt="Anybody?"),
            "elicitation": call("trigger-elicitation-request"),
            "roots": call("get-roots-list"),
        },
        "refused": {
            "sampling": "Tool trigger-sampling-request not found",
            "elicitation": "Tool trigger-elicitation-request not found",
            "roots": "Tool get-roots-list not found",
        },
        "logging": {"match": "Received Subscribe", "count": 1},
        "touch": call("toggle-subscriber-updates"),
    },
)

UPSTREAMS = {
    upstream.name: upstream
    for upstream in (EVERYTHING, RESUMABLE, UNDISTURBED, SERVER_EVERYTHING)
}
