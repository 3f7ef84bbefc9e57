"""The rules of how many streams there may be and what their rings hold, in books of their own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from proxy_actors.policy.replay_ring import ReplayRing
from proxy_actors.policy.ring_budget import RingBudget
from proxy_actors.policy.stream_bounds import StreamBooks, StreamBound, StreamKind, StreamOwner
from proxy_actors.policy.stream_limits import StreamLimits
from tests.policy.search import Subject, check

STREAMS_MAX = 5
LIMITS = StreamLimits(
    streams_max=STREAMS_MAX, streams_per_principal_max=3, streams_per_session_max=2
)
UPSTREAMS = {"small": 2}
OWNERS = (
    StreamOwner("s1", "p", "large"), StreamOwner("s2", "p", "large"),
    StreamOwner("s3", "q", "large"), StreamOwner("s3", "q", "small"),
    StreamOwner("s4", "", "small"),
)  # fmt: skip
MOST = {"s1": 2, "s2": 2, "s3": 2, "s4": 2, "p": 3, "q": 3, "small": 2}


@dataclass(frozen=True)
class Opens:
    """Somebody wants a stream."""

    owner: int
    kind: StreamKind


@dataclass(frozen=True)
class Ends:
    """The end of a stream is seen, by its place in the order of opening."""

    place: int


class BooksSubject(Subject):
    """The books beside a list of what is open."""

    def __init__(self) -> None:
        self.books = StreamBooks(LIMITS, UPSTREAMS)
        self.open: list[tuple[str, int, StreamKind]] = []
        self.left: list[str] = []
        self.names = 0

    def moves(self) -> Iterable[Opens | Ends]:
        yield from (Opens(owner, StreamKind.CALL) for owner in range(len(OWNERS)))
        yield Opens(0, StreamKind.STANDALONE)
        yield from (Ends(place) for place in range(len(self.open)))

    def make(self, move: Opens | Ends) -> None:
        if isinstance(move, Ends):
            name, *_ = self.open.pop(move.place)
            self.left = [name]
            self.books.leave(name)
        else:
            owner = OWNERS[move.owner]
            bound = self.books.reached(owner)
            check(bound == self._reached(owner), f"{bound} where {self._reached(owner)} is right")
            if bound is None:
                self.names += 1
                self.open.append((str(self.names), move.owner, move.kind))
                self.books.enter(str(self.names), move.kind, owner)
        self._check_counts()

    def settle(self) -> None:
        """Whoever sees an end later closes no row of another's; in the end there is none left."""
        for name in [*self.left, "unknown"]:
            self.books.leave(name)
        self._check_counts()
        while self.open:
            self.make(Ends(0))
        check(not self.books._counts, "something is counted for ever")

    def key(self) -> Hashable:
        return tuple(sorted((owner, kind) for _, owner, kind in self.open))

    def _reached(self, owner: StreamOwner) -> StreamBound | None:
        owners = [OWNERS[number] for _, number, _ in self.open]
        for bound, field in (
            (StreamBound.SESSION, "session_key"),
            (StreamBound.PRINCIPAL, "name"),
            (StreamBound.UPSTREAM, "upstream"),
        ):
            whose = getattr(owner, field)
            if sum(getattr(x, field) == whose for x in owners) >= MOST.get(whose, math.inf):
                return bound
        if len(owners) >= STREAMS_MAX:
            return StreamBound.ALL
        there = [x for x in owners if x.upstream == owner.upstream]
        for open_now, most in ((owners, STREAMS_MAX), (there, MOST.get(owner.upstream, math.inf))):
            left = most - len(open_now) - 1
            if owner.name and left < sum(x.name == owner.name for x in open_now) / 8:
                return StreamBound.SHARE
        return None

    def _check_counts(self) -> None:
        check(len(self.books) == len(self.open), "a stream is counted twice, or not at all")
        for kind in StreamKind:
            count = sum(x == kind for *_, x in self.open)
            check(self.books.open[kind] == count, "a kind is counted wrongly")


BYTES_MAX, OWN_MAX = 4, 2
RINGS = ("a", "a", "b")
AWAITED, READ, UNREAD, OVER = "awaited", "read", "unread", "over"


@dataclass(frozen=True)
class Comes:
    """An event of so many bytes comes for a ring."""

    ring: int
    size: int


@dataclass(frozen=True)
class Becomes:
    """A stream has a reader, or none any more, or has ended."""

    ring: int
    state: str


@dataclass(frozen=True)
class Closes:
    """A stream's actor has ended; another stream takes its place in the model."""

    ring: int


