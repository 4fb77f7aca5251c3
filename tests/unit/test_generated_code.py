"""The checked-in code is what the proto generates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).parents[2] / "proto"


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    copy = tmp_path / "proto"
    (copy / "gpusnap/v1").mkdir(parents=True)
    shutil.copy(PROTO / "generate.sh", copy)
    for source in (PROTO / "gpusnap/v1").glob("*.proto"):
        shutil.copy(source, copy / "gpusnap/v1")
    subprocess.run([copy / "generate.sh"], check=True, env={**os.environ, "PYTHON": sys.executable})
    generated = {path.name: path.read_text() for path in (copy / "gpusnap/v1").glob("*_pb2*")}
    checked_in = {path.name: path.read_text() for path in (PROTO / "gpusnap/v1").glob("*_pb2*")}
    assert len(generated) == 6
    assert generated == checked_in, "run `make proto` and commit what it writes"
