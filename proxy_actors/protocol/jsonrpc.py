"""Admission of JSON-RPC messages: the one gate for every body, event and line, either direction.

Owns the judgement of what is a message and the few members that a proxy reads. Never changes a
message save for one thing: CR and LF between tokens become spaces, because on a pipe and in an
event stream they would end a frame in its middle. `jsonrpc_rewrite` makes other bytes of a message.

Two readers of the same bytes must see the same message, or a policy judges what is not executed.
So a name that occurs twice is refused where names decide anything (envelope, params, _meta, error),
however it is spelled, and so is a name in another letter case that some readers take for one that
we read. Inside `arguments` and `result` nothing is examined but syntax, and numbers of any size
pass as they are.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
from msgspec import Raw

from proxy_actors.errors import INVALID_PARAMS, PARSE_ERROR, MessageError
from proxy_actors.protocol import json_depth, jsonrpc_batch
from proxy_actors.protocol import jsonrpc_names as names
from proxy_actors.protocol.revisions import CANCELLED, PROGRESS, TOOLS_CALL, URI_METHODS

DEPTH_MAX: Final = 64
ID_BYTES_MAX: Final = 1024
# In each object whose members are examined: a hostile one would be kept at 15 times its bytes.
MEMBERS_MAX: Final = 1024
# What is no larger has too few members to take long. Larger ones are counted before any is built.
_CROWD_BYTES: Final = 65_536

_VERSION: Final = Raw(b'"2.0"')
_ENVELOPE_NAMES: Final = frozenset(("jsonrpc", "id", "method", "params", "result", "error"))
_ROUTING_NAMES: Final = frozenset(
    ("name", "arguments", "uri", "_meta", "requestId", "progressToken", "protocolVersion", "taskId")
)
# What else the usual messages of servers name; none is another spelling of a name above.
_PLAIN_NAMES: Final = (_ROUTING_NAMES - {"_meta"}) | {
    "level", "logger", "data", "progress", "total", "message"
}
_TOKEN_NAMES: Final = frozenset(("progressToken",))
_ABSENT: Final = Raw(b"null")

# The methods whose params `Message` reads.
_METHODS_READ: Final = frozenset((CANCELLED, PROGRESS, *URI_METHODS))

_DOCUMENT: Final = msgspec.json.Decoder(Raw)
_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_ENCODER: Final = msgspec.json.Encoder()
_LINE_ENDS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


class Kind(Enum):
    """What a message is."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


# To look a member of an enumeration up by its class costs as much as to call a function.
REQUEST: Final = Kind.REQUEST
NOTIFICATION: Final = Kind.NOTIFICATION
RESPONSE: Final = Kind.RESPONSE


