"""The clock that requests are signed with: this machine's, until a store says that it is wrong."""

from __future__ import annotations

import calendar
import time

from agent.storage.http_head import BrokenAnswerError
from agent.storage.s3_listing import http_time

TOLERATED_SECONDS = 60.0
"""What the clocks may differ by; stores refuse requests whose signature is 15 minutes off, and some sooner."""


class SigningClock:
    """Tells the time as one store sees it. For any thread."""

    def __init__(self) -> None:
        self._ahead = 0.0

    @property
    def ahead(self) -> float:
        """Seconds that the store's clock is ahead of this machine's; 0 unless the store has refused its time."""
        return self._ahead

    def now(self) -> float:
        """Returns seconds since 1970."""
        return time.time() + self._ahead

    def learn(self, date: str, signed: str) -> bool:
        """Takes the store's time from a refusal; says whether that explains it, so that the next try has another time.

        Args:
            date: the refusal's Date header; one that is no date teaches nothing.
            signed: when the request was signed, as 20261123T180553Z.
        """
        try:
            theirs = http_time(date) / 1e9
        except BrokenAnswerError:
            return False
        if abs(theirs - calendar.timegm(time.strptime(signed, "%Y%m%dT%H%M%SZ"))) <= TOLERATED_SECONDS:
            return False
        # Of several requests on their way, only the first teaches something.
        if abs(theirs - self.now()) > TOLERATED_SECONDS:
            self._ahead = theirs - time.time()
        return True
