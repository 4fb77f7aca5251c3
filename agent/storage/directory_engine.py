"""The transfer engine of a store in a folder: it renames what goes out, and reads what comes in into reused memory."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import msgspec

from agent.errors import NoSpaceError
from agent.pipeline.workers import free_memory
from agent.storage.arena import Arena, Room, arena_bytes
from agent.storage.choice import FOLDER
from agent.storage.directory import DirectoryStore
from agent.storage.engine import Incoming, Outgoing, TransferReport
from agent.storage.local import create_local, remove_file
from agent.storage.outgoing_file import OutgoingFile
from agent.storage.staging import Budget, cancelled

_T = TypeVar("_T")


class DirectoryEngine:
    """Moves chunks into and out of a ``DirectoryStore``.

    Objects are read into memory and not mapped: others may cut a file of the store at any time, and then touching the
    mapping kills the process, while a read only comes out short. Many reads at once also suit a store on a network.

    Args:
        store: where the objects are.
        capacity: bytes on their way at once; what comes in also stays within an arena.
        threads: transfers at once; each waits for the disk most of the time.
    """

    name = FOLDER
    sources = None
    loans = None

    def __init__(self, store: DirectoryStore, capacity: int, threads: int) -> None:
        self._store = store
        self._budget = Budget(capacity)
        self._arena = Arena(arena_bytes(capacity, free_memory()))
        self._pool = ThreadPoolExecutor(threads, "directory-engine")
        self._lock = threading.Lock()
        self._folder = ""
        self._aborted = False

    def outgoing(self, size: int) -> OutgoingFile:
        """Returns an empty file in the store's own folder for temporary names."""
        charge = self._budget.acquire(size)
        try:
            if self._store.free_bytes() < size:
                raise self._full(size)
            path = os.path.join(self._own_folder(), secrets.token_hex(8))
            file = create_local(path)
        except BaseException:
            self._budget.release(charge)
            raise

        def give_back() -> None:
            remove_file(path)
            self._budget.release(charge)

        return OutgoingFile(path, file, size, lambda: self._full(size), give_back)

    def upload(self, outgoing: Outgoing, key: str) -> Future[TransferReport]:
        """Makes the file durable and renames it to its key."""
        assert isinstance(outgoing, OutgoingFile)

        def adopt() -> TransferReport:
            start = time.monotonic()
            outgoing.finish()
            size = self._store.adopt(outgoing.path, key)
            outgoing.release()
            return TransferReport(size, time.monotonic() - start, 1, self.name)

        return self._submit(adopt, outgoing.release)

    def download(self, key: str, size: int) -> Future[Incoming]:
        """Reads the object into memory."""
        room = self._arena.take(size + 1)

        def read() -> Incoming:
            start = time.monotonic()
            count, whole_size = self._store.read_into(key, room.view)
            report = TransferReport(whole_size, time.monotonic() - start, 1, self.name)
            return _Incoming(room, count, report)

        return self._submit(read, room.release)

    def close(self) -> None:
        """Waits for what is running and removes the folder for temporary names."""
        self._pool.shutdown()
        self._remove_folder()

    def abort(self) -> None:
        """Fails what waits, and removes every file that is not an object yet."""
        self._aborted = True
        self._budget.abort()
        self._arena.abort()
        self._pool.shutdown()
        self._remove_folder()

    def _submit(self, work: Callable[[], _T], undo: Callable[[], None]) -> Future[_T]:
        """Runs ``work`` in the pool; ``undo`` gives back what it holds if it does not succeed."""
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                if self._aborted:
                    raise cancelled()
                result = work()
            except BaseException as error:
                undo()
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            self._pool.submit(run)
        except RuntimeError:
            undo()
            future.set_exception(cancelled())
        return future

    def _full(self, size: int) -> NoSpaceError:
        free = self._store.free_bytes()
        return NoSpaceError(f"the store {self._store.location} has {free:,} bytes free, {size:,} are needed")

    def _own_folder(self) -> str:
        with self._lock:
            if not self._folder:
                self._folder = self._store.incoming_folder()
            return self._folder

    def _remove_folder(self) -> None:
        with self._lock:
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""


class _Incoming:
    """An object in memory."""

    def __init__(self, room: Room, size: int, report: TransferReport) -> None:
        self._room = room
        self.view = room.view[:size].toreadonly()
        self.place = msgspec.structs.replace(room.place, size=size)
        self.report = report

    def release(self) -> None:
        self.view.release()
        self._room.release()
