"""Divides the bytes that may be on their way between two engines, and gives each object to the one that is free."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from agent.storage.arena import GRAIN
from agent.storage.engine import WidenableEngine
from agent.storage.staging import cancelled


class Contender:
    """One of the engines. The gate's lock guards everything that changes.

    Attributes:
        name: the engine's name.
        engine: the engine.
        limit: bytes that it may hold at once.
        held: bytes of its objects, from their admission until they are given back.
        pending: bytes of those that have not been moved yet.
        moved: bytes that it has moved.
        is_resting: whether it gets only objects that were claimed for it.
        claims: objects that are about to be admitted to it alone.
    """

    def __init__(self, engine: WidenableEngine, limit: int, is_resting: bool) -> None:
        self.name = engine.name
        self.engine = engine
        self.limit = limit
        self.held = 0
        self.pending = 0
        self.moved = 0
        self.is_resting = is_resting
        self.claims = 0


class Admission:
    """The room that one object has in one engine."""

    def __init__(self, contender: Contender, charge: int) -> None:
        self.contender = contender
        self.charge = charge
        self.is_pending = True
        self.is_held = True


class Gate:
    """Admits objects in the order of asking, to the engine with the least to do.

    Args:
        capacity: bytes that all engines together may hold at once.
        on_drained: called when an engine that rests holds nothing any more, from any thread; must not block.
    """

    def __init__(self, capacity: int, on_drained: Callable[[], None]) -> None:
        self._capacity = capacity
        self._on_drained = on_drained
        self._contenders: dict[str, Contender] = {}
        self._queue: deque[object] = deque()
        self._aborted = False
        self._changed = threading.Condition()
        self.waits = 0
        """How often there was no room for an object that came next."""

    def add(self, engine: WidenableEngine, limit: int, *, is_resting: bool = False) -> None:
        """Lets an engine take part, or rest at first."""
        with self._changed:
            self._contenders[engine.name] = Contender(engine, limit, is_resting)
            self._changed.notify_all()

    def get(self, name: str) -> Contender | None:
        """Returns an engine that takes part or rests."""
        with self._changed:
            return self._contenders.get(name)

    def wake(self, name: str) -> None:
        """Lets an engine that rests take part again."""
        with self._changed:
            if name in self._contenders:
                self._contenders[name].is_resting = False
                self._changed.notify_all()

    def rest(self, name: str) -> None:
        """Gives an engine nothing new from now on."""
        with self._changed:
            if name in self._contenders:
                self._contenders[name].is_resting = True
                self._changed.notify_all()

    def remove_drained(self, name: str) -> Contender | None:
        """Takes out an engine that rests and holds nothing, and returns it."""
        with self._changed:
            contender = self._contenders.get(name)
            if contender is None or not contender.is_resting or contender.held or contender.claims:
                return None
            return self._contenders.pop(name)

    def widen(self, name: str) -> None:
        """Lets an engine hold all that may be held."""
        with self._changed:
            if name in self._contenders:
                self._contenders[name].limit = self._capacity
                self._changed.notify_all()

    def busiest(self) -> str:
        """Returns the name of the engine that has moved the most, of those that are still there."""
        with self._changed:
            return max(self._contenders.values(), key=lambda contender: contender.moved).name

    def admit(self, size: int) -> Admission:
        """Returns room for an object, blocking while there is none. What is too large goes in alone.

        Raises:
            CancelledError: ``abort`` was called.
        """
        charge = _charge(size)
        turn = object()
        with self._changed:
            self.waits += bool(self._queue) or self._choose(charge) is None
            self._queue.append(turn)
            try:
                self._changed.wait_for(lambda: self._aborted or (self._queue[0] is turn and self._choose(charge)))
                chosen = self._choose(charge)
                if self._aborted or chosen is None:
                    raise cancelled()
                return self._take(chosen, charge)
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()

    def has_room(self, size: int, seconds: float) -> bool:
        """Waits so long for a moment in which ``admit`` would not block; says whether there was one."""
        charge = _charge(size)
        with self._changed:
            has_room = self._changed.wait_for(
                lambda: self._aborted or (not self._queue and self._choose(charge) is not None), seconds
            )
            self.waits += not has_room
            return has_room

    def admit_source(self, name: str) -> Admission | None:
        """Returns the admission of an object that takes no room, or ``None`` if the engine is gone; never blocks."""
        with self._changed:
            contender = self._contenders.get(name)
            return None if contender is None else self._take(contender, _charge(0))

    def claim(self, name: str) -> Contender:
        """Keeps an engine from being taken out until ``admit_to`` was called for it."""
        with self._changed:
            contender = self._contenders[name]
            contender.claims += 1
            return contender

    def admit_to(self, contender: Contender, size: int) -> Admission:
        """Returns room in a claimed engine for an object that the other has failed to move, ahead of all that wait.

        The first such object may be too much: the others give up their room only once they are through here.

        Raises:
            CancelledError: ``abort`` was called.
        """
        charge = _charge(size)
        with self._changed:
            try:
                self._changed.wait_for(lambda: self._aborted or not contender.held or self._has_room(contender, charge))
                if self._aborted:
                    raise cancelled()
                return self._take(contender, charge)
            finally:
                contender.claims -= 1

    def moved(self, admission: Admission, size: int) -> None:
        """Notes that an object has been moved; it still has its room."""
        with self._changed:
            self._end_pending(admission)
            admission.contender.moved += size

    def give_back(self, admission: Admission) -> None:
        """Ends an object's stay. Further calls do nothing."""
        contender = admission.contender
        with self._changed:
            self._end_pending(admission)
            if not admission.is_held:
                return
            admission.is_held = False
            contender.held -= admission.charge
            is_drained = contender.is_resting and not contender.held
            self._changed.notify_all()
        if is_drained:
            self._on_drained()

    def abort(self) -> None:
        """Fails everyone who waits, now and later."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def _choose(self, charge: int) -> Contender | None:
        total = sum(contender.held for contender in self._contenders.values())
        free = [
            contender
            for contender in self._contenders.values()
            if not contender.is_resting and (total == 0 or self._has_room(contender, charge))
        ]
        return min(free, key=lambda contender: (contender.pending, contender.moved), default=None)

    def _has_room(self, contender: Contender, charge: int) -> bool:
        total = sum(contender.held for contender in self._contenders.values())
        limit = min(contender.limit, contender.engine.capacity)
        return total + charge <= self._capacity and (not contender.held or contender.held + charge <= limit)

    def _take(self, contender: Contender, charge: int) -> Admission:
        contender.held += charge
        contender.pending += charge
        return Admission(contender, charge)

    def _end_pending(self, admission: Admission) -> None:
        if admission.is_pending:
            admission.is_pending = False
            admission.contender.pending -= admission.charge


def _charge(size: int) -> int:
    """Returns what an object is charged: as much as either engine would charge it."""
    return -(-(size + 1) // GRAIN) * GRAIN
