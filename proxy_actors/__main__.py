"""The command line: reads arguments, then hands over to the one module that does the work.

Owns the verbs, their options and the exit codes. Imports nothing but argparse until a verb is
known, so that help and mistakes are answered at once; never touches the network or a file itself.

Exit codes: 0 done, 1 failed, 2 wrong usage, 69 the other side is unavailable, 78 configuration
(BSD sysexits), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from proxy_actors import __version__

if TYPE_CHECKING:
    from proxy_actors.options import RunOptions

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNAVAILABLE = 69
EXIT_CONFIGURATION = 78
EXIT_INTERRUPTED = 130

TIMEOUT_S_MAX = 86_400
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"
LOG_LEVELS = ("debug", "info", "warning", "error")

_DESCRIPTION = "A reverse proxy for the Model Context Protocol in which everything is an actor."
_EPILOG = """\
examples:
  proxy-actors run -- python3 -m proxy_actors.demo
  proxy-actors call http://127.0.0.1:8808/mcp echo message=hello
"""
_RUN_DESCRIPTION = """\
Serve one MCP server at http://HOST:PORT/mcp: a COMMAND that speaks on its standard input and
output, or the URL of a server that speaks HTTP. Or serve all that a file names, each at /mcp/NAME.
"""
_CALL_DESCRIPTION = """\
Call one tool and print what it returns. A value that is JSON (5, true, null, {"a": 1}, "5") is
sent as that, any other one as a string. An API key is taken from the variable PROXY_ACTORS_KEY.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that `argv` (by default the process's arguments) names; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, verbs = _build_parsers()
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)  # help and version end here
        parser.error(f"name a verb: {', '.join(verbs)}")
    verb, *rest = arguments
    if verb not in verbs:
        parser.error(f"unknown verb {verb!r}{_did_you_mean(verb, verbs)}")
    act = {"run": _run, "call": _call, "check": _check, "key": _key, "version": _version}[verb]
    return _guarded(act, verbs[verb], rest)


def _build_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="proxy-actors",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"proxy-actors {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    run = verbs.add_parser(
        "run",
        help="serve one MCP server",
        description=_RUN_DESCRIPTION,
        usage="proxy-actors run [OPTIONS] (-- COMMAND [ARGUMENT ...] | URL | --config FILE)",
        allow_abbrev=False,
    )
    _add_run_options(run)
    call = verbs.add_parser(
        "call", help="call one tool", description=_CALL_DESCRIPTION, allow_abbrev=False
    )
    call.add_argument("url", metavar="URL", help="the MCP endpoint, http://HOST:PORT/mcp")
    call.add_argument("tool", metavar="TOOL", help="the name of the tool")
    call.add_argument(
        "arguments", metavar="key=value", nargs="*", default=[], help="the tool's arguments"
    )
    call.add_argument("--json", action="store_true", help="print the whole result as JSON")
    call.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        default=60.0,
        help="give up after that many seconds (default: 60)",
    )
    check = verbs.add_parser(
        "check", help="say what is wrong with a configuration file", allow_abbrev=False
    )
    check.add_argument("file", metavar="FILE", help="a TOML file, or an mcpServers file (*.json)")
    key = verbs.add_parser("key", help="make an API key", allow_abbrev=False)
    key.add_argument("act", metavar="new", choices=("new",), help="the only thing to do with keys")
    key.add_argument("--id", metavar="NAME", default="me", help="whose it is (default: me)")
    version = verbs.add_parser("version", help="print the version", allow_abbrev=False)
    return parser, {"run": run, "call": call, "check": check, "key": key, "version": version}


def _add_run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument("targets", metavar="URL", nargs="*", help="the URL of an MCP server")
    run.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="the address to serve at (default: 127.0.0.1:8808)",
    )
    run.add_argument(
        "--config", metavar="FILE", help="serve what a TOML file says; see docs/configuration.md"
    )
    run.add_argument(
        "--mcp-json", metavar="FILE", help="serve the mcpServers of an MCP client's file"
    )
    run.add_argument(
        "--state-dir",
        metavar="DIR",
        help="where sessions outlive a restart (default: they do not)",
    )
    run.add_argument(
        "--transport",
        choices=("auto", "streamable", "sse"),
        help="what the server at URL speaks: Streamable HTTP, HTTP+SSE, or find it out"
        " (default: auto)",
    )
    run.add_argument(
        "--stdio",
        choices=("session", "shared", "pool"),
        help="a process for each session, one for all, or a pool of them (default: session)",
    )
    run.add_argument(
        "--children", metavar="N", type=int, help="the processes of --stdio pool (default: 4)"
    )
    run.add_argument(
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="set a variable for COMMAND, or pass one on, which the process list does not show;"
        " may be repeated",
    )
    run.add_argument(
        "--tls-certificate", metavar="FILE", help="serve in TLS: a PEM file with the certificate"
    )
    run.add_argument("--tls-key", metavar="FILE", help="a PEM file with the certificate's key")
    run.add_argument(
        "--statsd", metavar="HOST:PORT", help="send metrics to a statsd server; see docs/metrics.md"
    )
    run.add_argument(
        "--log-level", choices=LOG_LEVELS, help="how much is logged (default: as in logging.ini)"
    )
    run.add_argument(
        "--logging",
        metavar="FILE",
        help="a logging.ini (default: /etc/proxy_actors/logging.ini, else the packaged one)",
    )


