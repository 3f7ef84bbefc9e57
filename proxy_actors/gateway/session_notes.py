"""Notes, with the session, what its client has set at the server and would have to set again."""

from __future__ import annotations

import msgspec

from proxy_actors.actors.refs import Slot
from proxy_actors.messages.sessions import SetLogLevel, SetSubscription
from proxy_actors.protocol import jsonrpc
from proxy_actors.protocol.jsonrpc import Message
from proxy_actors.protocol.revisions import SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE

NOTED = frozenset((SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE))


def note(registry: Slot, session_key: str, request: Message, answer: bytes | None) -> None:
    """Have the registry keep a level or a subscription that the server has accepted.

    Args:
        request: with one of the methods that are noted.
        answer: None when it comes as a stream: then it is taken for accepted, as setting once more
            what was refused does no harm.
    """
    if answer is not None:
        answered = jsonrpc.admit(answer)
        if not isinstance(answered, Message) or answered.is_error:
            return
    if request.method == SET_LEVEL:
        try:
            level = msgspec.json.decode(request.params.get("level", b"null"), type=str)
        except msgspec.ValidationError:
            return  # whatever it was that the server has accepted
        registry.tell(SetLogLevel(session_key, level))
    else:
        subscribed = request.method == SUBSCRIBE
        registry.tell(SetSubscription(session_key, request.uri() or "", subscribed))
