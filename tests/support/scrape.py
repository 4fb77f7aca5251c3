"""What Prometheus would read from an agent."""

from __future__ import annotations

import urllib.request

from tests.support.daemon import Daemon

SECONDS = 60.0


def scrape(daemon: Daemon) -> dict[str, float]:
    """Returns every sample of an agent's metrics, by its name and labels as they are written."""
    with urllib.request.urlopen(daemon.metrics_url, timeout=SECONDS) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
