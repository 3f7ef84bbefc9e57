"""One line for each request that was answered, for those who want it.

It says who asked what of which upstream and what came of it: no body, no header, no session id, no
query, nothing that a client could make long.
"""

from __future__ import annotations

import logging

from proxy_actors.gateway.exchange import Exchange, request_name
from proxy_actors.protocol.http1_request import RequestHead

METHOD_CHARACTERS_MAX = 64

logger = logging.getLogger("proxy_actors.access")


def log_access(
    exchange_id: int, head: RequestHead, exchange: Exchange | None, status: int, seconds: float
) -> None:
    """Log one request.

    Args:
        exchange: what is known of it; None when its head was refused.
        status: of the answer; 0 when there was none.
        seconds: from its last byte to the answer's last byte.
    """
    peer = principal = upstream = "-"
    methods = ""
    if exchange is not None:
        peer, principal = exchange.client.peer, exchange.principal
        upstream = "-" if exchange.accepted.route is None else exchange.route.name
        methods = ",".join(message.method or "response" for message in exchange.messages)
    logger.info(
        "request_served request=%s peer=%s principal=%s upstream=%s http=%s mcp=%s status=%d "
        "seconds=%.4f",
        request_name(exchange_id), peer, principal, upstream, head.method.decode("ascii"),
        methods[:METHOD_CHARACTERS_MAX] or "-", status, seconds,
    )
