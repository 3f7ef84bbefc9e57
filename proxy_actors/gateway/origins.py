"""Which names a request may call the proxy by: the guard against DNS rebinding (THR-T3).

A page that rebinds its own name to a loopback address reaches the proxy with that name in Host, and
with its own origin in Origin. So both must name the proxy by a loopback name, by the address that
it listens on, or, when it listens on every address, by a literal address: a name can be rebound, a
literal cannot. Ports do not matter to that attack, and port mappings are common.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from proxy_actors.errors import RefusedError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})
_PORT = re.compile(r":\d*\Z")


class AllowedNames:
    """The names of one listener."""

    def __init__(self, listen_host: str) -> None:
        self._names = _LOOPBACK_NAMES | {listen_host.lower()}
        self._any_literal = listen_host in _WILDCARDS
        self._allows = lru_cache(maxsize=256)(self._judge)

    def check_host(self, host: bytes) -> None:
        """Check the authority of a request; empty is what a 1.0 client without Host has.

        Raises:
            RefusedError: 421, the name is not ours (RFC 9110 section 15.5.20).
        """
        if host and not self._allows(host):
            raise RefusedError(421, "this host name is not served here", close=True)

    def check_origin(self, origin: bytes) -> None:
        """Check an Origin field.

        Raises:
            RefusedError: 403 for a page from elsewhere, an opaque origin included (MCP-H-3).
        """
        _, scheme, authority = origin.partition(b"://")
        if not scheme or not self._allows(authority):
            raise RefusedError(403, "this origin is not allowed")

    def _judge(self, authority: bytes) -> bool:
        text = authority.decode("latin-1").lower()
        try:
            name = urlsplit(f"//{text}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        return self._any_literal and _is_literal(_PORT.sub("", text).strip("[]"))


def _is_literal(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
