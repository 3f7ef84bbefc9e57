"""What must hold between settings, and what is legal but looks like a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy_actors.config.interpolation import refers
from proxy_actors.config.model import Config, LimitKey, Upstream
from proxy_actors.config.positions import Path
from proxy_actors.config.problems import Problems, suggestion
from proxy_actors.errors import ConfigurationError
from proxy_actors.options import StdioMode, parse_listen, parse_url

_LOOPBACK = ("127.", "::1", "localhost")
_UNPINNED = re.compile(r"(@[\w.-]+/)?[\w.-]+")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_RESERVED_RULES = ("address", "initialize", "key-failures")
_SECRET_NAME = re.compile(r"(?i)(token|secret|password|passwd|api_?key|authorization)")


class Rules:
    """Checks one configuration.

    Args:
        config: what was read.
        raw: the tables as they stand in the file, to see what came from elsewhere.
    """

    def __init__(self, config: Config, raw: Mapping[str, Any], problems: Problems) -> None:
        self._config = config
        self._raw = raw
        self._problems = problems

    def check(self) -> None:
        """Note everything that is wrong."""
        config, problems = self._config, self._problems
        host = self._check_listen()
        if not config.upstreams and not problems.concern(("upstreams",)):
            problems.error(("upstreams",), "there is no upstream", "add [upstreams.NAME]")
        if config.default_upstream and config.default_upstream not in config.upstreams:
            problems.error(
                ("default-upstream",), f'there is no upstream "{config.default_upstream}"',
                suggestion(config.default_upstream, config.upstreams), at_value=True,
            )
        for name, upstream in config.upstreams.items():
            if not problems.concern(("upstreams", name)):
                self._check_upstream(("upstreams", name), upstream)
        self._check_keys()
        self._check_limits()
        exposed = bool(host) and not host.startswith(_LOOPBACK)
        if exposed and not config.keys and config.tls is None:
            problems.warn(
                ("listen",), f"everybody who reaches {host} can use every upstream",
                "add [[keys]] and set auth.anonymous = false",
            )
        if not config.keys and not config.auth.anonymous:
            problems.error(("auth", "anonymous"), "without keys nobody is served", "add [[keys]]")

    def _check_listen(self) -> str:
        try:
            return parse_listen(self._config.listen)[0]
        except ConfigurationError as error:
            self._problems.error(("listen",), str(error), at_value=True)
            return ""

    def _check_upstream(self, path: Path, upstream: Upstream) -> None:
        problems = self._problems
        given = self._given(path)
        if bool(upstream.command) == bool(upstream.url):
            problems.error(path, f"{path[1]} needs either command or url, exactly one of them")
            return
        if upstream.url:
            self._check_url(path, upstream)
            misplaced = given.keys() & {"env", "cwd", "stdio", "children", "sessions-max"}
        else:
            misplaced = given.keys() & {"headers", "pool", "tls"}
            self._check_command(path, upstream)
        for key in sorted(misplaced):
            kind = "a command" if upstream.url else "a url"
            problems.error((*path, key), f"{key} is about {kind}")
        if upstream.stdio is not StdioMode.POOL and "children" in given:
            problems.error((*path, "children"), 'children is about stdio = "pool"')
        if upstream.stdio is not StdioMode.SESSION and "sessions-max" in given:
            problems.error((*path, "sessions-max"), 'sessions-max is about stdio = "session"')
        if upstream.pool.idle_min > upstream.pool.connections_max:
            problems.error((*path, "pool", "idle-min"), "idle-min is more than connections-max")

    def _check_url(self, path: Path, upstream: Upstream) -> None:
        problems = self._problems
        try:
            parse_url(upstream.url)
        except ConfigurationError as error:
            problems.error((*path, "url"), str(error), at_value=True)
            return
        secure = upstream.url.startswith("https:")
        for name, value in upstream.headers.items():
            place = (*path, "headers", name)
            if not (_FIELD_NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(value)):
                problems.error(place, f"{name!r} is no header field, or its value no field's")
            self._warn_of_literal_secret(place, name, value)
        if bool(upstream.tls.certificate) != bool(upstream.tls.key):
            problems.error((*path, "tls"), "certificate and key come together")
        host = upstream.url.partition("://")[2]
        if upstream.headers and not secure and not host.startswith(_LOOPBACK):
            problems.warn((*path, "headers"), "headers are sent over plain http to another machine")
        if "tls" in self._given(path) and not secure:
            problems.error((*path, "tls"), "tls is about an https:// url")

    def _check_command(self, path: Path, upstream: Upstream) -> None:
        program, *arguments = upstream.command
        if program.rpartition("/")[2] in ("npx", "uvx", "bunx"):
            package = next((word for word in arguments if not word.startswith("-")), "")
            if _UNPINNED.fullmatch(package):
                self._problems.warn(
                    (*path, "command"), f"{package} has no version: each start may bring another",
                    f"write {package}@VERSION",
                )
        for name, value in upstream.env.items():
            self._warn_of_literal_secret((*path, "env", name), name, value)

    def _warn_of_literal_secret(self, path: Path, name: str, value: str) -> None:
        raw = self._given(path[:-1]).get(str(path[-1]), "")
        if value and _SECRET_NAME.search(name) and isinstance(raw, str) and not refers(raw):
            self._problems.warn(
                path, f"{name} is written in the file",
                "use ${VAR}, ${file:/path} or ${credential:name}",
            )

    def _check_keys(self) -> None:
        for what in ("id", "sha256"):
            seen: set[str] = set()
            for number, key in enumerate(self._config.keys):
                value = getattr(key, what).lower()
                if what == "sha256" and value in seen:
                    self._problems.error(("keys", number, what), "this key is there twice")
                seen.add(value)
        for number, key in enumerate(self._config.keys):
            if key.id == "anonymous":
                self._problems.error(("keys", number, "id"), "anonymous is who shows no key")
            if key.tier != "default" and key.tier not in self._tiers():
                self._problems.warn(
                    ("keys", number, "tier"), f'no rule has a rate for the tier "{key.tier}"',
                    suggestion(key.tier, self._tiers()),
                )

    def _tiers(self) -> set[str]:
        return {tier for rule in self._config.rate_limits.rules for tier in rule.tiers}

    def _check_limits(self) -> None:
        problems = self._problems
        seen: set[str] = set(_RESERVED_RULES)
        for path, rule in self._numbered_rules():
            if rule.name in seen:
                self._problems.error((*path, "name"), f'the name "{rule.name}" is taken')
            seen.add(rule.name)
            if problems.concern(path):
                continue
            if (rule.key is LimitKey.HEADER) != bool(rule.header):
                text = 'header goes with key = "header", and the other way round'
                self._problems.error(path, text)
            elif rule.header and not _FIELD_NAME.fullmatch(rule.header):
                self._problems.error((*path, "header"), "this is no name of a header field")
            if rule.upstream and rule.upstream not in self._config.upstreams:
                self._problems.error(
                    (*path, "upstream"), f'there is no upstream "{rule.upstream}"',
                    suggestion(rule.upstream, self._config.upstreams), at_value=True,
                )
            if rule.tool and rule.method not in ("", "tools/call"):
                self._problems.error((*path, "method"), "a tool is called by tools/call")

    def _numbered_rules(self) -> Iterator[tuple[Path, Any]]:
        for number, rule in enumerate(self._config.rate_limits.rules):
            yield ("rate-limits", "rules", number), rule

    def _given(self, path: Path) -> Mapping[str, Any]:
        """Return a table as it stands in the file; empty where there is none."""
        table: Any = self._raw
        for part in path:
            table = table.get(part, {}) if isinstance(table, dict) else {}
        return table if isinstance(table, dict) else {}
