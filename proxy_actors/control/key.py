"""`proxy-actors key new`: makes an API key and shows what the configuration is to know of it."""

from __future__ import annotations

import hashlib
import secrets

RANDOM_BYTES = 32
PREFIX = "pa_"


def new_key() -> str:
    """Return a fresh key: 256 random bits, with a prefix by which secret scanners find it."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def run(id: str) -> None:
    """Print a new key, once, and the lines for the configuration file."""
    key = new_key()
    digest = hashlib.sha256(key.encode("ascii")).hexdigest()
    print(f"key     {key}    (it is not kept: give it to its owner now)\n")
    print(f'[[keys]]\nid = "{id}"\nsha256 = "{digest}"')
