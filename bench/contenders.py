"""What is measured: each a way to reach the echo server, started on a core of its own."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import Pinned, free_port

HERE = Path(__file__).parent
PEERS = HERE.parent / ".bench"
ECHO_HTTP = ("echo_http.py",)
ECHO_STDIO = "echo_stdio.py"
PROXY_CORE, LOAD_CORE = 1, 0
PROXY_ACTORS = "proxy_actors"
_NGINX_CONF = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 32768; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  keepalive_requests 1000000000;
  upstream echo {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://echo;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering {buffering};
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Running:
    """A contender that runs: where it is reached, and the process that is measured."""

    url: str
    process: Pinned


def python() -> str:
    """The interpreter whose packages are measured."""
    return sys.executable


@contextmanager
def upstream(server: Sequence[str], port: int, core: int) -> Iterator[Pinned]:
    """Run a server: a script of this directory, and its arguments after the port."""
    script, *arguments = server
    argv = [python(), str(HERE / script), str(port), *arguments]
    with Pinned(argv, core, port) as process:
        yield process


@contextmanager
def alone(server: Sequence[str] = ECHO_HTTP) -> Iterator[Running]:
    """A server with nothing in front of it."""
    port = free_port()
    with upstream(server, port, PROXY_CORE) as process:
        yield Running(f"http://127.0.0.1:{port}/mcp", process)


@contextmanager
def nginx(server: Sequence[str] = ECHO_HTTP, buffering: str = "on") -> Iterator[Running]:
    """One nginx worker that passes requests on over kept connections and knows nothing of MCP."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if binary is None:
        raise RuntimeError("nginx is not installed (Debian: apt install nginx-light)")
    port, behind = free_port(), free_port()
    with TemporaryDirectory() as directory:
        configuration = Path(directory, "nginx.conf")
        configuration.write_text(
            _NGINX_CONF.format(
                directory=directory, port=port, upstream=behind, buffering=buffering
            )
        )
        argv = [binary, "-c", str(configuration), "-p", directory, "-e", f"{directory}/error.log"]
        with upstream(server, behind, LOAD_CORE), Pinned(argv, PROXY_CORE, port) as process:
            yield Running(f"http://127.0.0.1:{port}/mcp", process)


@contextmanager
def proxy_actors() -> Iterator[Running]:
    """This project, with its defaults, and metrics that go to a statsd server."""
    port, behind = free_port(), free_port()
    with upstream(ECHO_HTTP, behind, LOAD_CORE), _statsd() as statsd:
        argv = [*_run(port, statsd), f"http://127.0.0.1:{behind}/mcp"]
        with Pinned(argv, PROXY_CORE, port) as process:
            yield Running(f"http://127.0.0.1:{port}/mcp", process)


def _run(port: int, statsd: int) -> list[str]:
    return [
        python(), "-m", "proxy_actors", "run", "--listen", f"127.0.0.1:{port}",
        "--statsd", f"127.0.0.1:{statsd}",
    ]


@contextmanager
def _statsd() -> Iterator[int]:
    """Listen where figures are sent to; the kernel drops what nobody reads."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        yield int(listening.getsockname()[1])


def stdio_server() -> list[str]:
    """The command of the stdio server, which moves itself to the core of the load."""
    return ["taskset", "-c", str(LOAD_CORE), python(), str(HERE / ECHO_STDIO)]


@contextmanager
def _in_front_of_stdio(argv: list[str], port: int) -> Iterator[Running]:
    with Pinned([*argv, *stdio_server()], PROXY_CORE, port, without=ECHO_STDIO) as process:
        yield Running(f"http://127.0.0.1:{port}/mcp", process)


def npm_mcp_proxy() -> AbstractContextManager[Running]:
    """The npm package mcp-proxy, with its defaults."""
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--"]
    return _in_front_of_stdio([str(PEERS / "node_modules/.bin/mcp-proxy"), *options], port)


def pypi_mcp_proxy() -> AbstractContextManager[Running]:
    """The PyPI package mcp-proxy, with its defaults."""
    port = free_port()
    options = ["--port", str(port), "--"]
    return _in_front_of_stdio([str(PEERS / "venv/bin/mcp-proxy"), *options], port)


@contextmanager
def proxy_actors_stdio() -> Iterator[Running]:
    """This project in front of a command, likewise: a process for each session."""
    port = free_port()
    with _statsd() as statsd, _in_front_of_stdio([*_run(port, statsd), "--"], port) as running:
        yield running


Contender = Callable[[], AbstractContextManager[Running]]
HTTP: dict[str, Contender] = {
    "echo server alone": alone, "nginx": nginx, PROXY_ACTORS: proxy_actors
}
STDIO: dict[str, Contender] = {
    "mcp-proxy (npm)": npm_mcp_proxy,
    "mcp-proxy (PyPI)": pypi_mcp_proxy,
    PROXY_ACTORS: proxy_actors_stdio,
}