class Book:
    """What a ring is to hold: sizes, and the number of the newest."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.state = AWAITED
        self.sizes: list[int] = []
        self.last = 0


class BudgetSubject(Subject):
    """Rings that share a budget."""

    def __init__(self) -> None:
        self.budget = RingBudget(BYTES_MAX)
        limits = StreamLimits(bytes_max=OWN_MAX)
        self.limits = limits
        self.rings = [ReplayRing(limits, self.budget, owner) for owner in RINGS]
        self.books = [Book(owner) for owner in RINGS]
        self.order: list[int] = []  # who has had no reader for longest

    def moves(self) -> Iterable[Comes | Becomes | Closes]:
        for ring, book in enumerate(self.books):
            if book.state != OVER:
                yield from (Comes(ring, size) for size in (1, 3))
                yield Becomes(ring, UNREAD)
                yield Becomes(ring, READ)
                yield Becomes(ring, OVER)
            yield Closes(ring)

    def make(self, move: Comes | Becomes | Closes) -> None:
        ring, book = self.rings[move.ring], self.books[move.ring]
        match move:
            case Comes(number, size):
                self._comes(number, size)
                ring.append(bytes(size), 0.0)
            case Becomes(number, state):
                if state == READ:
                    ring.is_read(0.0)
                    self._forget(number)
                else:
                    ring.is_unread(state == OVER)
                    if book.state != state or number not in self.order:
                        self._forget(number)
                        self.order.append(number)
                book.state = state
                if state == READ:
                    self._trim(book)
            case Closes(number):
                ring.close()
                ring.close()
                self._forget(number)
                self.books[number] = Book(book.owner)
                self.rings[number] = ReplayRing(self.limits, self.budget, book.owner)
        self._check()

    def settle(self) -> None:
        for ring in range(len(RINGS)):
            self.make(Closes(ring))
        check(self.budget.held == 0, "bytes are held by nobody")
        check(not self.budget._shares and not self.budget._giving, "a ring is kept for ever")

    def key(self) -> Hashable:
        shares = self.budget._shares
        return (
            tuple((book.state, tuple(book.sizes)) for book in self.books),
            tuple(ring._read for ring in self.rings),
            tuple(self.order),
            *(
                tuple(self.rings.index(ring) for ring in rings if ring in self.rings)
                for owner in sorted(shares)
                for rings in (shares[owner].ended, shares[owner].unread)
            ),
            tuple(x for share in self.budget._giving for x in shares if shares[x] is share),
        )

    def _comes(self, number: int, size: int) -> None:
        """Who holds most makes room first, the longest ended before the longest unread."""
        book = self.books[number]
        while self.order and self._is_over(book.owner, size):
            held = Counter({x: self._held(x) for x in {self.books[n].owner for n in self.order}})
            ((giver, most),) = held.most_common(1)
            if book.owner in held and self._held(book.owner) + size >= most:
                giver = book.owner
            elif most <= self._held(book.owner):
                break
            own = [x for x in self.order if self.books[x].owner == giver]
            ended = [x for x in own if self.books[x].state == OVER]
            taken = (ended or own)[0]
            self.order.remove(taken)
            self.books[taken].sizes = []
        book.sizes.append(size)
        book.last += 1
        if book.state == UNREAD and number not in self.order:
            self.order.append(number)
        self._trim(book)

    def _trim(self, book: Book) -> None:
        """The oldest go for what all hold as well, but not before there was a reader."""
        while len(book.sizes) > 1 and (
            sum(book.sizes) > OWN_MAX or (book.state != AWAITED and self._is_over(book.owner))
        ):
            del book.sizes[0]

    def _is_over(self, owner: str, more: int = 0) -> bool:
        """Whether an owner holds more than eight times what it leaves, one byte allowed."""
        return self._held(owner) + more - 1 > 8 * (BYTES_MAX - self._held() - more)

    def _forget(self, number: int) -> None:
        if number in self.order:
            self.order.remove(number)

    def _held(self, owner: str = "") -> int:
        return sum(sum(book.sizes) for book in self.books if owner in ("", book.owner))

    def _check(self) -> None:
        for ring, book in zip(self.rings, self.books, strict=True):
            sizes = [len(data) for _, data in ring._events or ()]
            check(sizes == book.sizes, f"a ring holds {sizes} where {book.sizes} is right")
            check(ring.last == book.last, "a number is given twice")
            check(ring.since(book.last - len(sizes)) is not None, "what is there cannot be had")
            check(ring.since(book.last - len(sizes) - 1) is None, "a gap is passed over")
        check(self.budget.held == self._held(), "bytes are counted wrongly")
        for owner, share in self.budget._shares.items():
            check(share.held == self._held(owner), "bytes of a share are counted wrongly")
        newest_alone = sum(book.sizes[-1] for book in self.books if book.sizes)
        awaited = sum(sum(book.sizes[:-1]) for book in self.books if book.state == AWAITED)
        check(self._held() <= BYTES_MAX + newest_alone + awaited, "more is held than may be")
