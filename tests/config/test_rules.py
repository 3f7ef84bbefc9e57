"""What must hold between settings: each error, each warning, and none where all is well."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy_actors.config.rules import _NOT_SETTABLE
from proxy_actors.gateway.http_fields import _OUR_PREFIXES, _OURS
from proxy_actors.protocol.headers import HOP_BY_HOP
from tests.config.files import UPSTREAM, read, told

URL = '[upstreams.u]\nurl = "http://127.0.0.1:3000/mcp"\n'
ENDPOINT = '[upstreams.u.endpoints.a]\nurl = "http://127.0.0.1:3000/mcp"\n'
KEY = f'[[keys]]\nid = "ann"\nsha256 = "{"0" * 64}"\n'
CLOSED = "[auth]\nanonymous = false\n"
RULE = '[[rate-limits.rules]]\nname = "r"\nrate = 1\nburst = 1\n'
LITERAL = "(use ${VAR}, ${file:/path} or ${credential:name})"
EVERYBODY = (
    "warning: everybody who reaches this address can use every upstream"
    " (add [[keys]] and set auth.anonymous = false)"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # Where it listens.
        ('listen = "8808"\n' + URL, ["1:10 error: this is not HOST:PORT, such as 127.0.0.1:8808"]),
        ('listen = "::1:1"\n' + URL, [
            "1:10 error: this: write an IPv6 address in brackets: [::1]:8808"
        ]),
        ('listen = "a:70000"\n' + URL, ["1:10 error: this: a port is from 0 to 65535"]),
        # Where figures go.
        (URL + "[metrics]\nstatsd = 'h'", [
            "4:10 error: this is not HOST:PORT, such as 127.0.0.1:8808"
        ]),
        (URL + "[metrics]\nstatsd = 'h:0'", [
            "4:10 error: this: a statsd server has a port, mostly 8125"
        ]),
        # Upstreams.
        ("[upstreams]", ["1:2 error: there is no upstream (add [upstreams.NAME])"]),
        ('default-upstream = "uu"\n' + URL, [
            '1:20 error: there is no such upstream (did you mean "u"?)'
        ]),
        ("[upstreams.a]", ["1:12 error: a needs either command or url, exactly one of them"]),
        ("[upstreams.u.endpoints]", ["1:14 error: there is no endpoint"]),
        ("[upstreams.u.endpoints.a]\nweight = 2", [
            "1:24 error: a needs either command or url, exactly one of them"
        ]),
        (URL + '[upstreams.u.endpoints.a]\nurl = "http://b/mcp"', [
            "2:1 error: with endpoints, each of them has its own url"
        ]),
        (ENDPOINT + '[upstreams.u.endpoints.b]\ncommand = ["x"]', [
            "1:14 error: the endpoints are either commands or urls"
        ]),
        (ENDPOINT + "backup = true", ["1:14 error: an endpoint that is no backup is needed"]),
        (URL + 'balance = "hash"', ["3:1 error: balance is about several endpoints"]),
        (URL + "outliers = {}", ["3:1 error: outliers is about several endpoints"]),
        (UPSTREAM + 'checks = { kind = "http" }', [
            '3:12 error: kind = "http" is about a url; a command is checked by "ping"'
        ]),
        (URL + 'checks = { path = "/up" }', ['3:12 error: path is about kind = "http"']),
        (ENDPOINT + "[upstreams.u.outliers]\nmax-ejection-s = 1", [
            "4:1 error: max-ejection-s is less than base-ejection-s"
        ]),
        ("[upstreams.u]\nhash-on = 'header:'\n" + ENDPOINT, [
            "2:11 error: this is none of principal, address, session and header:NAME"
        ]),
        (URL + 'command = ["x"]', [
            "1:12 error: u needs either command or url, exactly one of them"
        ]),
        (URL + "env = {}\ncwd = ''\nstdio = 'pool'\nchildren = 1\nsessions-max = 1", [
            "3:1 error: env is about a command",
            "4:1 error: cwd is about a command",
            "5:1 error: stdio is about a command",
            "6:1 error: children is about a command",
            "7:1 error: sessions-max is about a command",
        ]),
        (UPSTREAM + 'transport = "sse"', ["3:1 error: transport is about a url"]),
        (UPSTREAM + "headers = {}\npool = {}\ntls = {}", [
            "3:1 error: headers is about a url",
            "4:1 error: pool is about a url",
            "5:1 error: tls is about a url",
        ]),
        (UPSTREAM + "children = 2", ['3:1 error: children is about stdio = "pool"']),
        (UPSTREAM + 'stdio = "shared"\nsessions-max = 2', [
            '4:1 error: sessions-max is about stdio = "session"'
        ]),
        (URL + "pool = { connections-max = 2, idle-min = 3 }", [
            "3:31 error: idle-min is more than connections-max"
        ]),
        (URL + "pool = { connections-max = 2, adaptive-min = 3 }", [
            "3:31 error: adaptive-min is more than connections-max"
        ]),
        (URL + "idle-stop-s = 5", ["3:1 error: idle-stop-s is about a command"]),
        # Commands.
        ("[upstreams.a]\ncommand = []", ["2:11 error: the command is empty"]),
        ("[upstreams.a]\ncommand = ['']", ["2:11 error: the command is empty"]),
        (UPSTREAM + "env = { 'A=B' = '', '' = '' }", [
            "3:9 error: this is no name of a variable",
            "3:21 error: this is no name of a variable",
        ]),
        # URLs.
        ("[upstreams.a]\nurl = ''", ["2:7 error: this is not an http:// or https:// URL"]),
        ("[upstreams.a]\nurl = 'http://a b/'", [
            "2:7 error: this: a URL has no spaces and no characters beyond ASCII"
        ]),
        ("[upstreams.a]\nurl = 'http://u:canary@h/'", [
            "2:7 error: a URL must not hold a user name or password"
        ]),
        ("[upstreams.a]\nurl = 'http://u:can/ary@h/'", [
            "2:7 error: this is not a URL with a host and a port"
        ]),
        (URL + "tls = {}", ["3:1 error: tls is about an https:// url"]),
        ("[upstreams.a]\nurl = 'https://h/'\ntls = { key = 'k' }", [
            "3:1 error: certificate and key come together",
        ]),
        ("[upstreams.a]\nurl = 'https://h/'\ntls = { server-name = 'a/b' }", [
            "3:23 error: this is no name of a host, and no address"
        ]),
        # Header fields.
        (URL + "headers = { 'a b' = '', A = \"\\n\", B = ' x', '\u00fc' = '' }", [
            "3:13 error: this is no name of a header field",
            "3:25 error: this value cannot stand in a header field",
            "3:35 error: this value cannot stand in a header field",
            "3:45 error: this is no name of a header field",
        ]),
        (URL + "headers = { HOST = 'h', X_Forwarded_For = 'h' }", [
            "3:13 error: the proxy says this itself",
            "3:25 error: the proxy says this itself",
        ]),
        (URL + "headers = { X-A = '1', x_a = '2' }", ["3:24 error: this field is there twice"]),
        # Pages.
        (URL + "[http]\nallowed-origins = ['https://a/', 'a', 'https://a:1']", [
            "4:20 error: an origin is SCHEME://HOST or SCHEME://HOST:PORT",
            "4:34 error: an origin is SCHEME://HOST or SCHEME://HOST:PORT",
        ]),
        # Keys.
        (URL + CLOSED, ["4:1 error: without keys nobody is served (add [[keys]])"]),
        (URL + KEY + KEY.replace("ann", "bob"), ["8:1 error: this key is there twice"]),
        (URL + KEY.replace("ann", "anonymous"), ["4:1 error: anonymous is who shows no key"]),
        (URL + KEY.replace("0" * 64, "E3B0C44298FC1C149AFBF4C8996FB924"
                           "27AE41E4649B934CA495991B7852B855"), [
            "5:1 error: this is the digest of nothing"
        ]),
        # Rate limits.
        (URL + RULE + RULE, ["8:8 error: this name is taken"]),
        (URL + RULE.replace('"r"', '"initialize"'), ["4:8 error: this name is taken"]),
        (URL + RULE + 'key = "header"', [
            '3:15 error: header goes with key = "header", and the other way round'
        ]),
        (URL + RULE + 'header = "x"', [
            '3:15 error: header goes with key = "header", and the other way round'
        ]),
        (URL + RULE + 'key = "header"\nheader = "a b"', [
            "8:10 error: this is no name of a header field"
        ]),
        (URL + RULE + 'upstream = "v"', ["7:12 error: there is no such upstream"]),
        (URL + RULE + 'tool = "t"\nmethod = "tools/list"', [
            "8:10 error: a tool is called by tools/call"
        ]),
    ],
)
def test_error_is_told_at_its_place(tmp_path: Path, text: str, said: list[str]) -> None:
    loaded = read(tmp_path, text)
    assert told(loaded) == said
    assert loaded.config is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('listen = "0.0.0.0:1"\n' + URL, [f"1:1 {EVERYBODY}"]),
        ('listen = "[::]:1"\n' + URL, [f"1:1 {EVERYBODY}"]),
        ('listen = "127.0.0.1.example.com:1"\n' + URL, [f"1:1 {EVERYBODY}"]),
        ('listen = "0.0.0.0:1"\n' + URL + KEY, [f"1:1 {EVERYBODY}"]),
        ("[upstreams.a]\ncommand = ['npx', '-y', 'some-server', '.']", [
            "2:1 warning: the package has no version: each start may bring another one"
            " (write PACKAGE@VERSION)"
        ]),
        ("[upstreams.a]\ncommand = ['/usr/bin/uvx', '@scope/some-server']", [
            "2:1 warning: the package has no version: each start may bring another one"
            " (write PACKAGE@VERSION)"
        ]),
        (UPSTREAM + "env = { API_TOKEN = 'canary' }", [
            f"3:9 warning: API_TOKEN is written in the file {LITERAL}"
        ]),
        (URL + "headers = { Authorization = 'canary', X-Api-Key = 'canary' }", [
            f"3:13 warning: Authorization is written in the file {LITERAL}",
            f"3:39 warning: X-Api-Key is written in the file {LITERAL}",
        ]),
        (URL + "[streams]\nstore = 'sqlite'", [
            "4:1 warning: the state directory, where they would be kept, is not named"
            " (set state-dir, or run with --state-dir)"
        ]),
        ("[upstreams.a]\nurl = 'http://192.0.2.1/mcp'\nheaders = { A = 'x' }", [
            "3:1 warning: headers are sent over plain http to another machine"
        ]),
        ("[upstreams.a]\nurl = 'http://127.0.0.1.example.com/'\nheaders = { A = 'x' }", [
            "3:1 warning: headers are sent over plain http to another machine"
        ]),
        (URL + KEY + 'tier = "glod"\n' + RULE + "tiers = { gold = { rate = 1, burst = 1 } }", [
            '6:1 warning: no rule has a rate for this tier (did you mean "gold"?)'
        ]),
    ],
)
def test_what_is_legal_but_odd_is_a_warning(tmp_path: Path, text: str, said: list[str]) -> None:
    loaded = read(tmp_path, text)
    assert told(loaded) == said
    assert loaded.config is not None


@pytest.mark.parametrize(
    "text",
    [
        URL,
        UPSTREAM,
        'listen = "localhost:0"\n' + URL,
        'listen = "[::1]:0"\n' + URL,
        'listen = "0.0.0.0:1"\n' + URL + KEY + CLOSED,
        'default-upstream = "u"\n' + URL,
        "[upstreams.a]\ncommand = ['npx', '-y', '@scope/server@1.2']",
        "[upstreams.a]\ncommand = ['npx']",
        URL + "[logs]\naccess = true",
        "state-dir = 'd'\n" + URL + "[streams]\nstore = 'sqlite'",
        UPSTREAM + "env = { API_TOKEN = '${T}', 'with-dash' = '' }",
        UPSTREAM + 'stdio = "pool"\nchildren = 2',
        UPSTREAM + "sessions-max = 2",
        URL + "headers = { Authorization = 'Bearer ${T}', Cookie = '${T}', X-A = '' }",
        "[upstreams.a]\nurl = 'http://[::1]:1/mcp'\nheaders = { A = 'x' }",
        URL + "[http]\nallowed-origins = ['https://a', 'http://b:1', 'vscode-file://app']",
        URL + KEY + KEY.replace("0" * 64, "1" * 64),  # two keys of one principal
        URL + KEY + 'tier = "gold"\n' + RULE + "tiers = { gold = { rate = 1, burst = 1 } }",
        URL + RULE + 'key = "header"\nheader = "x-tenant"\nupstream = "u"\ntool = "t"',
        URL + RULE + 'tool = "t"\nmethod = "tools/call"',
    ],
)
def test_what_is_well_is_not_talked_about(tmp_path: Path, text: str) -> None:
    loaded = read(tmp_path, text, {"T": "token"})
    assert told(loaded) == []
    assert loaded.config is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('default-upstream = "a"\nupstreams.a = 1', ["2:15 error: upstreams.a must be a table"]),
        (URL + CLOSED + '[[keys]]\nid = "a"', ['5:3 error: "sha256" is missing in keys[0]']),
        (URL + RULE + 'key = "haeder"\nheader = "x"', [
            "7:7 error: rate-limits.rules[0].key: must be one of"
            ' principal, address, session, header, all (did you mean "header"?)'
        ]),
        ("[upstreams.a]\nurl = 1", ["2:7 error: upstreams.a.url: expected str, got int"]),
        ("[upstreams.a]\ncommand = 1", [
            "2:11 error: upstreams.a.command: expected array, got int"
        ]),
    ],
)
def test_mistake_is_told_once(tmp_path: Path, text: str, said: list[str]) -> None:
    """What follows from it alone is none."""
    assert told(read(tmp_path, text)) == said


def test_no_field_of_the_proxys_own_can_be_set() -> None:
    """But credentials, which are the operator's to give, and where a request comes from."""
    settable = {b"authorization", b"cookie", b"origin", b"referer", b"x-api-key"}
    ours = (HOP_BY_HOP | _OURS) - settable | {prefix + b"x" for prefix in _OUR_PREFIXES}
    assert [name for name in ours if not _NOT_SETTABLE.fullmatch(name.decode())] == []
    assert [name for name in settable if _NOT_SETTABLE.fullmatch(name.decode())] == []
