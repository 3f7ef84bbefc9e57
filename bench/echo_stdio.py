"""The upstream of the stdio benchmarks: an MCP server that does as little as one can.

Whatever is measured in front of it must be slower than it is.
"""

from __future__ import annotations

import json
import sys

_CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'


def result_of(method: str, params: dict[str, object]) -> dict[str, object]:
    """Answer one request."""
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "echo", "version": "1"},
        }
    if method == "tools/call":
        arguments = params.get("arguments")
        text = arguments["message"] if isinstance(arguments, dict) else ""
        return {"content": [{"type": "text", "text": text}], "isError": False}
    if method == "tools/list":
        return {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
    return {}


def main() -> None:
    """Serve until the input ends."""
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" in message and "method" in message:
            if (message.get("params") or {}).get("name") == "broadcast":
                out.write(_CHANGED)
            result = result_of(message["method"], message.get("params") or {})
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            out.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
            out.flush()


if __name__ == "__main__":
    main()
