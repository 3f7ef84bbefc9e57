"""Whose request it is, by the API key that it shows.

Owns the digests of the keys, never a key. A key has 128 random bits at least, so that one round of
SHA-256 is enough: there is nothing to guess that a slow hash would protect. The principal is the
key's id, or `anonymous`; never the address, which says where a request comes from and not whose it
is. Keys come in a field, as Bearer or as X-API-Key, never in the target (MCP-A-8).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from proxy_actors.errors import FailedError, Reason, Side
from proxy_actors.gateway.limits import Rate
from proxy_actors.protocol.headers import Fields, all_of

ANONYMOUS = "anonymous"
DEFAULT_TIER = "default"
_BEARER = b"bearer "
_KEY_BYTES_MAX = 4096


class Identity(msgspec.Struct, frozen=True):
    """A principal and the tier of its rate limits."""

    principal: str
    tier: str = DEFAULT_TIER


_NOBODY = Identity(ANONYMOUS)


def owner_name(principal: str, peer: str) -> str:
    """Return whose share something comes out of: the principal's, or an anonymous address's."""
    return f"address {peer}" if principal == ANONYMOUS else principal


class Keyring:
    """The keys that are known, by their digests.

    Args:
        keys: identities by SHA-256 of the key.
        anonymous: whether requests without a key are served.
        failures: how many wrong keys one address may show.
    """

    def __init__(
        self,
        keys: Mapping[bytes, Identity] = {},
        anonymous: bool = True,
        failures: Rate = Rate(0.5, 10),
    ) -> None:
        self._keys = keys
        self._anonymous = anonymous
        self.failures = failures

    def identify(self, fields: Fields) -> Identity | None:
        """Say whose request it is; None when it shows a wrong key, or none where one is needed.

        Where no key is known at all, whatever a client shows is meant for somebody else.
        """
        shown = _shown(fields) if self._keys else []
        if not shown:
            return _NOBODY if self._anonymous else None
        if len(shown) > 1 or len(shown[0]) > _KEY_BYTES_MAX:
            return None
        return self._keys.get(hashlib.sha256(shown[0]).digest())

    def shows_key(self, fields: Fields) -> bool:
        """Whether a request shows something that is meant to be a key."""
        return bool(_shown(fields))


def unauthorized(fields: Fields) -> FailedError:
    """Make the error for a request that `identify` does not know (RFC 9110 section 15.5.2)."""
    wrong = bool(_shown(fields))
    challenge = b'Bearer realm="mcp"' + (b', error="invalid_token"' if wrong else b"")
    return FailedError(
        Reason.UNAUTHORIZED,
        "the API key is not known" if wrong else "an API key is required",
        side=Side.CLIENT,
        retryable=False,
        headers=((b"www-authenticate", challenge),),
    )


def _shown(fields: Fields) -> list[bytes]:
    """List the keys that a request shows; a scheme other than Bearer shows a wrong one."""
    shown = [value.strip() for value in all_of(fields, b"x-api-key")]
    for value in all_of(fields, b"authorization"):
        bearer = value[: len(_BEARER)].lower() == _BEARER
        shown.append(value[len(_BEARER):].strip() if bearer else b"")
    return shown
