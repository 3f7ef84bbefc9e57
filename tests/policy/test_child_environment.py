"""What a child process finds in its environment."""

from __future__ import annotations

import pytest

from proxy_actors.policy.child_environment import child_environment

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary", "PROXY_ACTORS_TOKEN": "canary", "GITHUB_TOKEN": "canary",
    "LD_PRELOAD": "/canary.so", "PYTHONPATH": "/canary", "PATHS": "canary", "path": "canary",
    "LC": "canary", "XLC_ALL": "canary",
}  # fmt: skip


def test_child_gets_nothing_of_the_proxys_secrets() -> None:
    """THR-T12, MCP-I-8."""
    inherited = child_environment({"HOME": "/h", "PATH": "/bin", **SECRETS}, {})
    assert inherited == {"HOME": "/h", "PATH": "/bin"}


@pytest.mark.parametrize(
    "name", ["HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR",
             "TZ", "USER"],
)  # fmt: skip
def test_child_gets_what_programs_need_to_run(name: str) -> None:
    assert child_environment({name: "value"}, {})[name] == "value"


def test_variables_that_were_asked_for_win() -> None:
    asked_for = {"API_KEY": "s", "PATH": "/opt/bin"}
    assert child_environment({"PATH": "/bin"}, asked_for) == {"API_KEY": "s", "PATH": "/opt/bin"}


def test_child_has_a_path_even_where_the_proxy_has_none() -> None:
    assert child_environment({}, {}) == {"PATH": "/usr/local/bin:/usr/bin:/bin"}
