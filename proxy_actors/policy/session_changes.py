"""What of a session can change while it lives, and what it is then.

Pure and without state; `policy/sessions.py` uses it, and decides what a change needs.
"""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from proxy_actors.messages import sessions as m

SessionChange = m.SetLogLevel | m.SetSubscription | m.MoveSession


def changed(
    session: m.Session, change: SessionChange, subscription_bytes_max: int
) -> m.Session:
    """Return the session after a change; the very same where it changes nothing.

    Args:
        subscription_bytes_max: characters of URIs kept for a session; more are not kept.
    """
    match change:
        case m.SetLogLevel(_, level):
            return session if session.log_level == level else replace(session, log_level=level)
        case m.SetSubscription(_, uri, subscribed):
            present = session.subscriptions
            if subscribed == (uri in present):
                return session
            wanted = (*present, uri) if subscribed else tuple(x for x in present if x != uri)
            if subscribed and sum(map(len, wanted)) > subscription_bytes_max:
                return session
            return replace(session, subscriptions=wanted)
        case m.MoveSession(_, left, place):
            if session.place != left or place == left:
                return session
            endpoint, upstream_session_id = place
            return replace(session, endpoint=endpoint, upstream_session_id=upstream_session_id)
        case _:
            assert_never(change)
