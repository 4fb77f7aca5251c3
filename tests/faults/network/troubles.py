"""What happens to requests on their way to the store, and what an operation may end with then."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import msgspec

from agent.repository.manifest_layout import MAGIC
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
        few: how many requests these are at most, and as many again for chunks.
        few_chunks: how many for chunks, if not as many.
        part: it happens only to requests whose path has this,
        skip: and not to the first ones of them.
        kinds: the operations that it can happen to.
    """

    fault: Callable[[random.Random], Fault]
    lasting: frozenset[str] = UNAVAILABLE
    passing: frozenset[str] = NONE
    few: int = 3
    few_chunks: int = 0
    part: str = ""
    skip: int = 0
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


def flip_in_manifest(chance: random.Random, stop: int) -> Fault:
    """A bit is flipped before byte `stop`, but behind the magic, which no reader looks at."""
    return Fault(flip_at=chance.randrange(len(MAGIC), stop))


TROUBLES: dict[str, Trouble] = {
    # `stream` goes on from where a body broke, so that some get to the end though every answer breaks.
    "reset": Trouble(reset, UNAVAILABLE | NONE),
    "closed": Trouble(lambda chance: Fault(end_after=somewhere(chance)), UNAVAILABLE | NONE),
    "stall": Trouble(lambda chance: Fault(stall_after=somewhere(chance)), UNAVAILABLE | NONE, few=1),
    "no-answer": Trouble(lambda _: Fault(is_mute=True), few=1),
    "slow-link": Trouble(lambda _: Fault(piece_seconds=0.05), lasting=NONE, few=99),
    "hung-up": Trouble(lambda _: Fault(closes_after=True), lasting=NONE, few=99),
    "longer-length": Trouble(lambda chance: Fault(more_length=chance.randrange(1, 99_999)), DAMAGED | NONE, few=2),
    "cut-chunk": Trouble(cut, DAMAGED, few=1, part=CHUNKS),
    "cut-manifest": Trouble(cut, DAMAGED, few=1, part="/manifest"),
    "cut-repository": Trouble(cut, DAMAGED, few=1, part="/repository.json"),
    "cut-listing": Trouble(cut, few=1, part="list-type=2"),
    "flip-in-chunk": Trouble(lambda chance: Fault(flip_at=chance.randrange(400)), DAMAGED, few=1, part=CHUNKS),
    "flip-in-manifest": Trouble(lambda chance: flip_in_manifest(chance, 400), DAMAGED, few=1, part="/manifest"),
    # A restore looks at the manifest's end first, and then fetches all of it.
    "flip-in-whole-manifest": Trouble(
        lambda chance: flip_in_manifest(chance, 2500),
        DAMAGED,
        few=1,
        part="/manifest",
        skip=1,
        kinds=(Kind.RESTORE,),
    ),
    # A grace that differs at two readings ends an operation: nobody knows which is right.
    "flip-in-repository": Trouble(
        lambda chance: Fault(flip_at=chance.randrange(190)),
        DAMAGED | {"", "REPOSITORY_VERSION_UNSUPPORTED"},
        LOST | NONE,
        few=1,
        part="/repository.json",
    ),
    "flip-in-listing": Trouble(
        lambda chance: Fault(flip_at=chance.randrange(600)), MISLED, MISLED, few=1, part="list-type=2"
    ),
    # So many that s5cmd's own retries do not suffice.
    "500": Trouble(lambda _: refusal(500, "InternalError"), few_chunks=20),
    "503": Trouble(lambda _: refusal(503, "SlowDown", retry_after="1")),
    "429": Trouble(lambda _: refusal(429, "TooManyRequests")),
    "403": Trouble(lambda _: refusal(403, "InvalidAccessKeyId"), lasting=DENIED, passing=DENIED),
    "403-without-text": Trouble(lambda _: Fault(answer=answer(403)), lasting=DENIED, passing=DENIED),
    "403-for-chunks": Trouble(lambda _: refusal(403, "ExpiredToken"), lasting=DENIED, passing=DENIED, part=CHUNKS),
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
        is_lasting: whether it happens to all, or to a few.
        first: how many requests of each class pass at first, at most, unless the trouble says which these are.
        fetches: whether the operation fetches or stores chunks.
    """

    def __init__(
        self, trouble: Trouble, chance: random.Random, is_lasting: bool, first: int, fetches: bool = True
    ) -> None:
        self._trouble = trouble
        self._chance = chance
        few = {True: trouble.few_chunks or trouble.few, False: trouble.few}
        self._most = dict.fromkeys(few, sys.maxsize) if is_lasting else few
        self._pass = dict.fromkeys((True, False), trouble.skip)
        if not trouble.part:
            self._pass = {True: chance.randrange(first + 1), False: chance.randrange(first + 1)}
            if is_lasting and fetches and chance.random() < 0.5:
                self._pass[False] = sys.maxsize  # or else an operation would seldom come to its chunks
        self.broken = {True: 0, False: 0}

    def __call__(self, seen: Seen) -> Fault | None:
        """Returns the fault of a request, or None."""
        if self._trouble.part not in seen.path:
            return None
        # What s5cmd asks before it fetches a chunk makes no difference to it.
        is_chunk = CHUNKS in seen.path and seen.method != "HEAD"
        self._pass[is_chunk] -= 1
        if self._pass[is_chunk] >= 0 or self.broken[is_chunk] >= self._most[is_chunk]:
            return None
        self.broken[is_chunk] += 1
        return self._trouble.fault(self._chance)
