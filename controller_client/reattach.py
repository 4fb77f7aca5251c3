"""How a lost connection is taken up again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from controller_client.errors import AgentUnreachableError


@dataclass(frozen=True)
class ReattachPolicy:
    """How long and how often a lost connection is tried again.

    Attributes:
        seconds: how long the agent may be away before following an operation fails.
        first_delay: seconds before the first new try; doubled for each further one.
        longest_delay: seconds between two tries at most.
        on_lost: called once when a connection is lost, with the reason; must not block.
    """

    seconds: float = 300.0
    first_delay: float = 0.1
    longest_delay: float = 3.0
    on_lost: Callable[[AgentUnreachableError], None] | None = None


class Outage:
    """One time without a connection: says how long to wait before each new try, and when to give up."""

    def __init__(self, policy: ReattachPolicy) -> None:
        self._policy = policy
        self._began: float | None = None
        self._delay = policy.first_delay

    async def wait(self, error: AgentUnreachableError) -> None:
        """Waits until the next try is due.

        Raises:
            AgentUnreachableError: ``error``, when the time is used up.
        """
        if self._began is None:
            self._began = time.monotonic()
            if self._policy.on_lost is not None:
                self._policy.on_lost(error)
        left = self._policy.seconds - (time.monotonic() - self._began)
        if left <= 0:
            raise error
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - keeps many clients from trying at the same moment
        await asyncio.sleep(min(left, self._delay * spread))
        self._delay = min(self._delay * 2, self._policy.longest_delay)
