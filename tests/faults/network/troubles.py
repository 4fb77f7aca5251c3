"""What happens to requests on their way to the store, and what an operation may end with then."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from tests.faults.invariants import Kind
from tests.support.proxy import Fault, Seen, answer

CHUNKS = "/chunks/"

BODY_BYTES = 900_000
"""About what the large chunks have."""


NONE = frozenset({""})
UNAVAILABLE = frozenset({"STORAGE_UNAVAILABLE"})
LOST = frozenset({"DATA_LOSS"})
DENIED = frozenset({"STORAGE_ACCESS_DENIED"})
DAMAGED = LOST | UNAVAILABLE
# What a listing says is protected by nothing but the connection: a key may turn into another one.
MISLED = DAMAGED | {"", "SNAPSHOT_NOT_FOUND", "STORAGE_ACCESS_DENIED", "DEADLINE_PASSED"}


class Trouble(msgspec.Struct, frozen=True):
    """One way to break requests.

    Attributes:
        fault: draws what happens to one request.
        lasting: what an operation may end with if this happens to every request from some moment on.
        passing: the same if it happens to a few requests only; with nothing, that must be survived.
        few: how many requests for chunks these are at most, and how many others.
        part: it happens only to requests whose path has this.
        kinds: the operations that it can happen to.
    """

    fault: Callable[[random.Random], Fault]
    lasting: frozenset[str] = UNAVAILABLE
    passing: frozenset[str] = NONE
    few: int = 3
    part: str = ""
    kinds: tuple[Kind, ...] = (Kind.SNAPSHOT, Kind.RESTORE)


def refusal(status: int, code: str, **headers: str) -> Fault:
    """Returns the fault that answers a request with an S3 error."""
    return Fault(answer=answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", **headers))


def somewhere(chance: random.Random) -> int:
    """Returns a place in a body: often one of the first bytes, as many bodies are short."""
    return chance.choice((0, 1, chance.randrange(200), chance.randrange(BODY_BYTES)))


def reset(chance: random.Random) -> Fault:
    """The connection is reset: in a body, in the head of the answer, or before it though all was carried out."""
    return chance.choice((Fault(reset_after=somewhere(chance)), Fault(head_bytes=chance.choice((0, 1, 30)))))


def cut(chance: random.Random) -> Fault:
    """The body is shorter than it should be, and its Content-Length agrees."""
    return Fault(more_length=-chance.randrange(1, 30))


TROUBLES: dict[str, Trouble] = {
    "reset": Trouble(reset),
    "closed": Trouble(lambda chance: Fault(end_after=somewhere(chance))),
    "stall": Trouble(lambda chance: Fault(stall_after=somewhere(chance)), few=1),
    "no-answer": Trouble(lambda _: Fault(is_mute=True), few=1),
    "slow-link": Trouble(lambda _: Fault(piece_seconds=0.05), lasting=NONE, few=99),
    "hung-up": Trouble(lambda _: Fault(closes_after=True), lasting=NONE, few=99),
    "longer-length": Trouble(lambda chance: Fault(more_length=chance.randrange(1, 99_999)), DAMAGED | NONE, few=2),
    "cut-chunk": Trouble(cut, DAMAGED, few=1, part=CHUNKS),
    "cut-manifest": Trouble(cut, DAMAGED, few=1, part="/manifest"),
    "cut-repository": Trouble(cut, DAMAGED, few=1, part="/repository.json"),
    "cut-listing": Trouble(cut, few=1, part="list-type=2"),
    "flip-in-chunk": Trouble(lambda chance: Fault(flip_at=chance.randrange(400)), DAMAGED, few=1, part=CHUNKS),
    "flip-in-manifest": Trouble(lambda chance: Fault(flip_at=chance.randrange(400)), DAMAGED, few=1, part="/manifest"),
    "flip-in-repository": Trouble(
        lambda chance: Fault(flip_at=chance.randrange(190)),
        DAMAGED | {"", "REPOSITORY_VERSION_UNSUPPORTED"},
        few=1,
        part="/repository.json",
    ),
    "flip-in-listing": Trouble(
        lambda chance: Fault(flip_at=chance.randrange(600)), MISLED, MISLED, few=1, part="list-type=2"
    ),
    "500": Trouble(lambda _: refusal(500, "InternalError")),
    "503": Trouble(lambda _: refusal(503, "SlowDown", retry_after="1")),
    "429": Trouble(lambda _: refusal(429, "TooManyRequests")),
    "403": Trouble(lambda _: refusal(403, "InvalidAccessKeyId"), lasting=DENIED, passing=DENIED),
    "404": Trouble(
        lambda _: refusal(404, "NoSuchKey"),
        lasting=LOST,
        passing=LOST,
        part=CHUNKS,
        kinds=(Kind.RESTORE,),
    ),
}

SURVIVED = [name for name, trouble in TROUBLES.items() if trouble.passing == NONE and not trouble.part]


class Breaking:
    """Breaks requests: a few of both classes, chunks and others; or all from some moment on.

    Args:
        trouble: what happens.
        chance: draws the moment and the faults.
        most: to how many requests of each class it happens.
        first: how many requests of each class pass at first, at most; none if the trouble has a part of its own.
    """

    def __init__(self, trouble: Trouble, chance: random.Random, most: int, first: int) -> None:
        self._trouble = trouble
        self._chance = chance
        self._most = most
        first = 0 if trouble.part else first
        self._pass = {True: chance.randrange(first + 1), False: chance.randrange(first + 1)}
        self.broken = {True: 0, False: 0}

    def __call__(self, seen: Seen) -> Fault | None:
        """Returns the fault of a request, or None."""
        if self._trouble.part not in seen.path:
            return None
        # What s5cmd asks before it fetches a chunk makes no difference to it.
        is_chunk = CHUNKS in seen.path and seen.method != "HEAD"
        self._pass[is_chunk] -= 1
        if self._pass[is_chunk] >= 0 or self.broken[is_chunk] >= self._most:
            return None
        self.broken[is_chunk] += 1
        return self._trouble.fault(self._chance)
