"""The same servers over stdio, without a proxy: what a proxy before stdio may be blamed for."""

from __future__ import annotations

import json

import pytest

from peers.clients import run_client
from peers.upstreams import UPSTREAMS


@pytest.mark.usefixtures("node_parts")
@pytest.mark.parametrize("upstream", ["everything", "server-everything"])
def test_a_server_serves_every_scenario_over_stdio_too(upstream: str) -> None:
    """MCP-I: one process a client, as `--stdio session` starts them."""
    chosen = UPSTREAMS[upstream]
    lines = run_client("python-legacy", json.dumps(chosen.stdio), chosen.plan)
    assert {name: line["error"] for name, line in lines.items() if "error" in line} == {}
    assert len(lines) == 11
    assert chosen.plan["echo"]["tool"] in lines["lists"]["saw"]["tools"]
    assert lines["progress"]["saw"]["progress"] == chosen.plan["progressed"]
