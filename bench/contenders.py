"""What is measured: each a way to reach the echo server, started on a core of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import Pinned, free_port

HERE = Path(__file__).parent
PROXY_CORE, LOAD_CORE = 1, 0
PROXY_ACTORS = "proxy_actors"
_NGINX_CONF = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
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
def upstream(port: int, core: int) -> Iterator[Pinned]:
    """Run the echo server."""
    with Pinned([python(), str(HERE / "echo_http.py"), str(port)], core, port) as process:
        yield process


@contextmanager
def alone() -> Iterator[Running]:
    """The echo server with nothing in front of it."""
    port = free_port()
    with upstream(port, PROXY_CORE) as process:
        yield Running(f"http://127.0.0.1:{port}/mcp", process)


@contextmanager
def nginx() -> Iterator[Running]:
    """One nginx worker that passes requests on over kept connections and knows nothing of MCP."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if binary is None:
        raise RuntimeError("nginx is not installed (Debian: apt install nginx-light)")
    port, behind = free_port(), free_port()
    with TemporaryDirectory() as directory:
        configuration = Path(directory, "nginx.conf")
        configuration.write_text(
            _NGINX_CONF.format(directory=directory, port=port, upstream=behind)
        )
        argv = [binary, "-c", str(configuration), "-p", directory, "-e", f"{directory}/error.log"]
        with upstream(behind, LOAD_CORE), Pinned(argv, PROXY_CORE, port) as process:
            yield Running(f"http://127.0.0.1:{port}/mcp", process)


@contextmanager
def proxy_actors() -> Iterator[Running]:
    """This project, with its defaults."""
    port, behind = free_port(), free_port()
    argv = [
        python(), "-m", "proxy_actors", "run", "--listen", f"127.0.0.1:{port}",
        f"http://127.0.0.1:{behind}/mcp",
    ]
    with upstream(behind, LOAD_CORE), Pinned(argv, PROXY_CORE, port) as process:
        yield Running(f"http://127.0.0.1:{port}/mcp", process)


Contender = Callable[[], "contextmanager[Running]"]
HTTP = {"echo server alone": alone, "nginx": nginx, PROXY_ACTORS: proxy_actors}
