"""The one place where the proxy comes between the clients and a real server.

Owns the servers and proxies of one route, from the first use of an upstream to the end of the
route. Tests ask it for a URL through the fixture `endpoint`, and never learn the route.
"""

from __future__ import annotations

import sys
from pathlib import Path

from peers.processes import NotReadyError, Server, accepts, free_port, says_ready
from peers.upstreams import ROOT, UPSTREAMS, Upstream


class Endpoint:
    """Starts each upstream once for a route, on first use; stops all at the end."""

    def __init__(self, route: str, directory: Path) -> None:
        self.servers: list[Server] = []
        self._route = route
        self._directory = directory
        self._opened: dict[str, str | NotReadyError] = {}

    def __call__(self, name: str) -> str:
        """The URL at which clients reach the upstream of that name.

        Raises NotReadyError, with the server's log; what failed once is not tried again.
        """
        if name not in self._opened:
            try:
                self._opened[name] = self._open(UPSTREAMS[name])
            except NotReadyError as error:
                self._opened[name] = error
        opened = self._opened[name]
        if isinstance(opened, NotReadyError):
            raise opened
        return opened

    def stop(self) -> None:
        """Stop each proxy before what stands behind it."""
        for server in reversed(self.servers):
            server.stop()

    def _open(self, upstream: Upstream) -> str:
        match self._route:
            case "direct":
                return self._start_upstream(upstream)
            case "proxied-http":
                return self._start_proxy(upstream, self._start_upstream(upstream))
            case "proxied-stdio-session":
                return self._start_proxy(upstream, "--stdio", "session", "--", *upstream.stdio)
        raise ValueError(f"unknown route {self._route}")

    def _start_upstream(self, upstream: Upstream) -> str:
        port = free_port()
        server = self._start(upstream.name, upstream.on_port(port), port)
        server.wait_ready(accepts)
        return server.url

    def _start_proxy(self, upstream: Upstream, *target: str) -> str:
        port = free_port()
        name = f"proxy-of-{upstream.name}"
        command = [sys.executable, "-m", "proxy_actors", "run", "--listen", f"127.0.0.1:{port}"]
        command += ["--state-dir", str(self._directory / name), *target]
        proxy = self._start(name, command, port)
        proxy.wait_ready(says_ready)
        return proxy.url

    def _start(self, name: str, command: list[str], port: int) -> Server:
        server = Server(name, command, port, ROOT, self._directory / f"{name}.log")
        self.servers.append(server)
        return server
