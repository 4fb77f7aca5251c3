"""Objects of an engine that a gate has admitted: they are the engine's, and give their room back to the gate too."""

from __future__ import annotations

from agent.errors import GpusnapError
from agent.storage.auto_gate import Admission, Gate
from agent.storage.engine import Incoming, Place
from agent.storage.local import open_local
from agent.storage.outgoing_file import OutgoingFile
from agent.storage.source import Source

COPY_BYTES = 4 << 20
"""Bytes that are copied at once."""


class GatedOutgoing:
    """Room for one object in one of the engines."""

    def __init__(self, gate: Gate, admission: Admission, size: int) -> None:
        self._gate = gate
        self.admission = admission
        self.size = size
        self.inner = admission.contender.engine.outgoing(size)

    def write(self, data: bytes | memoryview) -> None:
        """Appends to the object."""
        self.inner.write(data)

    @property
    def place(self) -> Place:
        """The room, for another process."""
        return self.inner.place

    def written_elsewhere(self, size: int) -> None:
        """Says that another process has written the object."""
        self.inner.written_elsewhere(size)

    def failure(self, error: OSError) -> GpusnapError:
        """Returns what an error that another process met means."""
        return self.inner.failure(error)

    def release(self) -> None:
        """Gives the room back."""
        self.inner.release()
        self._gate.give_back(self.admission)

    def moved_to(self, admission: Admission) -> GatedOutgoing:
        """Returns the same bytes in another engine; they are not here any more."""
        assert isinstance(self.inner, OutgoingFile)
        copy = GatedOutgoing(self._gate, admission, self.size)
        try:
            with open_local(self.inner.path) as file:
                while data := file.read(COPY_BYTES):
                    copy.write(data)
        except BaseException:
            copy.release()
            raise
        self.release()
        return copy


class GatedSource:
    """An object that is read again while it is sent: it has no room, but its engine stays until it is closed."""

    def __init__(self, source: Source, gate: Gate, admission: Admission) -> None:
        self._source = source
        self._gate = gate
        self._admission = admission
        self.size = source.size
        self.pieces = source.pieces

    def close(self) -> None:
        """Gives back what the source holds, and the admission."""
        self._source.close()
        self._gate.give_back(self._admission)


class GatedIncoming:
    """A downloaded object of one of the engines."""

    def __init__(self, inner: Incoming, gate: Gate, admission: Admission) -> None:
        self._inner = inner
        self._gate = gate
        self._admission = admission
        self.report = inner.report

    @property
    def view(self) -> memoryview:
        """The stored bytes."""
        return self._inner.view

    @property
    def place(self) -> Place:
        """Where they are, for another process."""
        return self._inner.place

    def release(self) -> None:
        """Gives the room back."""
        self._inner.release()
        self._gate.give_back(self._admission)
