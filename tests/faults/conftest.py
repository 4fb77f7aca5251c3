"""What all tests of faults share: one seed for a run, and a count of what was tried."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.fuzz import tried
from tests.support.proxy import Proxy
from tests.support.seaweed import SeaweedServer

SEED = "GPUSNAP_SEED"
"""The variable with the seed of a run; processes of pytest-xdist get it from the first one."""


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(SEED, str(random.SystemRandom().randrange(1 << 32)))


def pytest_report_header(config: pytest.Config) -> str:
    return f"faults: {SEED}={os.environ[SEED]} repeats the random moments of this run"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """The seed of one test in this run."""
    return f"{os.environ[SEED]} {request.node.name}"


@pytest.fixture
def chance(seed: str) -> random.Random:
    """The test's own source of chance."""
    return random.Random(seed)


@pytest.fixture(scope="module")
def proxy(seaweed: SeaweedServer) -> Iterator[Proxy]:
    """The way to the store."""
    made = Proxy(seaweed.address)
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_bucket(seaweed: SeaweedServer) -> Iterator[str]:
    """A bucket for all tests of a module."""
    name = seaweed.make_bucket()
    yield name
    seaweed.start()
    seaweed.remove_bucket(name)


@pytest.fixture(autouse=True)
def _count_cases(request: pytest.FixtureRequest) -> Iterator[None]:
    name = getattr(request.node, "originalname", request.node.name)
    before = tried[name]
    yield
    if tried[name] > before:
        request.node.user_properties.append(("cases", tried[name] - before))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                name = report.nodeid.rpartition("::")[2].partition("[")[0]
                counts[name] += sum(count for key, count in report.user_properties if key == "cases")
    for name, count in sorted(counts.items()):
        if count:
            terminalreporter.write_line(f"{count:8,} cases  {name}")
    if sum(counts.values()):
        terminalreporter.write_line(f"{sum(counts.values()):8,} cases in all")
