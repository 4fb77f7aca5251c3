"""The agent's pulse: proves that its event loop turns, and tells the service manager what runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from agent.daemon.notify import Notifier

INTERVAL_SECONDS = 0.5
"""Seconds from beat to beat."""

LAGS_KEPT = 40
"""Beats whose longest delay is reported: more than the 15 s after which Prometheus usually comes again."""


async def beat(notifier: Notifier, status: Callable[[], str], report_lag: Callable[[float], None]) -> None:
    """Feeds the watchdog, reports changes of the status, and measures the event loop's delay, for ever.

    Args:
        status: one line saying what the agent does.
        report_lag: gets the longest delay of the last beats, in seconds.
    """
    loop = asyncio.get_running_loop()
    interval = INTERVAL_SECONDS
    if notifier.watchdog_seconds:
        interval = min(interval, notifier.watchdog_seconds / 3)
    lags: deque[float] = deque(maxlen=LAGS_KEPT)
    told = ""
    while True:
        if notifier.watchdog_seconds:
            notifier.alive()
        text = status()
        if text != told:
            notifier.status(text)
            told = text
        begin = loop.time()
        await asyncio.sleep(interval)
        lags.append(max(0.0, loop.time() - begin - interval))
        report_lag(max(lags))
