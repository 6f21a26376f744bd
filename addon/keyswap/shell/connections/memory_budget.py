"""How much is held of all requests together, and who goes when it is too much.

Law: what is held is measured, not counted: nothing has to be given back, however a request ends. It is measured anew
whenever so much has come as may be held unseen. A connection, an address, a caller and the process each have a budget;
where one is exceeded the youngest of its requests is ended, the heaviest address' first where the process' is. A budget
is never smaller than two of the bodies that the policy lets be judged. A connection that cannot be measured, or whose
request cannot be ended, is reported and aborted by itself: whoever reads just now, and who is judged next, go on.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple, Protocol

MIB = 1 << 20
PER_CONNECTION, PER_CALLER, TOGETHER = 8 * MIB, 12 * MIB, 24 * MIB
"""Bytes that may be held for one connection, for one address or credential, and for all."""
UNBEGUN = 4 * MIB
"""Bytes for one address of requests whose heads have not ended: an honest one comes in one piece or two."""
UNSEEN = 2 * MIB
"""Bytes that may come, of all callers, before it is looked what became of them."""


class Piece(NamedTuple):
    """What is held of one request, or of what a connection has sent ahead."""

    size: int
    since: float
    """When it began, in epoch seconds."""
    address: str
    principal: object
    """Whose credential it is; None: nobody's."""
    limit: int
    """Bytes that this body may have, as the policy says; 0: it says nothing."""
    end: Callable[[], None]
    holder: "Holder"
    begun: bool = True
    """It is not of a head that has not ended."""


class Holder(Protocol):
    """A connection."""

    def pieces(self) -> list[Piece]:
        """What is held for it now, but for what is already to end."""

    def abort(self) -> None:
        """Drop it: what is held of it could not be told, or ended."""


@dataclass(slots=True, eq=False)
class Holdings:
    """Those of a process."""

    complain: Callable[[str], None]
    """Is told of the address that has to give."""
    report: Callable[[Exception], None]
    """Is told of what went wrong with one connection."""
    _of: dict[Holder, int] = field(default_factory=dict)
    _moved: set[Holder] = field(default_factory=set)
    _unseen: int = 0

    def came(self, holder: Holder, count: int) -> None:
        """Note that so many bytes were read from a caller."""
        self._moved.add(holder)
        self._unseen += count
        if self._unseen >= UNSEEN:
            self.weigh()

    def forget(self, holder: Holder) -> None:
        """A connection is closed."""
        self._of.pop(holder, None)
        self._moved.discard(holder)

    def weigh(self) -> None:
        """See what is held by those from whom something has come; if it may be too much, by all, and end what is."""
        moved, self._moved, self._unseen = self._moved, set(), 0
        for holder in moved:
            self._measured(holder)
        if sum(self._of.values()) > UNBEGUN:  # the smallest of the budgets
            self._judge()

    def _measured(self, holder: Holder) -> list[Piece]:
        """What is held for a connection, which is noted."""
        pieces: list[Piece] = []
        try:
            pieces = holder.pieces()
        except Exception as error:  # noqa: BLE001 (one connection's trouble must not end another's read)
            self._drop(holder, error)
        size = sum(piece.size for piece in pieces)
        if size:
            self._of[holder] = size
        else:
            self._of.pop(holder, None)
        return pieces

    def _drop(self, holder: Holder, error: Exception) -> None:
        self.report(error)
        holder.abort()

    def _judge(self) -> None:
        whole: list[Piece] = []
        for holder in list(self._of):
            whole += self._within(self._measured(holder), PER_CONNECTION)
        for kind, least in ((_unbegun, UNBEGUN), (_principal, PER_CALLER), (_address, PER_CALLER)):
            groups = defaultdict[object, list[Piece]](list)
            for piece in whole:
                groups[kind(piece)].append(piece)
            whole = groups.pop(None, [])
            for group in groups.values():
                whole += self._within(group, least)
        self._relieve(whole)

    def _within(self, pieces: list[Piece], least: int) -> list[Piece]:
        """End the youngest of these until the rest is within its budget: the rest."""
        held, budget = sum(piece.size for piece in pieces), _budget(pieces, least)
        if held <= budget:
            return pieces
        kept = []
        for piece in sorted(pieces, key=_since, reverse=True):
            if held > budget:
                self._end(piece)
                held -= piece.size
            else:
                kept.append(piece)
        return kept

    def _relieve(self, pieces: list[Piece]) -> None:
        """Bring the process within its budget: whichever address has most gives its youngest."""
        too_much = sum(piece.size for piece in pieces) - _budget(pieces, TOGETHER)
        if too_much <= 0:
            return
        oldest_first = defaultdict[str, list[Piece]](list)
        for piece in sorted(pieces, key=_since):
            oldest_first[piece.address].append(piece)
        heaviest = [(-sum(piece.size for piece in held), address) for address, held in oldest_first.items()]
        heapify(heaviest)
        while too_much > 0:
            size, address = heaviest[0]
            piece = oldest_first[address].pop()
            self._end(piece)
            too_much -= piece.size
            if oldest_first[address]:
                heapreplace(heaviest, (size + piece.size, address))
            else:
                heappop(heaviest)

    def _end(self, piece: Piece) -> None:
        self.complain(piece.address)
        try:
            piece.end()
        except Exception as error:  # noqa: BLE001 (as above)
            self._drop(piece.holder, error)


def _budget(pieces: Iterable[Piece], least: int) -> int:
    return max(least, 2 * max((piece.limit for piece in pieces), default=0))


def _since(piece: Piece) -> float:
    return piece.since


def _unbegun(piece: Piece) -> object:
    return None if piece.begun else piece.address


def _address(piece: Piece) -> object:
    return piece.address


def _principal(piece: Piece) -> object:
    return piece.principal
