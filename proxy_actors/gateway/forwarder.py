"""What every kind of upstream can do for a client's exchange."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from proxy_actors.errors import FailedError
from proxy_actors.gateway import rescue, upstream_status
from proxy_actors.gateway.exchange import Exchange, request_name
from proxy_actors.gateway.response import Response
from proxy_actors.gateway.session_notes import NOTED
from proxy_actors.messages.sessions import Session
from proxy_actors.policy.retries import READS

CALL_S_MAX = 300.0
INITIALIZE_S_MAX = 30.0
HEAD_S_MAX = 30.0
# What the proxy tells a server of itself, and whose answer does not matter: it takes a connection
# of the reserve, which is small.
TOLD_S_MAX = 5.0
# A call without a word for so long becomes an event stream, so that it can be kept alive.
SILENT_S_MAX = 10.0
# What may be sent again when the session it is sent in is a new one: what changes nothing, and what
# sets what it says.
REPEATABLE_ANEW = READS | NOTED


class Forwarder(ABC):
    """Carries exchanges to one upstream. Every method runs in the client's greenlet, may wait,
    and raises the errors of `proxy_actors.errors`.

    Attributes:
        upstream: its configured name.
        initialize_s_max: how long a session may take to be opened.
    """

    upstream: str
    initialize_s_max = INITIALIZE_S_MAX

    @abstractmethod
    def initialize(self, exchange: Exchange) -> Response:
        """Forward `initialize`, and create the session if it succeeds."""

    @abstractmethod
    def call(self, exchange: Exchange) -> Response:
        """Forward a request within a session."""

    @abstractmethod
    def post(self, exchange: Exchange) -> None:
        """Forward a notification or a response; returns once it has been accepted."""

    @abstractmethod
    def open_standalone(self, exchange: Exchange) -> Response:
        """Open the session's standalone event stream."""

    def opening_deadline_s(self, exchange: Exchange) -> float:
        """Say when an `initialize` must have been answered, however often it is tried."""
        return min(exchange.deadline_s, exchange.began_s + self.initialize_s_max)

    def watch_tools(self, changed: Callable[[], None]) -> None:
        """Call this whenever the server is heard to say that its list of tools is another.

        What comes on a channel, that one's actor hears (`StreamDirectory.watchers`).
        """

    def watch_streams(self, failed: Callable[[], None]) -> None:
        """Call this whenever an event stream of the server has been given up."""

    def take_over(self, session: Session, deadline_s: float) -> Session:
        """Open a session here that was at another endpoint of the upstream, and return it.

        Raises:
            FailedError: that cannot be, or not at the moment.
        """
        raise upstream_status.session_lost(self.upstream)

    def failure(self, exchange_id: int, request_id: bytes, error: FailedError) -> bytes:
        """Make the error that answers a call whose answer has become an event stream."""
        error.upstream = self.upstream
        return rescue.message(error, request_id, request_name(exchange_id))
