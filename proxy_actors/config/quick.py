"""The configuration of a command line that names one server."""

from __future__ import annotations

from proxy_actors.config.model import Config, Upstream
from proxy_actors.options import RunOptions

UPSTREAM = "default"


def config_of(options: RunOptions) -> Config:
    """Make the configuration of `run -- COMMAND` or `run URL`."""
    upstream = Upstream(
        command=options.command or (),
        env=dict(options.env),
        stdio=options.stdio,
        children=options.children,
        url=options.url or "",
    )
    host = f"[{options.listen_host}]" if ":" in options.listen_host else options.listen_host
    return Config(
        listen=f"{host}:{options.listen_port}",
        state_dir=options.state_dir or "",
        upstreams={UPSTREAM: upstream},
    )
