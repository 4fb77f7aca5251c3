"""The signals that end the agent, and a bound on how long its end may take."""

from __future__ import annotations

import asyncio
import os
import signal
import threading


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


def end_within(seconds: float) -> None:
    """Makes sure that the process ends, with status 0, when all that matters is done.

    Threads that wait for a silent store or file system would otherwise keep it alive for as long as they wait.
    """
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()
