"""Whether two readers of the same JSON text would find the same members in it.

Owns the judgement of names: one that occurs twice, however it is spelled, or in another letter
case. `jsonrpc` says where it matters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from proxy_actors.errors import MessageError

# Objects whose names are written with needless escapes are read by a parser that builds the whole
# document, 13 ms a megabyte. No known peer writes such names at all, so larger ones are refused.
_ESCAPED_NAMES_BYTES_MAX: Final = 65_536
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
    if msgspec.json.format(encoded, indent=-1) == msgspec.json.format(raw, indent=-1):
        return False
    if b"\\" not in raw:
        return True
    if len(raw) > _ESCAPED_NAMES_BYTES_MAX:
        raise MessageError("a large message has member names written with escapes")
    return _repeats_an_escaped_name(raw)


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
