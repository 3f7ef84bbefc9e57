"""What differs between the session-era revisions of MCP, as far as a proxy acts upon it.

Owns the list of revisions, the version negotiation and the names of the methods that the proxy
itself understands. It is no list of allowed methods: an unknown one is the receiver's to refuse.
Sessions, the gateway and `jsonrpc` read it.
"""

from __future__ import annotations

from typing import Final

SESSION_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LATEST: Final = SESSION_VERSIONS[-1]
# What a peer speaks that sends no MCP-Protocol-Version and is not known otherwise.
ASSUMED_VERSION: Final = "2025-03-26"

INITIALIZE: Final = "initialize"
INITIALIZED: Final = "notifications/initialized"
PING: Final = "ping"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"
# The methods by whose `uri` parameter it is decided who hears of a resource.
URI_METHODS: Final = frozenset(
    ("resources/subscribe", "resources/unsubscribe", "notifications/resources/updated")
)

# Messages from the server that clients of an earlier revision have no name for.
_FIRST_VERSION_OF: Final = {
    "elicitation/create": "2025-06-18",
    "notifications/elicitation/complete": "2025-11-25",
    "notifications/tasks/status": "2025-11-25",
    "tasks/get": "2025-11-25",
    "tasks/result": "2025-11-25",
    "tasks/list": "2025-11-25",
    "tasks/cancel": "2025-11-25",
}


def negotiate(requested: str) -> str:
    """Return the version that answers an `initialize` for `requested`.

    The same version if it is of the session era, else our latest; so is 2026-07-28 answered, which
    has no handshake (basic/lifecycle, "Version Negotiation").
    """
    return requested if requested in SESSION_VERSIONS else LATEST


def allows_batches(version: str) -> bool:
    """Whether the body of a POST may be an array: in 2025-03-26 alone."""
    return version == "2025-03-26"


def allows_priming(version: str) -> bool:
    """Whether a stream may begin with an event of an id and empty data (2025-11-25 on).

    Older clients parse the empty data as JSON and fail.
    """
    return version >= "2025-11-25"


def requires_version_header(version: str) -> bool:
    """Whether requests after `initialize` carry MCP-Protocol-Version (2025-06-18 on)."""
    return version >= "2025-06-18"


def may_receive(version: str, method: str) -> bool:
    """Whether a client of `version` may be sent the server's request or notification `method`.

    True for methods that no revision defines: they are the client's to refuse. Knows nothing of
    negotiated capabilities, nor of modes within a method such as elicitation by URL.
    """
    return version >= _FIRST_VERSION_OF.get(method, "")
