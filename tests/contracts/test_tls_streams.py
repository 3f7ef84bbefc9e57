"""The contracts of byte streams, kept by TLS sessions too, and what is true of them alone.

DESIGN 5: tickets, ragged ends, handshake deadlines; RELIABILITY N18. The other side is
mostly Python's own, blocking, in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_actors.world.base import ByteStream, Listener, TlsClient, TlsServer
from proxy_actors.world.gevent_world import GeventWorld
from tests.certificates import LOCAL_NAMES, Authority
from tests.contracts.staging import soon
from tests.contracts.suites import CONTRACTS, Contract
from tests.contracts.test_gevent_world import keep

STREAM_CONTRACTS = {name: x for name, x in CONTRACTS.items() if name.startswith("suite_stream")}


class TlsWorld(GeventWorld):
    """A world in which everybody speaks TLS."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        authority = Authority(directory)
        certificate, key = map(str, authority.issue(*LOCAL_NAMES))
        self._server = TlsServer(certificate, key)
        self._client = TlsClient(str(authority.path))

    def listen(
        self,
        host: str,
        port: int,
        accept: Callable[[ByteStream], None] | None = None,
        tls: TlsServer | None = None,
    ) -> Listener:
        def serve(stream: ByteStream) -> None:
            stream.handshake(soon(self))
            assert accept is not None
            accept(stream)

        return super().listen(host, port, serve, self._server)

    def connect(
        self, host: str, port: int, deadline_s: float, tls: TlsClient | None = None
    ) -> ByteStream:
        return super().connect(host, port, deadline_s, self._client)


@pytest.mark.parametrize("contract", STREAM_CONTRACTS.values(), ids=STREAM_CONTRACTS.keys())
def test_tls_stream_keeps(contract: Contract, tmp_path: Path) -> None:
    keep(contract, TlsWorld(tmp_path))
