"""What must hold between settings, and what is legal but looks like a mistake.

No text quotes a value: where one came from elsewhere, nobody knows what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from proxy_actors.config.interpolation import refers
from proxy_actors.config.model import Config, LimitKey, Rule
from proxy_actors.config.upstreams import Upstream
from proxy_actors.config.positions import Path
from proxy_actors.config.problems import Problems, suggestion
from proxy_actors.errors import ConfigurationError
from proxy_actors.options import (
    CheckKind,
    StdioMode,
    StreamKeep,
    parse_listen,
    parse_statsd,
    parse_url,
)

T = TypeVar("T")

_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|::1|localhost")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
_UNPINNED = re.compile(r"(@[\w.-]+/)?[\w.-]+")
_VARIABLE = re.compile(r"[^=]+")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HASH_ON = re.compile(r"principal|address|session|header:[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Fields that the proxy writes itself, or that belong to one connection.
_NOT_SETTABLE = re.compile(
    r"accept(-encoding)?|connection|content-(length|type)|date|expect|forwarded|host"
    r"|http2-settings|keep-alive|last-event-id|max-forwards|mcp-(protocol-version|session-id)"
    r"|proxy-.*|sec-.*|te|trailer|transfer-encoding|upgrade|via|x-forwarded-.*"
    r"|x-proxy-actors-.*|x-real-ip.*"
)
_ABOUT_SEVERAL = {
    "affinity", "balance", "hash-on", "outliers", "panic-percent", "slow-start-s",
}  # fmt: skip
_RESERVED_RULES = ("address", "initialize", "key-failures")
_SERVER_NAME = re.compile(r"(?!\.)[0-9A-Za-z_.:-]{1,253}")
_SECRET_NAME = re.compile(r"(?i)(token|secret|password|passwd|api_?key|authorization)")
_SHA256_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Rules:
    """Checks one configuration.

    Args:
        config: what was read; what could not be read has its default.
        raw: the tables as they stand in the file, to see what is there and what from elsewhere.
    """

    def __init__(self, config: Config, raw: Mapping[str, Any], problems: Problems) -> None:
        self._config = config
        self._raw = raw
        self._problems = problems

    def check(self) -> None:
        """Note everything that is wrong."""
        self._check_exposure()
        self._check_names()
        for name, upstream in self._config.upstreams.items():
            self._check_upstream(("upstreams", name), upstream)
        self._check_keys()
        names = set(_RESERVED_RULES)
        for path, rule in self._rows(("rate-limits", "rules"), self._config.rate_limits.rules):
            if rule.name in names:
                self._problems.error((*path, "name"), "this name is taken", at_value=True)
            names.add(rule.name)
            self._check_rule(path, rule)
        self._check_metrics()
        config = self._config
        if config.streams.store is StreamKeep.SQLITE and not config.state_dir:
            self._problems.warn(
                ("streams", "store"), "the state directory, where they would be kept, is not named",
                "set state-dir, or run with --state-dir",
            )

    def _check_exposure(self) -> None:
        """Look at who may reach the proxy, and at whom it serves."""
        config, problems = self._config, self._problems
        try:
            host = parse_listen(config.listen)[0]
        except ConfigurationError as error:
            problems.error(("listen",), _without(config.listen, error), at_value=True)
            host = ""
        mutual = config.tls is not None and config.tls.client_ca
        if host and not _LOOPBACK.fullmatch(host) and config.auth.anonymous and not mutual:
            problems.warn(
                ("listen",), "everybody who reaches this address can use every upstream",
                "add [[keys]] and set auth.anonymous = false",
            )
        if not config.auth.anonymous and not self._raw.get("keys"):
            problems.error(("auth", "anonymous"), "without keys nobody is served", "add [[keys]]")
        for number, origin in enumerate(config.http.allowed_origins):
            if not _ORIGIN.fullmatch(origin):
                place = ("http", "allowed-origins", number)
                text = "an origin is SCHEME://HOST or SCHEME://HOST:PORT"
                problems.error(place, text, at_value=True)

    def _check_names(self) -> None:
        config, problems = self._config, self._problems
        if not self._given(("upstreams",)) and not problems.concern(("upstreams",)):
            problems.error(("upstreams",), "there is no upstream", "add [upstreams.NAME]")
        self._check_upstream_name(("default-upstream",), config.default_upstream)

    def _check_upstream_name(self, path: Path, name: str) -> None:
        """Look for an upstream; one that has mistakes is there all the same."""
        known = self._given(("upstreams",))
        if name and name not in known:
            hint = suggestion(name, known)
            self._problems.error(path, "there is no such upstream", hint, at_value=True)

    def _check_upstream(self, path: Path, upstream: Upstream) -> None:
        problems, given = self._problems, self._given(path)
        if "endpoints" in given:
            kinds = self._check_endpoints(path, upstream)
        else:
            kinds = self._check_server(path, upstream)
            for key in sorted(given.keys() & _ABOUT_SEVERAL):
                problems.error((*path, key), f"{key} is about several endpoints")
        if not _HASH_ON.fullmatch(upstream.hash_on):
            text = "this is none of principal, address, session and header:NAME"
            problems.error((*path, "hash-on"), text, at_value=True)
        if len(kinds) != 1:
            return
        if "url" in kinds:
            misplaced = {"env", "cwd", "stdio", "children", "idle-stop-s", "sessions-max"}
            self._check_headers((*path, "headers"), upstream)
        else:
            misplaced = {
                "headers", "on-session-lost", "pool", "reconnect", "tls", "transport",
            }  # fmt: skip
            self._check_env((*path, "env"), upstream)
            if upstream.stdio is not StdioMode.POOL and "children" in given:
                problems.error((*path, "children"), 'children is about stdio = "pool"')
            if upstream.stdio is not StdioMode.SESSION and "sessions-max" in given:
                problems.error((*path, "sessions-max"), 'sessions-max is about stdio = "session"')
        self._check_health(path, upstream, "url" in kinds)
        for key in sorted(given.keys() & misplaced):
            kind = "a command" if "url" in kinds else "a url"
            problems.error((*path, key), f"{key} is about {kind}")
        if upstream.pool.adaptive_min > upstream.pool.connections_max:
            text = "adaptive-min is more than connections-max"
            problems.error((*path, "pool", "adaptive-min"), text)
        if upstream.pool.idle_min > upstream.pool.connections_max:
            problems.error((*path, "pool", "idle-min"), "idle-min is more than connections-max")

    def _check_endpoints(self, path: Path, upstream: Upstream) -> set[str]:
        """Check several servers; return what they are, which must be the same."""
        problems, kinds = self._problems, set[str]()
        if not self._given((*path, "endpoints")):
            problems.error((*path, "endpoints"), "there is no endpoint")
            return kinds
        for key in sorted(self._given(path).keys() & {"command", "url"}):
            problems.error((*path, key), f"with endpoints, each of them has its own {key}")
        for name, server in upstream.servers().items():
            place = (*path, "endpoints", name)
            kinds |= self._check_server(place, server)
            if server.command:
                self._check_env((*place, "env"), server)
        if len(kinds) > 1:
            problems.error((*path, "endpoints"), "the endpoints are either commands or urls")
        if upstream.endpoints and all(x.backup for x in upstream.endpoints.values()):
            problems.error((*path, "endpoints"), "an endpoint that is no backup is needed")
        return kinds

    def _check_server(self, path: Path, server: Upstream) -> set[str]:
        """Check what is a command or a URL; return which, where it is one of them."""
        given = self._given(path).keys() & {"command", "url"}
        if len(given) != 1:
            text = f"{path[-1]} needs either command or url, exactly one of them"
            self._problems.error(path, text)
            return set()
        if "url" in given:
            self._check_url((*path, "url"), server)
        else:
            self._check_command((*path, "command"), server)
        return set(given)

    def _check_health(self, path: Path, upstream: Upstream, has_url: bool) -> None:
        """Check how endpoints are checked, and for how long they are ejected."""
        problems, checks, outliers = self._problems, upstream.checks, upstream.outliers
        kind = checks.kind
        if kind in (CheckKind.HTTP, CheckKind.TCP) and not has_url:
            text = f'kind = "{kind}" is about a url; a command is checked by "ping"'
            problems.error((*path, "checks", "kind"), text)
        if kind is not CheckKind.HTTP and "path" in self._given((*path, "checks")):
            problems.error((*path, "checks", "path"), 'path is about kind = "http"')
        if outliers.max_ejection_s < outliers.base_ejection_s:
            place = (*path, "outliers", "max-ejection-s")
            problems.error(place, "max-ejection-s is less than base-ejection-s")

    def _check_url(self, path: Path, upstream: Upstream) -> None:
        problems, url = self._problems, upstream.url
        if problems.concern(path):
            return
        try:
            parts = urlsplit(parse_url(url))
        except ConfigurationError as error:
            problems.error(path, _without(url, error), at_value=True)
            return
        secure = parts.scheme == "https"
        table = path[:2]
        if not secure and upstream.headers and not _LOOPBACK.fullmatch(parts.hostname or ""):
            headers = (*table, "headers")
            problems.warn(headers, "headers are sent over plain http to another machine")
        tls = (*table, "tls")
        if "tls" in self._given(table) and not secure:
            problems.error(tls, "tls is about an https:// url")
        if bool(upstream.tls.certificate) != bool(upstream.tls.key):
            problems.error(tls, "certificate and key come together")
        if upstream.tls.server_name and not _SERVER_NAME.fullmatch(upstream.tls.server_name):
            text = "this is no name of a host, and no address"
            problems.error((*tls, "server-name"), text, at_value=True)

    def _check_headers(self, path: Path, upstream: Upstream) -> None:
        names: set[str] = set()
        for name, value in upstream.headers.items():
            twin = name.lower().replace("_", "-")
            if not _FIELD_NAME.fullmatch(name):
                self._problems.error((*path, name), "this is no name of a header field")
            elif not _FIELD_VALUE.fullmatch(value) or value != value.strip(" \t"):
                self._problems.error((*path, name), "this value cannot stand in a header field")
            elif _NOT_SETTABLE.fullmatch(twin):
                self._problems.error((*path, name), "the proxy says this itself")
            elif twin in names:
                self._problems.error((*path, name), "this field is there twice")
            names.add(twin)
            self._warn_of_literal_secret((*path, name), name)

    def _check_command(self, path: Path, upstream: Upstream) -> None:
        if self._problems.concern(path):
            return
        if not upstream.command or not upstream.command[0]:
            self._problems.error(path, "the command is empty", at_value=True)
            return
        program, *arguments = upstream.command
        if program.rpartition("/")[2] in ("npx", "uvx", "bunx"):
            package = next((word for word in arguments if not word.startswith("-")), "")
            if _UNPINNED.fullmatch(package):
                self._problems.warn(
                    path, "the package has no version: each start may bring another one",
                    "write PACKAGE@VERSION",
                )

    def _check_env(self, path: Path, upstream: Upstream) -> None:
        for name in upstream.env:
            if not _VARIABLE.fullmatch(name):
                self._problems.error((*path, name), "this is no name of a variable")
            self._warn_of_literal_secret((*path, name), name)

    def _warn_of_literal_secret(self, path: Path, name: str) -> None:
        written = self._written(path)
        if written and _SECRET_NAME.search(name.replace("-", "_")) and not refers(written):
            self._problems.warn(
                path, f"{name} is written in the file",
                "use ${VAR}, ${file:/path} or ${credential:name}",
            )

    def _check_keys(self) -> None:
        problems = self._problems
        digests: set[str] = set()
        tiers = {tier for rule in self._config.rate_limits.rules for tier in rule.tiers}
        for path, key in self._rows(("keys",), self._config.keys):
            digest = key.sha256.lower()
            if digest in digests:
                problems.error((*path, "sha256"), "this key is there twice")
            if digest == _SHA256_OF_NOTHING:
                problems.error((*path, "sha256"), "this is the digest of nothing")
            digests.add(digest)
            if key.id == "anonymous":
                problems.error((*path, "id"), "anonymous is who shows no key")
            if key.tier != "default" and key.tier not in tiers:
                hint = suggestion(key.tier, tiers)
                problems.warn((*path, "tier"), "no rule has a rate for this tier", hint)

    def _check_rule(self, path: Path, rule: Rule) -> None:
        problems = self._problems
        if problems.concern((*path, "key")):
            return
        if (rule.key is LimitKey.HEADER) != bool(rule.header):
            problems.error(path, 'header goes with key = "header", and the other way round')
        elif rule.header and not _FIELD_NAME.fullmatch(rule.header):
            problems.error((*path, "header"), "this is no name of a header field", at_value=True)
        self._check_upstream_name((*path, "upstream"), rule.upstream)
        if rule.tool and rule.method not in ("", "tools/call"):
            problems.error((*path, "method"), "a tool is called by tools/call", at_value=True)

    def _check_metrics(self) -> None:
        path, statsd = ("metrics", "statsd"), self._config.metrics.statsd
        if not statsd or self._problems.concern(path):
            return
        try:
            parse_statsd(statsd)
        except ConfigurationError as error:
            self._problems.error(path, _without(statsd, error), at_value=True)

    def _rows(self, path: Path, read: tuple[T, ...]) -> Iterator[tuple[Path, T]]:
        """Yield what was read of an array, each row with its own place."""
        rows = self._written(path)
        count = len(rows) if isinstance(rows, list) else 0
        paths = ((*path, number) for number in range(count))
        yield from zip((x for x in paths if self._problems.is_read(x)), read, strict=True)

    def _given(self, path: Path) -> Mapping[str, Any]:
        """Return a table as it stands in the file; empty where there is none."""
        table = self._written(path)
        return table if isinstance(table, dict) else {}

    def _written(self, path: Path) -> Any:
        """Return what stands in the file; None where nothing does."""
        value: Any = self._raw
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def _without(value: str, error: ConfigurationError) -> str:
    """Return what an error says, without the value that it quotes."""
    return str(error).replace(repr(value), "this")