class Message(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An admitted message.

    Attributes:
        kind: request, notification or response.
        raw: the bytes received, CR and LF flattened to spaces: exactly one line.
        id: the id as JSON, so that value and type are kept and equal ids are equal bytes. None in
            notifications and in errors that name no request.
        method: None in responses.
        is_error: whether it is a response with `error`.
        envelope: its members, undecoded.
        params: the members of `params`; empty if absent or an array.
        meta: the members of `params._meta`; empty if absent or no object.
    """

    kind: Kind
    raw: bytes
    id: bytes | None
    method: str | None
    is_error: bool
    envelope: dict[str, Raw]
    params: dict[str, Raw]
    meta: dict[str, Raw]

    def uri(self) -> str | None:
        """The resource that a method of `URI_METHODS` is about; None for any other method."""
        return _TEXT.decode(self.params["uri"]) if self.method in URI_METHODS else None

    def tool(self) -> str | None:
        """The tool that a `tools/call` names; None for any other method, and where it names none.

        A call that names none is nothing that a server could execute.
        """
        if self.method != TOOLS_CALL:
            return None
        try:
            return _TEXT.decode(self.params["name"])
        except (KeyError, msgspec.ValidationError):
            return None

    def progress_token(self) -> bytes | None:
        """The token of a request that asks for progress, or of `notifications/progress`, as JSON.

        Normalised like `id`. None if there is none, or null.
        """
        return _identifier(self._token())

    def cancelled_request_id(self) -> bytes | None:
        """The id that `notifications/cancelled` names, normalised like `id`.

        None for any other method, and where it is absent (a task is cancelled otherwise).
        """
        if self.method != CANCELLED:
            return None
        return _identifier(self.params.get("requestId", _ABSENT))

    def _token(self) -> Raw:
        is_progress = self.kind is NOTIFICATION and self.method == PROGRESS
        return (self.params if is_progress else self.meta).get("progressToken", _ABSENT)


def admit(body: bytes, *, depth_max: int = DEPTH_MAX) -> Message | tuple[Message, ...]:
    """Judge one body, event or line; the caller has bounded its size.

    Args:
        body: what was received, without framing.
        depth_max: how deep arrays and objects may nest.

    Returns:
        The message; or a tuple, for a batch of 1 to `jsonrpc_batch.BATCH_MAX`. Only 2025-03-26
        knows batches, so whether one is welcome is the caller's to say
        (`revisions.allows_batches`).

    Raises:
        MessageError: PARSE_ERROR if it is no UTF-8 or no JSON (RFC 8259, hence no byte order mark,
            NaN, Infinity or lone surrogate); INVALID_PARAMS if a parameter that `Message` reads is
            of the wrong type; otherwise INVALID_REQUEST.
    """
    plain = _plain_call(body, depth_max)
    if plain is not None:
        return plain
    try:
        document = _flattened(body)
        members = _members(document)
        if members is None:
            elements = jsonrpc_batch.elements(document)
    except UnicodeDecodeError as error:
        raise MessageError("the body is not valid UTF-8", code=PARSE_ERROR) from error
    except msgspec.DecodeError as error:
        raise MessageError(str(error), code=PARSE_ERROR) from error
    except RecursionError as error:
        raise MessageError("the message is nested too deep") from error
    if json_depth.is_deeper(document, depth_max):
        raise MessageError(f"the message is nested deeper than {depth_max}")
    if members is not None:
        return _message(document, members)
    return tuple(_batched(element) for element in elements)


def answered_id(data: bytes) -> bytes | None:
    """Return which request something means to answer that is no message, if that can be read."""
    try:
        members = _OBJECT.decode(data)
        return None if "method" in members else _identifier(members.get("id", _ABSENT))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def _plain_call(body: bytes, depth_max: int) -> Message | None:
    """Admit what nearly every request and notification is; None if the body needs a closer look.

    It is one line with the members that it must have, and params that have none but known names.
    """
    if not _is_plain(body, depth_max):
        return None
    try:
        envelope = _OBJECT.decode(body)
        given = envelope.get("id")
        if len(envelope) != (3 if given is None else 4) or envelope.get("jsonrpc") != _VERSION:
            return None
        params = _OBJECT.decode(envelope["params"])
        method = _TEXT.decode(envelope["method"])
    except (KeyError, msgspec.DecodeError, RecursionError):
        return None
    if (
        (given is None or _is_plain_identifier(given))
        and _PLAIN_NAMES.issuperset(params)
        and (
            method not in _METHODS_READ
            or (method == PROGRESS and _is_plain_identifier(params.get("progressToken", _ABSENT)))
        )
        and _ENCODER.encode({**envelope, "params": params}) == body
    ):
        if given is None:
            return Message(NOTIFICATION, body, None, method, False, envelope, params, {})
        return Message(REQUEST, body, bytes(given), method, False, envelope, params, {})
    return None


def _is_plain_identifier(given: Raw) -> bool:
    raw = bytes(given)
    return (raw.isdigit() or (raw[:1] == b'"' and b"\\" not in raw)) and len(raw) <= ID_BYTES_MAX


def plain_answer(
    body: bytes, request_id: bytes, *, depth_max: int = DEPTH_MAX
) -> Message | None:
    """Admit what nearly every answer to a call is: a result under the id of the request.

    A short way to what `admit` would say of it, and never another verdict: None if the body needs
    the long one, be it fit or not.

    Args:
        request_id: as in `Message.id`.
        depth_max: as for `admit`.
    """
    if not _is_plain(body, depth_max):
        return None
    try:
        envelope = _OBJECT.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if (
        len(envelope) == 3
        and "result" in envelope
        and envelope.get("jsonrpc") == _VERSION
        and bytes(envelope.get("id", b"")) == request_id
        and _ENCODER.encode(envelope) == body
    ):
        return Message(RESPONSE, body, request_id, None, False, envelope, {}, {})
    return None


def _is_plain(body: bytes, depth_max: int) -> bool:
    """Whether a body is one line of ASCII, neither large nor deep: what else it is decoding tells.

    An integer asks memchr at once, several times faster than a one-byte string does.
    """
    return (
        len(body) <= _CROWD_BYTES
        and body.isascii()
        and not (10 in body or 13 in body)
        and not json_depth.may_be_deeper(body, depth_max)
    )


def _flattened(body: bytes) -> bytes:
    if not body.isascii():
        body.decode()
    if 10 in body or 13 in body:
        # Only white space may be flattened. A line end within a string is an error of syntax, and
        # has to be found before a space takes its place and hides it.
        _DOCUMENT.decode(body)
        return body.translate(_LINE_ENDS_TO_SPACES)
    return body


def _members(document: bytes | Raw) -> dict[str, Raw] | None:
    """Decode an object, its values checked for syntax but not built; None if it is none."""
    try:
        crowded = len(document) > _CROWD_BYTES and names.are_more(document, MEMBERS_MAX)
        members = {} if crowded else _OBJECT.decode(document)
    except msgspec.ValidationError:
        return None
    if crowded or len(members) > MEMBERS_MAX:
        raise MessageError(f"an object of the message has more than {MEMBERS_MAX} members")
    return members


def _batched(element: bytes) -> Message:
    members = _members(element)
    if members is None:
        raise MessageError("each element of a batch must be an object")
    return _message(element, members)


def _message(raw: bytes, envelope: dict[str, Raw]) -> Message:
    # Here and below: most messages have the known names only, and need no closer look.
    if not _ENVELOPE_NAMES.issuperset(envelope) and names.other_cases(envelope, _ENVELOPE_NAMES):
        raise MessageError("a member of the message is named in the wrong letter case")
    params = meta = fault = None
    if "params" in envelope:
        params = _members(envelope["params"])
        if params and "_meta" in params:
            meta = _members(params["_meta"])
    if "error" in envelope:
        fault = _members(envelope["error"])
    if names.repeats_a_name(raw, envelope, params, meta, fault):
        raise MessageError("the message names a member twice")
    if "method" in envelope:
        return _call(raw, envelope, params, meta)
    return _response(raw, envelope, fault)


def _call(
    raw: bytes,
    envelope: dict[str, Raw],
    params: dict[str, Raw] | None,
    meta: dict[str, Raw] | None,
) -> Message:
    kind, request_id = NOTIFICATION, None
    if "id" in envelope:
        kind, request_id = REQUEST, _identifier(envelope["id"])
        if request_id is None:
            raise MessageError("an id must be a string or an integer")
    if meta is None:
        meta = {}
    if envelope.get("jsonrpc") != _VERSION:
        raise MessageError('jsonrpc must be "2.0"', request_id=request_id)
    if "result" in envelope or "error" in envelope:
        raise MessageError("a request has no result and no error", request_id=request_id)
    if params is None:
        if "params" in envelope and not bytes(envelope["params"]).startswith(b"["):
            raise MessageError("params must be an object or an array", request_id=request_id)
        params = {}
    elif not (
        _ROUTING_NAMES.issuperset(params) and _TOKEN_NAMES.issuperset(meta)
    ) and _hides_a_name(params, meta):
        raise MessageError("params names a member in another letter case", request_id=request_id)
    try:
        method = _TEXT.decode(envelope["method"])
    except msgspec.ValidationError as error:
        raise MessageError("method must be a string", request_id=request_id) from error
    message = Message(kind, raw, request_id, method, False, envelope, params, meta)
    if meta or method in _METHODS_READ:
        unfit = _unfit(message)
        if unfit is not None:
            raise MessageError(unfit, code=INVALID_PARAMS, request_id=request_id)
    return message


def _hides_a_name(params: dict[str, Raw], meta: dict[str, Raw]) -> bool:
    """Whether a reader that ignores letter case would find what we do not.

    A name beside its own twin may be taken for it. The way to the progress token must be the only
    one even without a twin: where clients share a child, it is rewritten, and a token that escaped
    that would name another client's call.
    """
    others = names.other_cases(params, _ROUTING_NAMES)
    return (
        not others.isdisjoint(params)
        or "_meta" in others
        or bool(names.other_cases(meta, _TOKEN_NAMES))
    )


def _unfit(message: Message) -> str | None:
    """Say what of a message could not be read, so that whoever reads it never fails."""
    params = message.params
    if _is_no_identifier(message._token()):
        return "progressToken must be a string or an integer"
    if message.method == CANCELLED and _is_no_identifier(params.get("requestId", _ABSENT)):
        return "requestId must be a string or an integer"
    if message.method in URI_METHODS and not bytes(params.get("uri", b"")).startswith(b'"'):
        return "uri must be a string"
    return None


def _response(raw: bytes, envelope: dict[str, Raw], fault: dict[str, Raw] | None) -> Message:
    is_error = "error" in envelope
    if envelope.get("jsonrpc") != _VERSION:
        raise MessageError('jsonrpc must be "2.0"')
    if is_error == ("result" in envelope):
        raise MessageError("a message has exactly one of method, result and error")
    if is_error and (fault is None or not _is_integer(bytes(fault.get("code", b"")))):
        raise MessageError("error must be an object with an integer code")
    given = envelope.get("id", _ABSENT)
    response_id = _identifier(given)
    # Who cannot read the id of a request answers with an error that has none, or null.
    if response_id is None and not (is_error and given == _ABSENT):
        raise MessageError("the id of a response must be a string or an integer")
    return Message(RESPONSE, raw, response_id, None, is_error, envelope, {}, {})


def _identifier(raw: Raw) -> bytes | None:
    """Return an id or token as JSON with one spelling for each value; None if it is not fit."""
    text = bytes(raw)
    if len(text) > ID_BYTES_MAX:
        return None
    if text.startswith(b'"'):
        return _ENCODER.encode(_TEXT.decode(text)) if b"\\" in text else text
    return text if _is_integer(text) else None


def _is_no_identifier(raw: Raw) -> bool:
    return raw != _ABSENT and _identifier(raw) is None


def _is_integer(text: bytes) -> bool:
    # JSON syntax has excluded leading zeros and plus signs. -0 is 0 to some and a float to others.
    return text.removeprefix(b"-").isdigit() and text != b"-0"
