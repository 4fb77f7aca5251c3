"""A clock that programs see instead of the system's, and that jumps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.preload import build

_LIBRARY = "libfaketimeMT.so.1"


class FalseClock:
    """The time of day of the programs that run with ``environ``, wrong by so many seconds; other clocks stay right.

    Programs without the C library, such as s5cmd, do not notice.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob(f"**/faketime/{_LIBRARY}"))
        if shutil.which("faketime") is None or not found:
            pytest.skip("libfaketime is not here, which lets clocks jump")
        self._libraries = f"{build('sleep', folder)} {found[0]}"
        self._offset = folder / "clock"
        self.set(0)

    @property
    def environ(self) -> Mapping[str, str]:
        """What a program needs in its environment."""
        return {
            "LD_PRELOAD": self._libraries,
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, seconds: int) -> None:
        """Lets the clock be wrong by so many seconds from now on."""
        unfinished = self._offset.with_suffix(".new")
        unfinished.write_text(f"{seconds:+d}\n")
        unfinished.replace(self._offset)
