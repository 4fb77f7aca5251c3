"""A worker process of a restore: ``python -m agent.restore.worker``. It writes chunks until its connection ends."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Sequence

import msgspec

from agent.errors import describe, is_defect
from agent.pipeline.local_errors import local_error
from agent.pipeline.memory import Mappings
from agent.pipeline.process_name import ProcessName, name_process
from agent.pipeline.warnings import Warnings
from agent.pipeline.worker_process import WorkerDiedError, beating, own_connection, received
from agent.repository.manifest_reader import read_local
from agent.restore.chunk_writer import ChunkWriter
from agent.restore.keep import Keeper
from agent.restore.metadata import Metadata
from agent.restore.present import Comparing
from agent.restore.selection import Selection
from agent.restore.target import Folders
from agent.restore.task import Answer, PlacedTask, Refused, Setup
from agent.restore.writer import Writer


def main() -> int:
    """Does the tasks of one operation."""
    name_process(ProcessName.WRITE)
    connection = beating(own_connection())
    tasks = msgspec.msgpack.Decoder(PlacedTask)
    try:
        message, (root_fd, work_fd) = connection.receive()
        setup, folders = msgspec.msgpack.decode(message, type=Setup), Folders(root_fd, work_fd)
        # Made for the first task, which then says what was wrong.
        worker = functools.cache(lambda: _chunk_writer(setup, folders))
        mappings = Mappings()
        while True:
            message, descriptors = connection.receive()
            with received(descriptors):
                answer = _answer(worker, tasks.decode(message), mappings, descriptors)
            connection.send(msgspec.msgpack.encode(answer))
    except WorkerDiedError:
        return 0


def _chunk_writer(setup: Setup, folders: Folders) -> ChunkWriter:
    warnings = Warnings()
    manifest, selection = read_local(setup.manifest), Selection(setup.paths)
    metadata = Metadata(warnings)
    is_fresh = setup.comparing is Comparing.NOT
    writer = Writer(folders, setup.number, setup.if_not_empty, metadata, is_fresh, setup.bypasses_cache, warnings)
    keeper = Keeper(folders.root_fd, setup.comparing, metadata)
    # Nothing to check: whoever wants it to stop kills it.
    return ChunkWriter(manifest, selection, writer, keeper, metadata, setup.comparing, warnings, lambda: None)


def _answer(
    worker: Callable[[], ChunkWriter], placed: PlacedTask, mappings: Mappings, descriptors: Sequence[int]
) -> Answer:
    try:
        stored = mappings.view(descriptors[0], placed.offset, placed.size) if placed.size else memoryview(b"")
        return worker().write(placed.task, stored)
    except OSError as error:
        return Refused(describe(local_error("restoring a chunk failed", error)))
    except Exception as error:
        if is_defect(error):
            traceback.print_exc()
        return Refused(describe(error))


if __name__ == "__main__":
    sys.exit(main())
