"""Whether the files of certificates and keys that a configuration names can be used.

Looks at what the settings name and forgets what it has read: whoever uses it reads it again. The
reading is imported where there is something to read, since few have need of it.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy_actors.config.model import Config, ListenerTls
from proxy_actors.config.positions import Path
from proxy_actors.config.problems import Problems
from proxy_actors.config.upstreams import UpstreamTls
from proxy_actors.errors import TlsFileError


def check(config: Config, problems: Problems) -> None:
    """Note every file that cannot be used, and keys that others can read."""
    if config.tls is not None and not problems.concern(("tls",)):
        _check_listener(config.tls, problems)
    for name, upstream in config.upstreams.items():
        path = ("upstreams", name, "tls")
        if (upstream.tls.ca or upstream.tls.certificate) and not problems.concern(path):
            _check_upstream(path, upstream.tls, problems)


def _check_listener(tls: ListenerTls, problems: Problems) -> None:
    from proxy_actors.transports.tls_context import server_context
    from proxy_actors.world.base import TlsServer

    server = TlsServer(tls.certificate, tls.key, tls.client_ca)
    _check(("tls",), lambda: server_context(server), tls.key, problems)


def _check_upstream(path: Path, tls: UpstreamTls, problems: Problems) -> None:
    from proxy_actors.transports.tls_context import client_context_of_files
    from proxy_actors.world.base import TlsClient

    client = TlsClient(tls.ca, tls.certificate, tls.key)
    _check(path, lambda: client_context_of_files(client), tls.key, problems)


def _check(path: Path, use: Callable[[], object], key: str, problems: Problems) -> None:
    from proxy_actors.transports.tls_context import is_open_to_others

    try:
        use()
    except TlsFileError as error:
        problems.error((*path, error.setting), error.text, at_value=True)
        return
    if key and is_open_to_others(key):
        text = "other users of this machine can read the key, or change it"
        problems.warn((*path, "key"), text, "chmod 600 makes it yours alone")
