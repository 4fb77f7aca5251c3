"""Workspaces to measure with, prepared once and kept in a cache folder."""

from __future__ import annotations

import enum
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.benchmarks.weights import write_shards

MIB = 1 << 20

RECIPE = 1
"""To be raised when what is below changes, so that prepared workspaces are made anew."""


SETTLED_SECONDS = 4.0
"""A file that changed in the three seconds before a snapshot is read again by the next one."""


class Size(enum.Enum):
    """How much is moved: ``full`` is about 3 GB as a user's workspace, ``quick`` about 300 MB to try it out."""

    FULL = "full"
    QUICK = "quick"


class WorkspaceError(Exception):
    """A workspace could not be prepared."""


@dataclass(frozen=True)
class Recipe:
    """What a prepared workspace holds."""

    weights: int
    shards: int
    packages: tuple[str, ...]
    small_files: int
    small_directories: int


RECIPES = {
    Size.FULL: Recipe(
        1600 * MIB,
        5,
        (
            "boto3", "datasets", "diffusers", "jupyterlab", "matplotlib", "numba", "onnxruntime",
            "opencv-python-headless", "pandas", "plotly", "pyarrow", "scikit-learn", "scipy", "sympy", "transformers",
        ),
        200_000,
        1_000,
    ),
    Size.QUICK: Recipe(192 * MIB, 3, ("numpy", "sympy", "boto3"), 10_000, 50),
}  # fmt: skip

SMALL_FILE_BYTES = 4096


class Contents(msgspec.Struct, frozen=True):
    """What a workspace holds: entries below it, and regular files with their bytes, weights among them."""

    entries: int
    files: int
    bytes: int
    weights: tuple[str, ...]
    weight_bytes: int


def prepare(cache: Path, size: Size) -> Path:
    """Returns a workspace of model weights and a Python environment; makes it if it is not there yet.

    Raises:
        WorkspaceError: the environment's packages could not be installed.
    """
    recipe = RECIPES[size]
    workspace = cache / f"workspace-{size.value}"
    with _Made(workspace) as fresh:
        if fresh:
            print(f"preparing {workspace}, once", flush=True)
            write_shards(workspace / "models" / "base-model", recipe.weights, recipe.shards)
            _make_environment(workspace / "env", recipe.packages)
    return workspace


def prepare_small_files(cache: Path, size: Size) -> Path:
    """Returns a workspace of many files of 4 KB that share no content; makes it if it is not there yet."""
    recipe = RECIPES[size]
    workspace = cache / f"small-files-{size.value}"
    with _Made(workspace) as fresh:
        if fresh:
            print(f"preparing {workspace}, once", flush=True)
            source = random.Random(0)
            for directory in range(recipe.small_directories):
                folder = workspace / f"directory-{directory:04}"
                folder.mkdir(parents=True)
                for number in range(recipe.small_files // recipe.small_directories):
                    (folder / f"file-{number:04}").write_bytes(source.randbytes(SMALL_FILE_BYTES))
    return workspace


def contents(workspace: Path) -> Contents:
    """Counts what a workspace holds, once nothing in it is so new that it might be taken for changed."""
    entries = files = size = weight_bytes = 0
    newest = 0.0
    weights = []
    for path in _walk(workspace):
        entries += 1
        newest = max(newest, path.stat(follow_symlinks=False).st_ctime)
        if path.is_file(follow_symlinks=False):
            files += 1
            size += path.stat().st_size
            if path.name.endswith(".safetensors"):
                weights.append(os.path.relpath(path.path, workspace))
                weight_bytes += path.stat().st_size
    time.sleep(min(max(newest + SETTLED_SECONDS - time.time(), 0.0), SETTLED_SECONDS))
    return Contents(entries, files, size, tuple(sorted(weights)), weight_bytes)


class _Made:
    """Notes beside a folder that it is complete, so that one whose making was interrupted is made anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = folder.with_name(folder.name + ".complete")
        self._is_fresh = False

    def __enter__(self) -> bool:
        if self._mark.exists() and self._mark.read_text() == str(RECIPE):
            return False
        self._is_fresh = True
        self._mark.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        return True

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        # Only then: another benchmark may read it in this moment.
        if self._is_fresh and kind is None:
            self._mark.write_text(str(RECIPE))


def _make_environment(folder: Path, packages: tuple[str, ...]) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, *packages]):
        ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ended.returncode:
            raise WorkspaceError(f"{' '.join(command[:4])} ... failed: {ended.stderr.strip()[-600:]}")


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    pending = [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as scan:
            for entry in scan:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
