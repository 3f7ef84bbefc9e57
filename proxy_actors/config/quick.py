"""The configuration that a command line asks for: of one server, or of a file."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from proxy_actors.config.model import Config, ListenerTls, Metrics
from proxy_actors.config.upstreams import Upstream
from proxy_actors.config.programs import why_not_startable
from proxy_actors.errors import ConfigurationError
from proxy_actors.options import RunOptions
from proxy_actors.policy.child_environment import child_environment

UPSTREAM = "default"


def config_of(options: RunOptions, environment: Mapping[str, str]) -> tuple[Config, str]:
    """Make the configuration of `run`, and say what there is to tell about it.

    The address, the state directory and the statsd server of the command line go before those of a
    file.

    Raises:
        ConfigurationError: the file has errors, and the text tells them all; or the command is not
            there, or cannot be executed.
    """
    if options.config is not None or options.mcp_json is not None:
        from proxy_actors.config import load, mcp_json  # a command line needs neither to start

        loaded = (
            load.load_or_fail(options.config, environment)
            if options.config is not None
            else mcp_json.load_or_fail(str(options.mcp_json), environment)
        )
        assert loaded.config is not None
        config = loaded.config
        told = loaded.problems.render() if loaded.problems.found else ""
        given: dict[str, object] = {}
        if options.listen_given:
            given["listen"] = _listen(options)
        if options.state_dir is not None:
            given["state_dir"] = options.state_dir
        if options.statsd is not None:
            given["metrics"] = msgspec.structs.replace(config.metrics, statsd=options.statsd)
        if options.tls is not None:
            given["tls"] = _tls(options)
        return msgspec.structs.replace(config, **given), told
    if options.command:
        _look_for(options.command[0], dict(options.env), environment)
    upstream = Upstream(
        command=options.command or (),
        env=dict(options.env),
        stdio=options.stdio,
        children=options.children,
        url=options.url or "",
        transport=options.transport,
    )
    config = Config(
        listen=_listen(options),
        state_dir=options.state_dir or "",
        tls=_tls(options),
        upstreams={UPSTREAM: upstream},
        metrics=Metrics(statsd=options.statsd or ""),
    )
    return config, ""


def _look_for(
    program: str, env: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    wrong = why_not_startable(program, "", child_environment(environment, env))
    if wrong is not None:
        raise ConfigurationError(f"the command {program!r} {wrong[0]}: {wrong[1]}")


def _tls(options: RunOptions) -> ListenerTls | None:
    if options.tls is None:
        return None
    certificate, key = options.tls
    return ListenerTls(certificate=certificate, key=key)


def _listen(options: RunOptions) -> str:
    host = options.listen_host
    return f"{f'[{host}]' if ':' in host else host}:{options.listen_port}"
