"""Fetches segments over lent connections and writes them as they come: from the network to the disk in one process."""

from __future__ import annotations

import msgspec

from agent.restore.decode import Decoder
from agent.restore.segment_writer import SegmentWriter, Take
from agent.restore.task import SegmentFetch, Written
from agent.storage.borrower import Arriving, Borrower, NotFetchedError
from agent.storage.loan import Arrival


class SegmentReceiver:
    """Does what is to be fetched and written. One per thread."""

    def __init__(self, decoder: Decoder, segments: SegmentWriter) -> None:
        self._decoder = decoder
        self._segments = segments
        self._borrower = Borrower()

    def close(self) -> None:
        """Closes its connection."""
        self._borrower.close()

    def write(self, task: SegmentFetch) -> Written:
        """Fetches a segment and writes it; not done if it does not come as it should.

        Raises:
            DataLossError: its bytes are damaged.
            GpusnapError: it cannot be written.
        """
        fetched: list[Arriving] = []

        def feed(take: Take) -> None:
            fetched.append(self._borrower.fetch(task.loan))
            self._decoder.receive(fetched[-1].fill, task.chunk, take)

        try:
            written = self._segments.write(task.places, feed)
        except NotFetchedError:
            return Written(is_done=False)
        arrival = _together([arriving.arrival for arriving in fetched])
        decode_seconds = max(written.decode_seconds - arrival.seconds, 0.0)
        return msgspec.structs.replace(written, decode_seconds=decode_seconds, arrival=arrival)


def _together(arrivals: list[Arrival]) -> Arrival:
    """A segment that goes into very many files comes several times."""
    seconds = sum(arrival.seconds for arrival in arrivals)
    waited = sum(arrival.waited for arrival in arrivals)
    return Arrival(seconds, waited, max(arrival.attempts for arrival in arrivals))
