"""A batch of JSON-RPC messages, cut into its elements; only 2025-03-26 knows batches."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from proxy_actors.errors import MessageError

BATCH_MAX: Final = 64

_DOCUMENT: Final = msgspec.json.Decoder(Raw)
# A list would be built whole before its length is checked, at 60 bytes of memory per byte of a
# hostile array; an array-like struct stops at the first element that it has no field for.
_BATCH: Final = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Batch",
        [(f"element_{number}", Raw, None) for number in range(BATCH_MAX)],
        array_like=True,
        forbid_unknown_fields=True,
    )
)


def elements(document: bytes) -> list[bytes]:
    """Return the texts of the elements.

    Raises:
        MessageError: it is no array, an empty one, or one of more than `BATCH_MAX`.
        msgspec.DecodeError: it is no JSON.
    """
    try:
        slots = msgspec.structs.astuple(_BATCH.decode(document))
    except msgspec.ValidationError as error:
        _DOCUMENT.decode(document)  # whether it is JSON at all comes first
        raise MessageError(
            f"a message must be an object, or an array of up to {BATCH_MAX}"
        ) from error
    found = [bytes(element) for element in slots if element is not None]
    if not found:
        raise MessageError("a batch must not be empty")
    return found
