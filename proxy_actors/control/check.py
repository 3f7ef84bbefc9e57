"""`proxy-actors check`: says everything that is wrong with a configuration, without starting."""

from __future__ import annotations

from collections.abc import Mapping

from proxy_actors.config import load, mcp_json, programs


def run(path: str, as_mcp_json: bool, environment: Mapping[str, str]) -> bool:
    """Print what was found; whether the proxy would start with the file.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    read = mcp_json.load if as_mcp_json else load.load
    loaded = read(path, environment)
    if loaded.config is not None:
        programs.warn_of_missing(loaded.config, loaded.problems, environment)
    print(loaded.problems.render())
    return loaded.config is not None
