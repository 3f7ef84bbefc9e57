"""The statsd server of npm, and what it has made of all that it was sent.

It never flushes while a test looks, so its sums are those of everything.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.processes import Server, accepts, free_port
from peers.upstreams import NODE, NODE_HOME

PROGRAM = NODE_HOME / "node_modules" / "statsd" / "stats.js"
FLUSH_MS = 24 * 3600 * 1000
# As Node prints an object: a name, quoted or not, and a number or a list of them.
_MEMBER = re.compile(r"'?([\w.-]+)'?: (-?[\d.e+]+|\[[^\]]*\])")


class StatsdServer:
    """A running server; `address` is where figures go."""

    def __init__(self, port: int, management_port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._port = port
        self._management_port = management_port

    def counters(self) -> dict[str, float]:
        """Everything counted, by name."""
        return {name: float(value) for name, value in self._ask("counters")}

    def gauges(self) -> dict[str, float]:
        """The last of each, by name."""
        return {name: float(value) for name, value in self._ask("gauges")}

    def timers(self) -> dict[str, list[float]]:
        """Every time that came, up to a hundred, by name."""
        return {
            name: [float(x) for x in re.findall(r"[\d.]+", value.partition("...")[0])]
            for name, value in self._ask("timers")
        }

    def hears(self) -> bool:
        """Send a count until it is heard."""
        if not accepts(self._management_port):
            return False
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"probe:1|c", ("127.0.0.1", self._port))
        return "probe" in self.counters()

    def _ask(self, command: str) -> list[tuple[str, str]]:
        with socket.create_connection(("127.0.0.1", self._management_port), timeout=30) as line:
            line.sendall(f"{command}\n".encode())
            text = b""
            while not text.endswith(b"END\n\n"):
                data = line.recv(65_536)
                assert data, text
                text += data
        return _MEMBER.findall(text.decode())


@contextmanager
def statsd_server(directory: Path) -> Iterator[StatsdServer]:
    """Run a server until the block ends."""
    port, management_port = free_port(), free_port()
    config = directory / "statsd.js"
    config.write_text(json.dumps({
        "address": "127.0.0.1", "port": port,
        "mgmt_address": "127.0.0.1", "mgmt_port": management_port,
        "flushInterval": FLUSH_MS, "backends": ["./backends/console"],
    }))  # fmt: skip
    command = [str(NODE), str(PROGRAM), str(config)]
    process = Server("statsd", "npm", command, directory, directory / "statsd.log")
    try:
        server = StatsdServer(port, management_port)
        process.wait_ready(server.hears)
        yield server
    finally:
        process.ask_to_stop()
        process.stop()
