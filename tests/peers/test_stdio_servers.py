"""The same servers over stdio, without a proxy: what a proxy before stdio may be blamed for."""

from __future__ import annotations

import pytest

from peers.clients import EVERY_SCENARIO, PYTHON_DRIVER, plan, run_driver
from peers.endpoint import SESSION
from peers.upstreams import UPSTREAMS


@pytest.mark.usefixtures("node_parts")
def test_the_servers_serve_every_scenario_over_stdio_too() -> None:
    """MCP-I: one process a client, as `--stdio session` starts them."""
    names = ["everything", "server-everything"]
    plans = {name: plan(SESSION, name) for name in names}
    jobs = [
        {
            "name": name,
            "target": UPSTREAMS[name].stdio,
            "mode": "legacy",
            "plan": plans[name],
            "scenarios": EVERY_SCENARIO,
        }
        for name in names
    ]
    for name, seen in run_driver(PYTHON_DRIVER, jobs).items():
        assert {scenario: line["error"] for scenario, line in seen.items() if "error" in line} == {}
        assert seen.keys() == {*EVERY_SCENARIO, "end"}
        assert plans[name]["echo"]["tool"] in seen["lists"]["saw"]["tools"]
        assert seen["progress"]["saw"]["progress"] == plans[name]["progressed"]
