"""A session at a proxy over plain requests: opened, used, and begun anew when it is lost."""

from __future__ import annotations

import json
from typing import Any  # messages are JSON

import requests

VERSION = "2025-11-25"
ACCEPT = "application/json, text/event-stream"
ANSWER_WITHIN_S = 60


class HttpSession:
    """Who has one session at a time, or none yet.

    Attributes:
        session: the id of the one that is used; empty before the first.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = ""

    def open(self) -> str:
        """Open a session, and make it the one that is used; return its id."""
        self.session = ""
        params = {
            "protocolVersion": VERSION, "capabilities": {},
            "clientInfo": {"name": "c", "version": "1"},
        }  # fmt: skip
        answer = self.post({"id": 0, "method": "initialize", "params": params})
        self.session = answer.headers["mcp-session-id"]
        assert self.post({"method": "notifications/initialized"}).status_code == 202
        return self.session

    def post(self, message: dict[str, Any]) -> requests.Response:
        """Send a message within the session, if there is one."""
        fields = {"Accept": ACCEPT}
        if self.session:
            fields |= {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": VERSION}
        return requests.post(
            self.url, json={"jsonrpc": "2.0", **message}, headers=fields, timeout=ANSWER_WITHIN_S
        )


def result(answer: requests.Response) -> Any:
    """Return the JSON-RPC message in an answer of either form."""
    text = answer.text
    if answer.headers["content-type"] != "application/json":
        text = [line[6:] for line in text.splitlines() if line.startswith("data: {")][-1]
    return json.loads(text)
