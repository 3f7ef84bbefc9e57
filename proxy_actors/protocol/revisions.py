"""What differs between the session-era revisions of MCP, as far as a proxy acts upon it.

Owns the list of revisions and the names of the methods that the proxy itself understands or counts.
It is no list of allowed methods: an unknown one is the receiver's to refuse. Versions are
negotiated by the client and its server. The policies of stdio, the gateway, `jsonrpc` and the
meters read it.
"""

from __future__ import annotations

from typing import Final

SESSION_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LATEST: Final = SESSION_VERSIONS[-1]

INITIALIZE: Final = "initialize"
INITIALIZED: Final = "notifications/initialized"
PING: Final = "ping"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"
SET_LEVEL: Final = "logging/setLevel"
SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
# The methods by whose `uri` parameter it is decided who hears of a resource.
TOOLS_CALL: Final = "tools/call"
TOOLS_LIST: Final = "tools/list"
TOOLS_CHANGED: Final = "notifications/tools/list_changed"
URI_METHODS: Final = frozenset(
    (SUBSCRIBE, UNSUBSCRIBE, "notifications/resources/updated")
)
# What clients may send in one revision or another, tasks and list changes included.
CLIENT_METHODS: Final = (
    INITIALIZE, PING, TOOLS_CALL, "tools/list", "prompts/get", "prompts/list", "resources/list",
    "resources/read", SUBSCRIBE, "resources/templates/list", UNSUBSCRIBE,
    "completion/complete", SET_LEVEL, "tasks/cancel", "tasks/get", "tasks/list",
    "tasks/result", CANCELLED, INITIALIZED, PROGRESS, "notifications/roots/list_changed",
    "notifications/tasks/status",
)  # fmt: skip


def allows_batches(version: str) -> bool:
    """Whether the body of a POST may be an array: in 2025-03-26 alone."""
    return version == "2025-03-26"


def knows_priming(version: str) -> bool:
    """Whether clients know an event without data that only sets an id (2025-11-25 on)."""
    return version >= "2025-11-25"


def requires_version_header(version: str) -> bool:
    """Whether requests after `initialize` carry MCP-Protocol-Version (2025-06-18 on)."""
    return version >= "2025-06-18"
