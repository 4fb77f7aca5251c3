"""A real agent for each test that asks for one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon


@pytest.fixture
def daemon_folder() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stopped_daemon(daemon_folder: Path) -> Iterator[Daemon]:
    """An agent over a local store that is not started yet."""
    daemon = Daemon(daemon_folder)
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(stopped_daemon: Daemon) -> Daemon:
    """An agent over a local store that answers."""
    stopped_daemon.start()
    return stopped_daemon
