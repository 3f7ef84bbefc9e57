"""The mailbox of the rate limiter, and its effects."""

from __future__ import annotations

from typing import ClassVar

from proxy_actors.messages.base import Message


class Bucket(Message, frozen=True):
    """One bucket that a request draws from.

    Attributes:
        rule: the rule's name.
        key: whose bucket of that rule it is.
        rate: tokens a second that flow in.
        burst: tokens that it holds at the most, and at first.
    """

    rule: str
    key: str
    rate: float
    burst: int


class Take(Message, frozen=True):
    """Exchange to limiter, asked: take `tokens` from every one of these buckets, or from none.

    Answered with `Granted` or `Limited`. What is granted needs no return: tokens that a holder does
    not spend are lost with it, and flow in again.
    """

    buckets: tuple[Bucket, ...]
    tokens: int = 1


class Granted(Message, frozen=True):
    """Limiter to exchange: the tokens are taken."""


class Limited(Message, frozen=True):
    """Limiter to exchange: nothing was taken.

    Attributes:
        bucket: the one that will have enough last.
        remaining: whole tokens in it now.
        after_s: when all of them will have enough, if nobody else takes; never when more is asked
            for than a bucket holds.
    """

    bucket: Bucket
    remaining: int
    after_s: float


class BucketSweepDue(Message, frozen=True):
    """Timer to limiter: forget the buckets that are full again."""

    always_accepted: ClassVar[bool] = True
    generation: int


class Wake(Message, frozen=True):
    """Effect: tell BucketSweepDue(generation) after `after_s` seconds."""

    after_s: float
    generation: int


LimiterMessage = Take | BucketSweepDue
LimiterEffect = Granted | Limited | Wake
