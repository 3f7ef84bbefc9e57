"""How long a TCP connection outlives a peer that vanished without a word.

A pulled cable, a dropped NAT entry or a dead virtual machine sends neither FIN nor RST. Used by the
listener and the connector; knows nothing of requests, whose own deadlines are mostly shorter.
"""

from __future__ import annotations

import _socket

UNACKNOWLEDGED_MAX_S = 30
IDLE_S = 30
PROBE_INTERVAL_S = 10


def detect_vanished_peer(connection: _socket.socket) -> None:
    """Break the connection when bytes or probes stay unacknowledged for 30 s.

    TCP_USER_TIMEOUT (RFC 5482) bounds both: unsent bytes, which would otherwise be retransmitted
    for a quarter of an hour, and keep-alive probes on an idle connection (RFC 9293 section 3.8.4),
    where it takes the place of a count of probes.
    """
    connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, IDLE_S)
    connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, PROBE_INTERVAL_S)
    connection.setsockopt(
        _socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MAX_S * 1000
    )
