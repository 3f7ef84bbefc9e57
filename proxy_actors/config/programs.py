"""Looks for the programs of stdio servers where the guardian will look, before they are needed.

A command that is given on the command line and is not there is a slip of the pen, and the proxy
does not start. One that stands in a file may come with a mount or an update: it is warned of by
`check`, and tried again by the proxy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from proxy_actors.config.model import Config
from proxy_actors.config.positions import Path
from proxy_actors.config.problems import Problems
from proxy_actors.config.upstreams import Upstream
from proxy_actors.policy.child_environment import child_environment

_NOT_THERE = ("is not there", "correct its path")
_NOT_IN_PATH = ("is not in PATH", "install it or give its full path")
_NOT_EXECUTABLE = ("is not executable", "make it so: chmod +x")


def why_not_startable(
    program: str, cwd: str, environment: Mapping[str, str]
) -> tuple[str, str] | None:
    """Say what keeps a program from being started, and what helps; None when nothing does.

    Args:
        cwd: the directory that it is to be started in; empty for the proxy's own.
        environment: the whole environment of the child.
    """
    named = "/" in program
    folders = [""] if named else environment["PATH"].split(":")
    files = [os.path.join(cwd, folder, program) for folder in folders]
    found = [file for file in files if os.path.isfile(file)]
    if any(os.access(file, os.X_OK) for file in found):
        return None
    if found:
        return _NOT_EXECUTABLE
    return _NOT_THERE if named else _NOT_IN_PATH


def warn_of_missing(config: Config, problems: Problems, environment: Mapping[str, str]) -> None:
    """Warn of each program, and each directory to start one in, that is not there now."""
    for name, upstream in config.upstreams.items():
        for endpoint, server in upstream.servers().items():
            path = ("upstreams", name, *(("endpoints", endpoint) if endpoint else ()))
            if server.command:
                _warn_of_missing(path, server, problems, environment)


def _warn_of_missing(
    path: Path, server: Upstream, problems: Problems, environment: Mapping[str, str]
) -> None:
    if server.cwd and not os.path.isdir(server.cwd):
        problems.warn((*path, "cwd"), "there is no such directory")
        return
    childs = child_environment(environment, server.env)
    wrong = why_not_startable(server.command[0], server.cwd, childs)
    if wrong is not None:
        problems.warn((*path, "command"), f"the program {wrong[0]}", wrong[1])
