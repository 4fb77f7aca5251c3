"""A hostile process in a folder: ``python -m tests.faults.hostile.swapper ROOT OUTSIDE SEED PAUSE KIND``.

It swaps folders and files of ROOT for links to what has the same path in OUTSIDE, and back, until its stdin ends. It
does what anybody can who may write to ROOT, so it moves nothing in or out, and leaves the work folder alone.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import sys
import time
from collections.abc import Callable

BEFORE = 40
"""Steps before it says that it has begun; in an empty folder it waits until something is there."""

_EXCHANGE = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


class Swapper:
    """Does one hostile thing after the other.

    Args:
        root: the folder that it may write to.
        outside: what must not be reached; its paths are those that are swapped in ``root``.
        links_files: whether files of ``outside/linked`` get further names in ``root``.
    """

    def __init__(self, root: bytes, outside: bytes, chance: random.Random, *, links_files: bool) -> None:
        self._root, self._outside, self._chance = root, outside, chance
        self._folders: list[bytes] = []
        self._files: list[bytes] = []
        self._open: list[int] = []
        for folder, folders, files in os.walk(outside):
            self._folders += [os.path.relpath(os.path.join(folder, name), outside) for name in folders]
            self._files += [os.path.relpath(os.path.join(folder, name), outside) for name in files]
        self._steps: list[Callable[[], None]] = [
            self._swap_folder, self._swap_folder, self._exchange_folder, self._move_folder_about, self._plant_folder,
            self._link_symbolically, self._replace_folder_by_file,
        ]  # fmt: skip
        if links_files:
            self._steps.append(self._link_hard)

    def step(self) -> None:
        """Does something; what is not there cannot be swapped."""
        try:
            self._chance.choice(self._steps)()
        except OSError:
            pass
        finally:
            while self._open:
                os.close(self._open.pop())

    def _swap_folder(self) -> None:
        parent, name, outside = self._folder()
        away = name + b".away"
        os.rename(name, away, src_dir_fd=parent, dst_dir_fd=parent)
        os.symlink(outside, name, dir_fd=parent)
        self._dawdle()
        os.unlink(name, dir_fd=parent)
        os.rename(away, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _exchange_folder(self) -> None:
        """There is no moment at which neither stands there."""
        parent, name, outside = self._folder()
        link = name + b".link"
        try:
            os.symlink(outside, link, dir_fd=parent)
        except FileExistsError:
            pass
        for _ in range(2):
            _exchange(parent, name, link)
            self._dawdle()

    def _move_folder_about(self) -> None:
        parent, name, _ = self._folder()
        to, other, _ = self._folder()
        moved = other + b".moved"
        os.rename(name, moved, src_dir_fd=parent, dst_dir_fd=to)
        self._dawdle()
        os.rename(moved, name, src_dir_fd=to, dst_dir_fd=parent)

    def _plant_folder(self) -> None:
        parent, name, outside = self._folder()
        os.symlink(outside, name, dir_fd=parent)

    def _link_symbolically(self) -> None:
        parent, name, outside = self._file()
        os.symlink(outside, name + b".new", dir_fd=parent)
        os.rename(name + b".new", name, src_dir_fd=parent, dst_dir_fd=parent)

    def _link_hard(self) -> None:
        parent, name, _ = self._file()
        linked = os.path.join(self._outside, b"linked")
        os.link(os.path.join(linked, self._chance.choice(os.listdir(linked))), name + b".new", dst_dir_fd=parent)
        os.rename(name + b".new", name, src_dir_fd=parent, dst_dir_fd=parent)

    def _replace_folder_by_file(self) -> None:
        parent, name, _ = self._folder()
        away = name + b".away"
        os.rename(name, away, src_dir_fd=parent, dst_dir_fd=parent)
        os.mknod(name, 0o100644, dir_fd=parent)
        self._dawdle()
        os.unlink(name, dir_fd=parent)
        os.rename(away, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _folder(self) -> tuple[int, bytes, bytes]:
        return self._place(self._chance.choice(self._folders))

    def _file(self) -> tuple[int, bytes, bytes]:
        return self._place(self._chance.choice(self._files))

    def _place(self, path: bytes) -> tuple[int, bytes, bytes]:
        """Returns the folder and the name of a path, and what it is swapped for; follows no link of its own."""
        *above, name = path.split(b"/")
        folder = self._opened(self._root)
        for part in above:
            folder = self._opened(part, folder)
        return folder, name, os.path.join(self._outside, path)

    def _opened(self, path: bytes, folder: int | None = None) -> int:
        self._open.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder))
        return self._open[-1]

    def _dawdle(self) -> None:
        for _ in range(self._chance.choice((0, 0, 10, 100, 1000))):
            pass


def _exchange(folder: int, one: bytes, other: bytes) -> None:
    if _LIBC.renameat2(folder, one, folder, other, _EXCHANGE):
        raise OSError(ctypes.get_errno(), "they cannot be exchanged")


def main() -> None:
    """Swaps until stdin ends."""
    root, outside, seed, pause, kind = map(os.fsencode, sys.argv[1:])
    swapper = Swapper(root, outside, random.Random(seed), links_files=kind == b"target")
    is_empty = not os.listdir(root)
    for _ in range(0 if is_empty else BEFORE):
        swapper.step()
    print("begun", flush=True)
    while not select.select([0], [], [], 0)[0]:
        if is_empty:
            is_empty = not os.listdir(root)
            continue
        swapper.step()
        time.sleep(float(pause))


if __name__ == "__main__":
    main()
