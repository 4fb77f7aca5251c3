"""The times that keep prune and running snapshots apart, all by the store's clock. FORMAT.md has the argument."""

from __future__ import annotations

import msgspec

DEFAULT_SECONDS = 24 * 3600
"""The grace of a repository that does not say its own."""

LEAST_SECONDS = 8
"""Below, the shares of the grace are no longer than the store's clock can tell. Only tests have so little."""

MOST_SECONDS = 366 * 24 * 3600

_LONGEST_SIGNATURE = 7 * 24 * 3600
"""The longest validity that S3 takes."""


class Grace(msgspec.Struct, frozen=True):
    """How long what nobody needs is kept, and the shares of that time."""

    seconds: int = DEFAULT_SECONDS

    @property
    def age(self) -> int:
        """The difference of two times of objects from which the true one surely exceeds the grace."""
        return self.seconds + 1

    @property
    def lease(self) -> int:
        """How long a snapshot may rely on what it found in the repository: three quarters of the grace."""
        return min(self.seconds * 3 // 4, _LONGEST_SIGNATURE)

    @property
    def delay(self) -> int:
        """How much later than its time an object may become visible: an eighth of the grace."""
        return self.seconds // 8

    @property
    def delete(self) -> int:
        """How long a delete is valid."""
        return min(max(self.seconds // 8, 2), 30)

    @property
    def settle(self) -> int:
        """After so long a delete that was valid before has been carried out, or never will be."""
        return 2 * self.delete + 1
