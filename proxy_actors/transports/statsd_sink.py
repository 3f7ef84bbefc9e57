"""Sends figures to a statsd server over UDP, with the `statsd` package.

Owns the socket. Packets stay below what a common network carries in one piece. The address is a
literal: who resolves may wait, and nothing here does. A packet that the kernel does not take at
once is lost and counted; one that nobody receives is lost without a trace, which is what UDP is
chosen for.
"""

from __future__ import annotations

from collections.abc import Sequence

from statsd.client.udp import StatsClient

from proxy_actors.errors import ConnectError
from proxy_actors.metrics import Figure, Kind

# An Ethernet frame of 1500 bytes, less the headers of IPv6 and UDP, and some for a tunnel.
PACKET_BYTES_MAX = 1432


class StatsdSink:
    """A `MetricSink`.

    Args:
        address: of the server, IPv4 or IPv6.

    Raises:
        ConnectError: there is no way to the address.
    """

    def __init__(self, address: str, port: int, prefix: str) -> None:
        try:
            self._client = _Client(address, port, prefix)
        except OSError as error:
            raise ConnectError(f"cannot send to {address} port {port}: {error}") from error

    def send(self, figures: Sequence[Figure]) -> tuple[int, str]:
        """See `MetricSink.send`."""
        client = self._client
        client.lost, client.error = 0, ""
        with client.pipeline() as pipeline:
            for figure in figures:
                for value in figure.values:
                    match figure.kind:
                        case Kind.COUNTER:
                            pipeline.incr(figure.name, _number(value))
                        case Kind.GAUGE:
                            pipeline.gauge(figure.name, _number(value))
                        case Kind.TIMER:
                            # Not `timing` with its rate, which would draw lots for each value: that
                            # has been done.
                            pipeline._send_stat(figure.name, _time(value, figure.rate), 1)
        return client.lost, client.error

    def close(self) -> None:
        """See `MetricSink.close`."""
        if self._client._sock is not None:
            self._client.close()


class _Client(StatsClient):  # type: ignore[misc]  # statsd has no type hints
    """Knows what it could not send, and never waits for the kernel."""

    def __init__(self, address: str, port: int, prefix: str) -> None:
        super().__init__(address, port, prefix, PACKET_BYTES_MAX, ":" in address)
        self.lost = 0
        self.error = ""
        self._sock.setblocking(False)
        try:
            self._sock.connect(self._addr)  # so that a refusal by the peer is told
        except OSError:
            self.close()
            raise

    def _send(self, data: str) -> None:
        packet = data.encode("ascii")
        try:
            try:
                self._sock.send(packet)
            except ConnectionRefusedError as error:
                # It tells of an earlier packet; this one was not sent.
                self.error = str(error)
                self._sock.send(packet)
        except OSError as error:
            self.lost += 1
            self.error = str(error)


def _number(value: float) -> float:
    """Return a number whose text has no exponent, which statsd does not read."""
    return round(value, 3) if value % 1 else int(value)


def _time(value_ms: float, rate: float) -> str:
    if rate == 1.0:
        return f"{value_ms:.3f}|ms"
    return f"{value_ms:.3f}|ms|@{f'{rate:.30f}'.rstrip('0')}"
