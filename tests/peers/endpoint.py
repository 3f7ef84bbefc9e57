"""The one place where the proxy comes between the clients and a real server.

Owns every server and proxy of the test session, from the first use to the end. Tests ask for the
URL of an upstream by a route, and never learn what stands behind it.
"""

from __future__ import annotations

import os
import ssl
import sys
from functools import partial
from pathlib import Path
from threading import RLock

from peers.processes import NotReadyError, Server, accepts, free_port, says_ready
from peers.upstreams import (
    EVERYTHING,
    FORKED_SERVER,
    FORKING_SERVER,
    ROOT,
    UPSTREAMS,
    Upstream,
    on_port,
)
from tests.certificates import LOCAL_NAMES, Authority

FORKS = "forks"  # no route for clients: where forked_stdio gets its servers from
OLD = "old"  # nor this: servers of the transport of 2024-11-05
FAR = "far"  # nor this: the TLS server that a proxy reaches in TLS, a proxy itself
DIRECT = "direct"
HTTP = "http"
FOUND = "found"  # a server of the transport of 2024-11-05, which the proxy is to find out
TLS = "tls"
SESSION = "session"
SHARED = "shared"
POOL = "pool"
BEHIND = (DIRECT, FORKS, OLD, FAR)
ROUTES = (DIRECT, HTTP, FOUND, TLS, SESSION, SHARED, POOL)


class Endpoints:
    """Starts each upstream once for each route, on first use; any thread may ask."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = Authority(directory)
        self._certificate, self._key = self._authority.issue(*LOCAL_NAMES)
        self._servers: list[Server] = []
        self._locks: dict[tuple[str, str], RLock] = {}
        self._opened: dict[tuple[str, str], str | NotReadyError] = {}

    def url(self, route: str, upstream: str) -> str:
        """The URL at which clients reach the upstream of that name by that route.

        Raises NotReadyError, with the server's log; what failed once is not tried again.
        """
        key = (route, upstream)
        with self._locks.setdefault(key, RLock()):
            if key not in self._opened:
                try:
                    self._opened[key] = self._open(route, UPSTREAMS[upstream])
                except NotReadyError as error:
                    self._opened[key] = error
        opened = self._opened[key]
        if isinstance(opened, NotReadyError):
            raise opened
        return opened

    def sse_url(self, route: str, upstream: str) -> str:
        """The same for clients of the transport of 2024-11-05."""
        if route == DIRECT:
            return self.url(OLD, upstream)
        return self.url(route, upstream).removesuffix("/mcp") + "/sse"

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs to trust the servers of this session."""
        trusted = str(self._authority.path)
        return {**os.environ, "SSL_CERT_FILE": trusted, "NODE_EXTRA_CA_CERTS": trusted}

    def logs(self, route: str) -> list[tuple[str, str]]:
        """The name and log of each server of the route, and of those that may stand behind it."""
        shown = (route, *BEHIND)
        return [(each.name, each.log()) for each in self._servers if each.route in shown]

    def stop(self) -> None:
        """Stop the proxies, all at once, and then what stands behind them."""
        for behind in (False, True):
            servers = [each for each in self._servers if (each.route in BEHIND) == behind]
            for server in servers:
                server.ask_to_stop()
            for server in servers:
                server.stop()

    def _open(self, route: str, upstream: Upstream) -> str:
        match route:
            case "direct":
                return self._start_http(route, upstream, upstream.http, "/mcp")
            case "old":
                return self._start_http(route, upstream, upstream.sse, "/sse")
            case "forks":
                return self._start_forks(upstream)
            case "http":
                options = [self.url(DIRECT, upstream.name)]
            case "found":
                options = [self.url(OLD, upstream.name)]
            case "tls":
                return self._start_secured(route, upstream, self.url(FAR, upstream.name))
            case "far":
                return self._start_secured(route, upstream, self.url(DIRECT, upstream.name))
            case "session" | "shared":
                options = ["--stdio", route, "--", *self._command(upstream)]
            case "pool":
                options = ["--stdio", route, "--children", "2", "--", *self._command(upstream)]
            case _:
                raise ValueError(f"unknown route {route}")
        return self._start_proxy(route, upstream, options)

    def _command(self, upstream: Upstream) -> list[str]:
        if upstream.forked:
            return [*FORKED_SERVER, self.url(FORKS, EVERYTHING.name)]
        return [*upstream.stdio]

    def _start_http(
        self, route: str, upstream: Upstream, command: tuple[str, ...], path: str
    ) -> str:
        port = free_port()
        server = self._start(route, upstream, on_port(command, port))
        server.wait_ready(partial(accepts, port))
        return f"http://127.0.0.1:{port}{path}"

    def _start_forks(self, upstream: Upstream) -> str:
        path = self._directory / "forks"
        self._start(FORKS, upstream, [*FORKING_SERVER, str(path)]).wait_ready(path.exists)
        return str(path)

    def _start_proxy(self, route: str, upstream: Upstream, options: list[str]) -> str:
        port = free_port()
        command = [sys.executable, "-m", "proxy_actors", "run", "--listen", f"127.0.0.1:{port}"]
        command += ["--state-dir", str(self._directory / f"{route}-{upstream.name}"), *options]
        self._start(route, upstream, command).wait_ready(partial(says_ready, port))
        return f"http://127.0.0.1:{port}/mcp"

    def _start_secured(self, route: str, upstream: Upstream, url: str) -> str:
        """Start a proxy that speaks TLS to clients, and to the upstream where its URL says so."""
        file = self._directory / f"{route}-{upstream.name}.toml"
        trust = f'tls = {{ ca = "{self._authority.path}" }}' if url.startswith("https") else ""
        port = free_port()
        file.write_text(f"""
            listen = "127.0.0.1:{port}"
            state-dir = "{file.with_suffix("")}"
            [upstreams.far]
            url = "{url}"
            {trust}
            [tls]
            certificate = "{self._certificate}"
            key = "{self._key}"
        """)
        command = [sys.executable, "-m", "proxy_actors", "run", "--config", str(file)]
        trusting = ssl.create_default_context(cafile=str(self._authority.path))
        server = self._start(route, upstream, command)
        server.wait_ready(partial(says_ready, port, trusting))
        return f"https://127.0.0.1:{port}/mcp"

    def _start(self, route: str, upstream: Upstream, command: list[str]) -> Server:
        log = self._directory / f"{route}-{upstream.name}.log"
        server = Server(route, upstream.name, command, ROOT, log)
        self._servers.append(server)
        return server
