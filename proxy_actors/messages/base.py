"""What every message is: a frozen struct that names its lane and how a full box treats it."""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Message(msgspec.Struct, frozen=True):
    """A mail.

    All messages about one lease, call or stream travel in one lane, so that order per id holds;
    only messages that refer to no other message (stop, describe, set) may be `fast`.
    """

    fast: ClassVar[bool] = False
    # Mail that gives something back is taken even by a full box: refusing it would lose what is
    # returned, and its number is bounded by what was lent. A parent's few commands are taken too.
    always_accepted: ClassVar[bool] = False
    # News that the next incarnation must hear when this one crashes or is not there: the slot keeps
    # it. What is kept is bounded by what it is about, and handling it twice does no harm.
    outlives_crash: ClassVar[bool] = False
