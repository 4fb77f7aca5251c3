"""Libraries that change what programs see of the system: built from C beside this file, and preloaded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def build(name: str, folder: Path) -> Path:
    """Builds a library from the source with this name; skips the test where that is not possible.

    Args:
        name: of the source beside this file, without its ending.
        folder: where the library is put.
    """
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not here, which builds a library for this test")
    source, library = Path(__file__).with_name(f"{name}.c"), folder / f"{name}.so"
    done = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"gcc cannot build a library for this test: {done.stderr.strip().splitlines()[:1]}")
    return library
