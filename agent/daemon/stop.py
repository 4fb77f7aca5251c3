"""The signals that end the agent."""

from __future__ import annotations

import asyncio
import signal


class StopSignals:
    """Turns SIGTERM and SIGINT into events of the running loop: the first asks to end, a second one to hurry."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came)

    def _came(self) -> None:
        (self.hurry if self.asked.is_set() else self.asked).set()
