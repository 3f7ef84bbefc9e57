"""The client that the conformance suite judges: the Python SDK's, with the proxy before it.

The suite runs it with the URL of the server that it plays, and the scenario's name in its
environment. Owns the proxy for as long as it plays.

    client_via_proxy.py URL
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any  # values of a JSON schema

import anyio
import mcp_types as types
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPDeprecationWarning

PROXY = (sys.executable, "-m", "proxy_actors", "run", "--listen", "127.0.0.1:0")


async def accept_defaults(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult:
    """Accept, with the default of each property that has one (SEP-1034)."""
    assert isinstance(params, types.ElicitRequestFormParams)
    properties: dict[str, dict[str, Any]] = params.requested_schema["properties"]
    defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
    return types.ElicitResult(action="accept", content=defaults)


async def play(scenario: str, url: str) -> None:
    async with Client(url, mode="legacy", elicitation_callback=accept_defaults) as client:
        await client.list_tools()
        match scenario:
            case "tools_call":
                await client.call_tool("add_numbers", {"a": 5, "b": 3})
            case "elicitation-sep1034-client-defaults":
                await client.call_tool("test_client_elicitation_defaults", {})
            case "sse-retry":
                await client.call_tool("test_reconnection", {})


def main() -> None:
    with subprocess.Popen([*PROXY, sys.argv[1]], stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout
        try:
            url = next(line.split()[-1] for line in proxy.stdout if line.startswith("MCP endpoint"))
            anyio.run(play, os.environ["MCP_CONFORMANCE_SCENARIO"], url)
        finally:
            proxy.terminate()


if __name__ == "__main__":
    # Roots, sampling and logging are deprecated in the next era, and the subject of this one.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    main()
