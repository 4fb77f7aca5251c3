"""A process that looks at the workspace ahead of the scan: ``python -m agent.snapshot.lookout``.

It takes the processor that is free while the scan compares, and begins before the rest of the snapshot is even loaded.
"""

from __future__ import annotations

import os
import queue
import stat
import sys
import threading
from collections.abc import Iterator

import msgspec

from agent.pipeline.beneath import DIRECTORY_FLAGS, Beneath
from agent.pipeline.process_name import ProcessName, name_process
from agent.pipeline.worker_process import Connection, WorkerDiedError, own_connection
from agent.snapshot.filters import Filter
from agent.snapshot.listing import list_directory
from agent.snapshot.seen import Facts, Orders, Seen

BATCH = 512
"""Entries of a message at least, but for the last one."""

MESSAGES_AHEAD = 64
"""Messages that wait for the scan at most: about 40,000 entries in small directories, or 3 MB."""

MOST_NAMES = 10_000
"""A directory with more is left to the scan, as messages are kept in memory."""


def main() -> int:
    """Looks at everything once, or as long as there is memory for it."""
    name_process(ProcessName.LOOKOUT)
    connection = own_connection()
    try:
        message, (shared_fd,) = connection.receive()
        # The position in a directory's listing belongs to whoever opened it.
        root_fd = os.open(b".", DIRECTORY_FLAGS, dir_fd=shared_fd)
        _tell(connection, look(root_fd, msgspec.msgpack.decode(message, type=Orders)))
    except (WorkerDiedError, OSError, MemoryError):
        return 1
    return 0


def look(root_fd: int, orders: Orders) -> Iterator[Seen]:
    """Yields the directories of a workspace in archive order. Leaves out what cannot be read: the scan will say so.

    Args:
        root_fd: the workspace.
        orders: what of it is gone through.
    """
    chosen = Filter(orders.exclude, orders.include, orders.exclude_caches)
    device = os.fstat(root_fd).st_dev if orders.one_file_system else None
    pending = [b""]
    with Beneath(root_fd) as beneath:
        while pending:
            path = pending.pop()
            try:
                fd = beneath.directory(path)
                listing = list_directory(fd, path, chosen)
            except OSError:
                continue
            prefix = path + b"/" if path else b""
            facts = [_facts(fd, prefix, name, name in listing.folders, chosen) for name in listing.names]
            if len(facts) <= MOST_NAMES:
                yield Seen(path, listing, facts)
            pending += [
                prefix + name
                for name, known in zip(listing.names, facts, strict=True)
                if known is not None and stat.S_ISDIR(known.st_mode) and device in (None, known.st_dev)
            ]


def _facts(fd: int, prefix: bytes, name: bytes, is_folder: bool, chosen: Filter) -> Facts | None:
    if chosen.leaves_out and not chosen.keeps(prefix + name, is_folder):
        return None
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
    return Facts(
        found.st_mode,
        found.st_nlink,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
    )


def _batches(seen: Iterator[Seen]) -> Iterator[list[Seen]]:
    batch: list[Seen] = []
    count = 0
    for directory in seen:
        batch.append(directory)
        count += 1 + len(directory.facts)
        if count >= BATCH:
            yield batch
            batch, count = [], 0
    yield batch


def _tell(connection: Connection, seen: Iterator[Seen]) -> None:
    messages: queue.Queue[bytes] = queue.Queue(MESSAGES_AHEAD)
    # A daemon, so that the process ends when there is nothing more to say.
    threading.Thread(target=_send, args=(connection, messages), name="send", daemon=True).start()
    encode = msgspec.msgpack.Encoder().encode
    for batch in _batches(seen):
        messages.put(encode(batch))
    messages.put(b"")
    messages.join()


def _send(connection: Connection, messages: queue.Queue[bytes]) -> None:
    try:
        while True:
            connection.send(messages.get())
            messages.task_done()
    except (WorkerDiedError, MemoryError):
        os._exit(1)  # nobody waits for the rest, or gets it


if __name__ == "__main__":
    sys.exit(main())
