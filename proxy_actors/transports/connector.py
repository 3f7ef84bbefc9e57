"""Owns the opening of connections: name to addresses, addresses to a socket, by a deadline.

The world calls it. Names are resolved by the hub's resolver, which must be an asynchronous one:
a look-up that nobody answers must hold up no other. Every connection asks anew, but where the name
servers fail or are silent, what they have said last goes on to be true for a while (RFC 8767); that
a name does not exist any more is an answer. Never retries or pools.
"""

from __future__ import annotations

import _socket
import errno
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from proxy_actors.errors import ConnectError, ConnectFault, DeadlineError, let_go
from proxy_actors.transports.deadlines import DeadlineSweep, HubWaiter, Parking
from proxy_actors.transports.fd_stream import WRITABLE
from proxy_actors.transports.keepalive import detect_vanished_peer
from proxy_actors.transports.socket_stream import SocketStream

# One address of several gets an equal share of the time left, but a TCP handshake that lost its
# first segment needs more than a second (RFC 6298 section 2).
ADDRESS_SHARE_MIN_S = 2.0

# RFC 8767 section 5: how long silence is waited for before old addresses are used, how old they may
# be, and for how many names they are kept.
STALE_AFTER_S = 1.8
STALE_S_MAX = 86_400.0
STALE_NAMES_MAX = 1024

_LOCALHOST = ("127.0.0.1", "::1")
# What a bad name or port raises, beside what the network does.
_UNUSABLE = (OSError, ValueError, OverflowError)
_NO_SUCH_NAME = frozenset({_socket.EAI_NONAME, _socket.EAI_NODATA})

# family, socket address as the kernel takes it
_Address = tuple[int, Any]  # Any: a pair for IPv4, four fields for IPv6
Spawn = Callable[[str, Callable[[], None]], object]

logger = logging.getLogger("proxy_actors.transports")


