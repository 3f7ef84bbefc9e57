"""Notes, with the session, what its client has set at the server and would have to set again."""

from __future__ import annotations

import msgspec

from proxy_actors.actors.refs import Slot
from proxy_actors.messages.sessions import SetLogLevel, SetSubscription
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE

NOTED = frozenset((SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE))


def note(registry: Slot, session_key: str, request: Message, answer: bytes) -> None:
    """Have the registry keep a level or a subscription that the server has accepted."""
    if request.method not in NOTED:
        return
    answered = jsonrpc.admit(answer)
    assert isinstance(answered, Message)
    if answered.is_error:
        return
    if request.method == SET_LEVEL:
        level = msgspec.json.decode(request.params["level"], type=str)
        registry.tell(SetLogLevel(session_key, level))
    else:
        subscribed = request.method == SUBSCRIBE
        registry.tell(SetSubscription(session_key, request.uri() or "", subscribed))
