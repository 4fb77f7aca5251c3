"""Files of the target under names that the snapshot does not have: content that was renamed or copied may be there."""

from __future__ import annotations

import os
from collections.abc import Callable, Container

from agent.pipeline.beneath import Beneath
from agent.pipeline.work_folder import WORK_FOLDER_PREFIX

CANDIDATES = 4
"""Files of one size that are looked at for one that is missing."""


def files_of_sizes(
    root_fd: int, sizes: Container[int], known: Container[bytes], check: Callable[[], None]
) -> dict[int, list[bytes]]:
    """Returns the paths of at most ``CANDIDATES`` regular files below a folder for each of some sizes.

    Args:
        known: paths that are left out.
        check: called for each folder; raises when all shall stop.
    """
    found: dict[int, list[bytes]] = {}
    folders = [b""]
    with Beneath(root_fd) as beneath:
        while folders:
            check()
            folder = folders.pop()
            try:
                with os.scandir(beneath.directory(folder)) as entries:
                    for item in entries:
                        name = os.fsencode(item.name)
                        path = folder + b"/" + name if folder else name
                        if name.startswith(WORK_FOLDER_PREFIX):
                            continue
                        if item.is_dir(follow_symlinks=False):
                            folders.append(path)
                        elif item.is_file(follow_symlinks=False):
                            size = item.stat(follow_symlinks=False).st_size
                            if size in sizes and path not in known and len(found.get(size, ())) < CANDIDATES:
                                found.setdefault(size, []).append(path)
            except OSError:
                # What cannot be listed holds nothing that can be used.
                continue
    return found