def _guarded(
    act: Callable[[argparse.ArgumentParser, list[str]], int],
    parser: argparse.ArgumentParser,
    arguments: list[str],
) -> int:
    """Act, and turn the errors that are meant for people into one line and an exit code."""
    from proxy_actors import errors

    try:
        return act(parser, arguments)
    except errors.ConfigurationFileError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except errors.ConfigurationError as error:
        return _fail(error, EXIT_CONFIGURATION)
    except errors.ConnectError as error:
        return _fail(error, EXIT_UNAVAILABLE)
    except errors.ProxyActorsError as error:
        return _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _fail(error: Exception, exit_code: int) -> int:
    from proxy_actors.logs import printable

    print(f"proxy-actors: {printable(str(error))}", file=sys.stderr)
    return exit_code


def _run(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    options = _read_run_options(parser, arguments)
    from proxy_actors import service

    return service.run(options)


def _call(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    known = parser.parse_intermixed_args(arguments)
    from proxy_actors import options
    from proxy_actors.control import call
    from proxy_actors.errors import ConfigurationError

    try:
        url = options.parse_url(known.url)
        values = call.parse_arguments(known.arguments)
    except ConfigurationError as error:
        parser.error(str(error))
    if not 0 < known.timeout <= TIMEOUT_S_MAX:
        parser.error(f"--timeout is from 0 to {TIMEOUT_S_MAX} seconds")
    succeeded = call.run(url, known.tool, values, timeout_s=known.timeout, as_json=known.json)
    return EXIT_OK if succeeded else EXIT_FAILED


def _check(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    file = parser.parse_args(arguments).file
    from proxy_actors.control import check

    fit = check.run(file, file.endswith(".json"), os.environ)
    return EXIT_OK if fit else EXIT_CONFIGURATION


def _key(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    known = parser.parse_args(arguments)
    if not re.fullmatch(NAME_PATTERN, known.id):
        parser.error("--id has letters, digits, - and _, in lower case, 63 at the most")
    from proxy_actors.control import key

    key.run(known.id)
    return EXIT_OK


def _version(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    parser.parse_args(arguments)
    print(f"proxy-actors {__version__}")
    return EXIT_OK


def _read_run_options(parser: argparse.ArgumentParser, arguments: list[str]) -> RunOptions:
    """Read the arguments of `run`; anything wrong with them ends the process with status 2."""
    from proxy_actors import options
    from proxy_actors.errors import ConfigurationError

    # What follows the first `--` belongs to the command, whatever it looks like.
    own, command = arguments, None
    if "--" in arguments:
        cut = arguments.index("--")
        own, command = arguments[:cut], tuple(arguments[cut + 1:])
    known, unknown = parser.parse_known_args(own)
    _refuse_misplaced(parser, known, unknown, command)
    try:
        host, port = options.parse_listen(known.listen or options.LISTEN_DEFAULT)
        return options.RunOptions(
            listen_host=host,
            listen_port=port,
            command=command,
            url=options.parse_url(known.targets[0]) if known.targets else None,
            config=known.config,
            mcp_json=known.mcp_json,
            transport=options.Transport(known.transport or options.Transport.AUTO),
            listen_given=known.listen is not None,
            state_dir=known.state_dir,
            stdio=options.StdioMode(known.stdio or options.StdioMode.SESSION),
            children=options.CHILDREN_DEFAULT if known.children is None else known.children,
            env=tuple(options.parse_env(entry, os.environ) for entry in known.env),
            tls=(known.tls_certificate, known.tls_key) if known.tls_key else None,
            log_level=known.log_level,
            logging_ini=known.logging,
            statsd=known.statsd,
        )
    except ConfigurationError as error:
        parser.error(str(error))


def _refuse_misplaced(
    parser: argparse.ArgumentParser,
    known: argparse.Namespace,
    unknown: list[str],
    command: tuple[str, ...] | None,
) -> None:
    """Tell what cannot be where it is; most often a command without its `--`."""
    if command is None and known.targets and "://" not in known.targets[0]:
        word = known.targets[0]
        parser.error(f"{word!r} is not a URL; start a command with: proxy-actors run -- {word}")
    if unknown:
        meant = _did_you_mean(unknown[0], re.findall(r"--[a-z-]+", parser.format_help()))
        parser.error(f"unknown option {unknown[0]!r}{meant}; a COMMAND's own stand behind --")
    if len(known.targets) > 1:
        parser.error(f"one URL at a time, not {len(known.targets)}")
    if known.targets and command is not None:
        parser.error("give either a COMMAND or a URL, not both")
    if (known.config or known.mcp_json) and (known.targets or command is not None):
        parser.error("a file says what is served: leave out the COMMAND or the URL")
    if command is None and (known.stdio or known.children is not None or known.env):
        parser.error("--stdio, --children and --env are about a COMMAND")
    if known.transport and not known.targets:
        parser.error("--transport is about a URL")
    if bool(known.tls_certificate) != bool(known.tls_key):
        parser.error("--tls-certificate and --tls-key come together")
    if known.tls_key and known.config:
        parser.error("--tls-certificate and --tls-key stand in the file, as [tls]")
    if known.children is not None and known.stdio != "pool":
        parser.error("--children is about --stdio pool")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


if __name__ == "__main__":
    sys.exit(main())
