"""The transfer engine of a store in a folder: it renames, and copies nothing."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from agent.errors import NoSpaceError
from agent.storage.directory import DirectoryStore
from agent.storage.engine import IncomingFile, OutgoingFile, TransferReport
from agent.storage.local import create_local, remove_file
from agent.storage.staging import Budget, cancelled

_T = TypeVar("_T")


class DirectoryEngine:
    """Moves chunks into and out of a ``DirectoryStore`` by renaming; no byte is copied.

    Args:
        store: where the objects are.
        capacity: bytes on their way at once.
        threads: transfers at once; each waits for the disk most of the time.
    """

    name = "directory"

    def __init__(self, store: DirectoryStore, capacity: int, threads: int) -> None:
        self._store = store
        self._budget = Budget(capacity)
        self._pool = ThreadPoolExecutor(threads, "directory-engine")
        self._lock = threading.Lock()
        self._folder = ""
        self._aborted = False

    def outgoing(self, size: int) -> OutgoingFile:
        """Returns an empty file in the store's own folder for temporary names."""
        charge = self._budget.acquire(size)
        try:
            free = self._store.free_bytes()
            if free < size:
                raise NoSpaceError(f"the store {self._store.location} has {free:,} bytes free, {size:,} are needed")
            path = os.path.join(self._own_folder(), secrets.token_hex(8))
            create_local(path).close()
        except BaseException:
            self._budget.release(charge)
            raise
        return _Outgoing(path, self._budget, charge)

    def upload(self, file: OutgoingFile, key: str) -> Future[TransferReport]:
        """Makes the file durable and renames it to its key."""

        def adopt() -> TransferReport:
            start = time.monotonic()
            size = self._store.adopt(file.path, key)
            file.release()
            return TransferReport(size, time.monotonic() - start, 1)

        return self._submit(adopt, file.release)

    def download(self, key: str, size: int) -> Future[IncomingFile]:
        """Hands out the object's own file, once it is known to exist."""
        charge = self._budget.acquire(size)

        def find() -> IncomingFile:
            start = time.monotonic()
            found = self._store.head(key)
            report = TransferReport(found.size, time.monotonic() - start, 1)
            return _Incoming(self._store.path_of(key), report, self._budget, charge)

        return self._submit(find, lambda: self._budget.release(charge))

    def close(self) -> None:
        """Waits for what is running and removes the folder for temporary names."""
        self._pool.shutdown()
        self._remove_folder()

    def abort(self) -> None:
        """Fails what waits, and removes every file that is not an object yet."""
        self._aborted = True
        self._budget.abort()
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


class _Outgoing:
    """A file under a temporary name with its share of the budget."""

    def __init__(self, path: str, budget: Budget, charge: int) -> None:
        self.path = path
        self._budget = budget
        self._charge = charge
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            charge, self._charge = self._charge, 0
        remove_file(self.path)
        if charge:
            self._budget.release(charge)


class _Incoming:
    """An object's own file with its share of the budget."""

    def __init__(self, path: str, report: TransferReport, budget: Budget, charge: int) -> None:
        self.path = path
        self.report = report
        self._budget = budget
        self._charge = charge
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            charge, self._charge = self._charge, 0
        if charge:
            self._budget.release(charge)
