"""Which names a request may call the proxy by: the guard against DNS rebinding (THR-T3).

A page that rebinds its own name to a loopback address reaches the proxy with that name in Host, and
with its own origin in Origin. So Host must name the proxy by a loopback name, by the address that
it listens on, or, when it listens on every address, by a literal address: a name can be rebound, a
literal cannot. A page's origin must be one of those names too; of literal addresses only the one in
Host, which is then the proxy's own, since pages are served from literal addresses as well. Ports do
not matter to that attack, and port mappings are common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from proxy_actors.errors import RefusedError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})
# RFC 6454 section 6.2: nothing follows the authority of an origin, nothing stands before its host.
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::[0-9]{0,5})?")


class AllowedNames:
    """The names of one listener.

    Args:
        listen_host: the address that it is bound to.
        hosts: further names that requests may be for.
        origins: further origins of pages that may send them.
    """

    def __init__(
        self, listen_host: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()
    ) -> None:
        further = {_normalized(name.lower()) for name in (listen_host, *hosts)}
        self._names = _LOOPBACK_NAMES | further
        self._origins = frozenset(origin.lower().encode("ascii") for origin in origins)
        self._any_literal = listen_host in _WILDCARDS

    def check_host(self, host: bytes) -> None:
        """Check the authority of a request; empty is what a 1.0 client without Host has.

        Raises:
            RefusedError: 421, the name is not ours (RFC 9110 section 15.5.20).
        """
        if not host:
            return
        name = _name_of(host)
        if name in self._names or (self._any_literal and _is_literal(name)):
            return
        raise RefusedError(421, "this host name is not served here", close=True)

    def check_origin(self, origin: bytes, host: bytes) -> None:
        """Check an Origin field beside the authority of its request, which has been checked.

        Raises:
            RefusedError: 403 for a page from elsewhere, an opaque origin included (MCP-H-3).
        """
        if origin.lower() in self._origins:
            return
        _, scheme, authority = origin.partition(b"://")
        name = _name_of(authority) if scheme else ""
        if name in self._names or (self._any_literal and name and name == _name_of(host)):
            return
        raise RefusedError(403, "this origin is not allowed")


@lru_cache(maxsize=256)
def _name_of(authority: bytes) -> str:
    """Return the host in lower case, addresses in their one spelling; "" if it is malformed."""
    match = _AUTHORITY.fullmatch(authority.decode("latin-1").lower())
    return _normalized(match[1] or match[2]) if match else ""


def _normalized(name: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        return name


def _is_literal(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
