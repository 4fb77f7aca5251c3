"""Python code in processes of their own: without privilege, or with file systems of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

NOBODY = 65534

AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
"""What runs a command without privilege."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems and gives up privilege")


def with_tmpfs(place: Path, options: str = "size=16m") -> tuple[str, ...]:
    """Returns what runs a command that alone sees a new file system at ``place``."""
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs "{place}" && exec "$@"', "sh")


def run_python(code: str, *arguments: object, under: Sequence[str] = (), status: int = 0) -> bytes:
    """Runs code with this repository's packages and returns its output.

    Another exit status (or, negative, signal) than ``status`` fails the test with what was written to stderr.
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*under, sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/proto", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == status, done.stderr.decode()
    return done.stdout
