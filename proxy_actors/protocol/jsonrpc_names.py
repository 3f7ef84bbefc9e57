"""Whether two readers of the same JSON text would find the same members in it.

Owns the judgement of names: one that occurs twice, however it is spelled, or in another letter
case. `jsonrpc` says where it matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar, Final

import msgspec
from msgspec import Raw

from proxy_actors.errors import MessageError

# In smaller messages the whole text is compared; in larger ones only what is examined is walked
# over. Objects whose names are written with needless escapes are read by a parser that builds the
# whole document, 13 ms a megabyte: no known peer writes such names, so larger ones are refused.
_LARGE_BYTES: Final = 65_536
_MEMBER: Final = re.compile(rb'[ \t\n\r]*[{,][ \t\n\r]*"([^"\\]*)"[ \t\n\r]*:[ \t\n\r]*')
_END: Final = re.compile(rb"[ \t\n\r]*}[ \t\n\r]*")
_ENCODER: Final = msgspec.json.Encoder()


def other_cases(members: dict[str, Raw], names: frozenset[str]) -> set[str]:
    """Return which of `names` are among the members in another letter case, by Unicode folding."""
    if names.issuperset(members):
        return set()
    folded = {name.casefold() for name in members if name not in names}
    return {name for name in names if name.casefold() in folded}


def repeats_a_name(
    raw: bytes,
    envelope: dict[str, Raw],
    params: dict[str, Raw] | None,
    meta: dict[str, Raw] | None,
    fault: dict[str, Raw] | None,
) -> bool:
    """Whether decoding has swallowed a member: encoding what was decoded tells, most cheaply.

    Args:
        raw: the message, and what was decoded of it.

    Raises:
        MessageError: it is large, and names a member with escapes.
    """
    document: Mapping[str, object] = envelope
    if params is not None:
        document = {**document, "params": params if meta is None else {**params, "_meta": meta}}
    if fault is not None:
        document = {**document, "error": fault}
    encoded = _ENCODER.encode(document)
    if encoded == raw:
        return False
    # Unequal for one of three reasons: white space, a name written with escapes, a name repeated.
    if len(raw) > _LARGE_BYTES:
        texts = (raw, envelope.get("params"), (params or {}).get("_meta"), envelope.get("error"))
        objects = zip(texts, (envelope, params, meta, fault), strict=True)
        if all(_holds(bytes(text), found) for text, found in objects if text and found):
            return False
        if b"\\" in raw:
            raise MessageError("a large message has member names written with escapes")
        return True
    if msgspec.json.format(encoded, indent=-1) == msgspec.json.format(raw, indent=-1):
        return False
    return b"\\" not in raw or _repeats_an_escaped_name(raw)


def are_more(document: bytes | Raw, members_max: int) -> bool:
    """Whether an object has more members than that, repeated ones included; none of them is built.

    Raises:
        msgspec.DecodeError: it is no JSON.
        msgspec.ValidationError: it is no object.
    """
    if bytes(document).count(b":") <= members_max:
        return False
    _AnyName.left = members_max
    try:
        _NAMES.decode(document)
    except msgspec.ValidationError:
        if _AnyName.left < 0:
            return True
        raise
    return False


def _holds(text: bytes, members: dict[str, Raw]) -> bool:
    """Whether an object's text is these members and no others, their names without escapes."""
    at = 0
    for name, value in members.items():
        match = _MEMBER.match(text, at)
        if match is None or match[1] != name.encode():
            return False
        at = match.end()
        if not text.startswith(bytes(value), at):
            return False
        at += len(bytes(value))
    return _END.fullmatch(text, at) is not None


class _AnyName(Enum):
    """What each name is taken for that is only counted: decoding ends where there are too many."""

    ANY = "-" * 4096  # the one name that is not counted: no body has room for many of these
    left: ClassVar[int]

    @classmethod
    def _missing_(cls, value: object) -> _AnyName:
        cls.left -= 1
        if cls.left < 0:
            raise ValueError("too many members")
        return cls.ANY


_AnyName.left = 0
_NAMES: Final = msgspec.json.Decoder(dict[_AnyName, Raw])


class _Pairs(list[tuple[str, object]]):
    """The members of an object, repeated ones included."""

    def member(self, name: str) -> _Pairs:
        """Return the last member of that name; empty if absent or no object."""
        value = dict(self).get(name)
        return value if isinstance(value, _Pairs) else _Pairs()


# Numbers stay text: int() refuses digits beyond 4,300, which are none of our business.
_PAIRS: Final = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=str, parse_float=str)


def _repeats_an_escaped_name(raw: bytes) -> bool:
    envelope = _PAIRS.decode(raw.decode())
    params = envelope.member("params")
    examined = (envelope, params, params.member("_meta"), envelope.member("error"))
    return any(len(dict(pairs)) < len(pairs) for pairs in examined)
