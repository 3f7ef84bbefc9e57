"""Takes the listening socket that a service manager has bound: systemd's socket activation.

The manager keeps the socket while the service is started anew, so that who connects meanwhile waits
instead of being refused. See sd_listen_fds(3): the first descriptor is 3, and the environment says
how many there are and for which process. Owns nothing.
"""

from __future__ import annotations

import _socket
import os
from collections.abc import MutableMapping

from proxy_actors.errors import ConfigurationError

FIRST_FD = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_INET = (_socket.AF_INET, _socket.AF_INET6)


def inherited_listener(environment: MutableMapping[str, str]) -> _socket.socket | None:
    """Return the socket that was passed to this process, None if none was.

    What says so is taken out of the environment, and the socket is not handed on to children.

    Raises:
        ConfigurationError: more than one was passed, or something that cannot be served.
    """
    pid, fds, *_ = (environment.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()):
        return None  # for a parent of ours, that handed its environment on
    if fds != "1":
        raise ConfigurationError(
            f"LISTEN_FDS={fds}: one socket can be served; have one ListenStream= in its unit"
        )
    try:
        os.set_inheritable(FIRST_FD, False)
        passed = _socket.socket(fileno=FIRST_FD)
        listens = passed.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationError(
            f"LISTEN_FDS=1, but descriptor {FIRST_FD} is no socket: {error.strerror}"
        ) from error
    if passed.family not in _INET or not listens:
        raise ConfigurationError(
            "the socket passed must be a listening TCP socket: "
            "ListenStream=HOST:PORT and Accept=no in its unit"
        )
    return passed
