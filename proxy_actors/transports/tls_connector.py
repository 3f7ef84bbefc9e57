"""Owns the opening of TLS sessions with servers, and the contexts that they are made from.

One context for each settings, made once from files that are read once. A session that could not be
opened is told with its cause. A server of TLS 1.3 refuses this side's certificate only after the
handshake (RFC 8446 section 4.4.2.4), to whoever reads; it is logged here, once until one succeeds.
"""

from __future__ import annotations

import logging
import ssl
from functools import partial

from proxy_actors.errors import (
    ConnectError,
    ConnectFault,
    DeadlineError,
    HandshakeError,
    StreamClosedError,
)
from proxy_actors.transports.connector import Connector
from proxy_actors.transports.tls_context import client_context
from proxy_actors.transports.tls_stream import TlsStream
from proxy_actors.world.base import TlsClient

logger = logging.getLogger("proxy_actors.world")

_Server = tuple[str, int, TlsClient]


class TlsConnector:
    """Opens TLS sessions for one world.

    Args:
        connector: opens the connections below them.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._contexts: dict[TlsClient, ssl.SSLContext] = {}
        self._refusals: dict[_Server, str] = {}

    def prepare(self, settings: TlsClient) -> ssl.SSLContext:
        """See `World.prepare_tls`. Reading the system's authorities takes some 50 ms."""
        context = self._contexts.get(settings)
        if context is None:
            context = self._contexts[settings] = client_context(settings)
        return context

    def connect(
        self, host: str, port: int, deadline_s: float, settings: TlsClient
    ) -> TlsStream:
        """See `World.connect`. The deadline is that of the handshake as well."""
        context = self.prepare(settings)
        inner = self._connector.connect(host, port, deadline_s)
        stream: TlsStream | None = None
        failed = f"no TLS session with {host!r} port {port}"
        try:
            name = settings.server_name or host.rstrip(".")
            opening = TlsStream(inner, context, name, partial(self._judge, (host, port, settings)))
            opening.handshake(deadline_s)
            stream = opening
            return stream
        except DeadlineError as error:
            raise ConnectError(f"{failed} in time", ConnectFault.TIMEOUT) from error
        except HandshakeError as error:
            raise ConnectError(f"{failed}: {error}", error.fault) from error
        except (StreamClosedError, ValueError) as error:  # it left, or its name cannot be one
            raise ConnectError(f"{failed}: {error}", ConnectFault.TLS) from error
        finally:
            if stream is None:
                inner.close()

    def _judge(self, server: _Server, refusal: str) -> None:
        """Hear what a server has made of a session; "" is all that it should."""
        if not refusal:
            self._refusals.pop(server, None)
        elif self._refusals.get(server) != refusal:
            self._refusals[server] = refusal
            logger.warning("tls_refused host=%s port=%d error=%s", *server[:2], refusal)