class Connector:
    """Opens connections for one world.

    Args:
        sweep: where waits are watched over.
        hub: the gevent hub, whose resolver is used.
        spawn: runs a function in a greenlet under an owner's name.
    """

    def __init__(self, sweep: DeadlineSweep, hub: Any, spawn: Spawn) -> None:  # Any: untyped
        self._sweep = sweep
        self._hub = hub
        self._spawn = spawn
        # By host and port: what was found last, and when.
        self._last_good: OrderedDict[tuple[str, int], tuple[list[_Address], float]] = OrderedDict()

    def connect(self, host: str, port: int, deadline_s: float) -> SocketStream:
        """See `World.connect`. Addresses are tried in the resolver's order, one at a time."""
        try:
            return self._connect_any(self._addresses(host, port, deadline_s), deadline_s)
        except _UNUSABLE as error:
            text = f"cannot connect to {host!r} port {port}: {_text(error)}"
            raise ConnectError(text, _fault(error)) from error
        except DeadlineError as error:
            text = f"cannot connect to {host!r} port {port} in time"
            raise ConnectError(text, ConnectFault.TIMEOUT) from error

    def resolve(self, host: str, port: int, deadline_s: float) -> str:
        """Return the first address of a host, as a literal.

        Raises:
            ConnectError: it has none, or it was not found by the deadline.
        """
        try:
            return str(self._addresses(host, port, deadline_s)[0][1][0])
        except _UNUSABLE as error:
            raise ConnectError(f"cannot resolve {host!r}: {_text(error)}") from error
        except DeadlineError as error:
            raise ConnectError(f"cannot resolve {host!r} in time") from error

    def _addresses(self, host: str, port: int, deadline_s: float) -> list[_Address]:
        known = _known_addresses(host, port)
        return self._resolve(host, port, deadline_s) if known is None else known

    def _resolve(self, host: str, port: int, deadline_s: float) -> list[_Address]:
        """Ask; fall back on what was found last."""
        before, found_s = self._last_good.get((host, port), ([], 0.0))
        if time.monotonic() - found_s > STALE_S_MAX:
            before = []
        try:
            wait_s = STALE_AFTER_S if before else math.inf
            return self._ask(host, port, min(deadline_s, time.monotonic() + wait_s))
        except (OSError, DeadlineError) as error:
            if not before or getattr(error, "errno", None) in _NO_SUCH_NAME:
                raise
            logger.warning("addresses_are_old host=%s error=%s", host, _text(error))
            return before

    def _note(self, host: str, port: int, found: list[_Address]) -> None:
        self._last_good[host, port] = found, time.monotonic()
        self._last_good.move_to_end((host, port))
        if len(self._last_good) > STALE_NAMES_MAX:
            self._last_good.popitem(last=False)

    def _ask(self, host: str, port: int, deadline_s: float) -> list[_Address]:
        """Ask the resolver in a greenlet of its own: it knows no deadline of ours."""
        waiter = HubWaiter(self._sweep)
        self._spawn("resolver", partial(self._look_up, host, port, waiter))
        try:
            addresses: list[_Address] = waiter.wait(deadline_s)
            return addresses
        finally:
            del waiter  # an error's traceback holds this frame, and the waiter the error

    def _look_up(self, host: str, port: int, waiter: HubWaiter) -> None:
        try:
            found = self._hub.resolver.getaddrinfo(
                host, port, 0, _socket.SOCK_STREAM, _socket.IPPROTO_TCP
            )
        except _UNUSABLE as error:
            waiter.fail(let_go(error))
        else:
            addresses = [(entry[0], entry[4]) for entry in found]
            self._note(host, port, addresses)  # also if it comes late
            waiter.set(addresses)

    def _connect_any(self, addresses: list[_Address], deadline_s: float) -> SocketStream:
        refusals: list[OSError | DeadlineError] = []
        for index, (family, address) in enumerate(addresses):
            now_s = time.monotonic()
            share_s = (deadline_s - now_s) / (len(addresses) - index)
            address_deadline_s = min(deadline_s, now_s + max(share_s, ADDRESS_SHARE_MIN_S))
            try:
                return self._connect_one(family, address, address_deadline_s)
            except (OSError, DeadlineError) as error:
                refusals.append(let_go(error))
        raise refusals.pop(0)

    def _connect_one(self, family: int, address: Any, deadline_s: float) -> SocketStream:
        connection = _socket.socket(family, _socket.SOCK_STREAM, _socket.IPPROTO_TCP)
        try:
            connection.setblocking(False)
            connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            detect_vanished_peer(connection)
            number = connection.connect_ex(address)
            if number == errno.EINPROGRESS:
                self._await_writable(connection.fileno(), deadline_s)
                number = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
            if connection.getsockname() == connection.getpeername():
                # Nobody listens: the kernel chose our own port as the source and TCP's
                # simultaneous open (RFC 9293 section 3.5) joined the socket to itself.
                raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            return SocketStream(self._sweep, connection, str(address[0]))
        except BaseException:
            connection.close()
            raise

    def _await_writable(self, fd: int, deadline_s: float) -> None:
        parking = Parking(self._sweep)
        watcher = self._sweep.loop.io(fd, WRITABLE)
        watcher.start(parking.unpark)
        try:
            parking.park(deadline_s)
        finally:
            watcher.stop()
            watcher.close()


def _known_addresses(host: str, port: int) -> list[_Address] | None:
    """Return the addresses that need no look-up: literals, and the loopback (RFC 6761, 6.3)."""
    names = _LOCALHOST if host.lower() in ("localhost", "localhost.") else (host,)
    try:
        return [
            (entry[0], entry[4])
            for name in names
            for entry in _socket.getaddrinfo(
                name, port, 0, _socket.SOCK_STREAM, _socket.IPPROTO_TCP, _socket.AI_NUMERICHOST
            )
        ]
    except _UNUSABLE:
        return None


def _fault(error: Exception) -> ConnectFault:
    match error:
        case _socket.gaierror() | UnicodeError():
            return ConnectFault.UNKNOWN_NAME
        case ConnectionRefusedError():
            return ConnectFault.REFUSED
        case TimeoutError():
            return ConnectFault.TIMEOUT
    return ConnectFault.UNREACHABLE


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
