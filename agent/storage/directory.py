"""A store in a folder of a local or shared file system."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

from agent.errors import (
    BucketNotFoundError,
    DeadlinePassedError,
    GpusnapError,
    InvalidRequestError,
    NoSpaceError,
    ObjectNotFoundError,
    StorageAccessDeniedError,
    StorageUnavailableError,
)
from agent.storage.directory_deadline import REMOVED_PREFIX, UPLOAD_PREFIX, check_in_time, remove_as_seen, undo
from agent.storage.keys import check_key, clean_prefix, join
from agent.storage.local import new_local, open_local, write_local
from agent.storage.store import Deadline, ObjectInfo

INCOMING = ".gpusnap-incoming"
"""The folder below the prefix for objects under temporary names: never listed, and no key can reach into it."""

LEFTOVER_SECONDS = 24 * 3600
"""Age by the store's clock after which a temporary file is a killed process's: no chunk takes a day to write."""

RENAME_ATTEMPTS = 10
"""A delete may remove the folder that a rename has just made; losing that race ten times in a row does not happen."""

COPY_BYTES = 4 << 20

_T = TypeVar("_T")


class DirectoryStore:
    """A repository in a folder; each object is a file, whose age counts from when it was last written or renamed.

    Args:
        folder: the folder, which must exist; it stands for the bucket.
        prefix: the prefix of every key; its folders are made when needed.
    """

    def __init__(self, folder: str, prefix: str = "") -> None:
        self._folder = os.path.abspath(folder)
        self._base = os.path.abspath(join(self._folder, clean_prefix(prefix)))

    @property
    def location(self) -> str:
        """The folder of the repository."""
        return self._base

    @property
    def clock_ahead_ns(self) -> int:
        """Always 0: a folder refuses nothing."""
        return 0

    def check(self) -> None:
        """Makes sure that the folder exists and may be read and written."""
        with self._errors():
            self._demand_folder()
            if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
                raise StorageAccessDeniedError(f"the folder {self._folder} may not be read and written")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yields every object whose key begins with ``prefix``, by ascending key."""
        with self._errors():
            self._demand_folder()
            folder, slash, start = prefix.rpartition("/")
            yield from self._walk(folder + slash, start)

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yields the distinct next components below ``prefix``; folders without any object are left out."""
        with self._errors():
            self._demand_folder()
            for entry in self._scan(prefix):
                if entry.is_dir() and next(self._walk(f"{prefix}{entry.name}/", ""), None):
                    yield entry.name

    def head(self, key: str) -> ObjectInfo:
        """Returns the facts about one object."""
        with self._errors(key), self._open(key) as file:
            return _info(key, os.fstat(file.fileno()))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Returns ``length`` bytes from ``offset``, or all the rest."""
        with self._errors(key), self._open(key) as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Returns the last ``length`` bytes and the whole size."""
        with self._errors(key), self._open(key) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - length, 0))
            return file.read(length), size

    def read_into(self, key: str, buffer: memoryview) -> tuple[int, int]:
        """Reads as much of the object as fits; returns the bytes that were read, and its whole size."""
        with self._errors(key), self._open(key) as file:
            size = os.fstat(file.fileno()).st_size
            return file.readinto(buffer[:size]), size  # type: ignore[attr-defined]

    def download(self, key: str, path: str) -> None:
        """Copies the object to a new local file."""
        with self._errors(key), self._open(key) as source, new_local(path) as target:
            while piece := source.read(COPY_BYTES):
                write_local(target, piece)

    def write(self, key: str, data: bytes) -> None:
        """Stores a small object durably."""
        self._store(key, lambda file: file.write(data))

    def upload(self, key: str, path: str) -> None:
        """Stores a copy of a local file durably."""
        with open_local(path) as source:
            self._store(key, lambda file: shutil.copyfileobj(source, file, COPY_BYTES))

    def upload_before(self, key: str, path: str, deadline: Deadline) -> None:
        """Stores a copy of a local file durably, if it is not too late by the folder's clock."""
        folder = self.incoming_folder(UPLOAD_PREFIX)
        try:
            own = os.path.join(folder, "object")
            with open_local(path) as source, self._errors(key), open(own, "xb") as file:
                shutil.copyfileobj(source, file, COPY_BYTES)
            with self._errors(key):
                check_in_time(own, deadline, f"{self._base}/{key}")
                self.adopt(own, key)
        except ObjectNotFoundError as error:
            # A prune has taken the file away, as it was far too old.
            raise DeadlinePassedError(f"{self._base}/{key}: its time was over") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def copy(self, source: str, key: str) -> None:
        """Stores a copy of an object under another key durably."""
        with self._errors(source), self._open(source) as file:
            self._store(key, lambda made: shutil.copyfileobj(file, made, COPY_BYTES))

    def delete(self, key: str) -> None:
        """Deletes an object, and the folders that it leaves empty."""
        with self._errors(key):
            self._demand_folder()
            path = self.path_of(key)
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            self._remove_empty_folders(os.path.dirname(path))

    def delete_if_older(self, key: str, than_s: int, deadline: Deadline) -> int | None:
        """Deletes an object that is older, if it is not too late by the folder's clock."""
        path = self.path_of(key)
        try:
            with self._errors(key):
                seen = os.stat(path)
        except ObjectNotFoundError:
            return None
        if not stat.S_ISREG(seen.st_mode) or _info(key, seen).modified_s >= than_s:
            return None
        folder = self.incoming_folder(REMOVED_PREFIX)
        try:
            with self._errors(key):
                check_in_time(folder, deadline, path)
                if not remove_as_seen(path, key, seen, folder):
                    return None
                self._remove_empty_folders(os.path.dirname(path))
                return seen.st_size
        except ObjectNotFoundError:
            return None
        finally:
            self._remove_own(folder)

    def demand_deadlines(self, seconds: int) -> None:
        """Takes the files away that processes which were stopped could still rename."""
        own = self.incoming_folder()
        try:
            with self._errors():
                undo(os.path.dirname(own), self._base, os.stat(own).st_mtime_ns // 10**9, seconds)
        finally:
            self._remove_own(own)

    def close(self) -> None:
        """Does nothing: no connection is held."""

    def path_of(self, key: str) -> str:
        """Returns the file of an object.

        Raises:
            InvalidRequestError: the key is not allowed.
        """
        if check_key(key).split("/", 1)[0] == INCOMING:
            raise InvalidRequestError(f"the object key {key!r} is not allowed")
        return os.path.join(self._base, key)

    def incoming_folder(self, prefix: str = "") -> str:
        """Makes a folder of the caller's own for temporary names, on the store's file system, and returns its path."""
        with self._errors():
            self._demand_folder()
            path = os.path.join(self._base, INCOMING, f"{prefix}{secrets.token_hex(8)}")
            os.makedirs(path)
            self._remove_leftovers(os.stat(path).st_mtime)
            return path

    def adopt(self, path: str, key: str) -> int:
        """Makes a finished temporary file the object ``key``, durably and without copying; returns its bytes."""
        with self._errors(key):
            final = self.path_of(key)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            self._rename(path, final)
            return size

    def free_bytes(self) -> int:
        """Returns how many bytes the file system can still hold."""
        with self._errors():
            return shutil.disk_usage(self._folder).free

    def _store(self, key: str, fill: Callable[[BinaryIO], object]) -> None:
        self.path_of(key)
        folder = self.incoming_folder()
        try:
            path = os.path.join(folder, "object")
            with self._errors(key):
                with open(path, "xb") as file:
                    fill(file)
                self.adopt(path, key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _rename(self, path: str, final: str) -> None:
        for attempt in range(RENAME_ATTEMPTS):
            try:
                made = self._make_folders(os.path.dirname(final))
                os.rename(path, final)
            except FileNotFoundError:
                if attempt + 1 == RENAME_ATTEMPTS or not os.path.exists(path):
                    raise
                continue
            for folder in {os.path.dirname(final), *made}:
                _sync_folder(folder)
            return

    def _make_folders(self, folder: str) -> set[str]:
        """Makes ``folder`` and those above it; returns the folders whose list of names changed by that."""
        changed = set()
        missing = folder
        while missing != self._folder and not os.path.isdir(missing):
            missing = os.path.dirname(missing)
            changed.add(missing)
        if changed:
            self._demand_folder()
            os.makedirs(folder, exist_ok=True)
        return changed

    def _remove_empty_folders(self, folder: str) -> None:
        while folder.startswith(f"{self._base}/"):
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)

    def _remove_leftovers(self, now: float) -> None:
        """Removes what killed processes left; ``now`` is the store's clock in epoch seconds."""
        with os.scandir(os.path.join(self._base, INCOMING)) as entries:
            for entry in entries:
                # What was renamed away is only removed once it is known that it need not be put back.
                if not entry.name.startswith(REMOVED_PREFIX) and now - _age_mark(entry.path) > LEFTOVER_SECONDS:
                    shutil.rmtree(entry.path, ignore_errors=True)

    @staticmethod
    def _remove_own(folder: str) -> None:
        try:
            os.rmdir(folder)
        except OSError:
            pass  # an error left something in it, which is for the next prune to put back

    def _open(self, key: str) -> BinaryIO:
        path = self.path_of(key)
        if os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, "is a folder", path)
        return open(path, "rb")

    def _walk(self, prefix: str, start: str) -> Iterator[ObjectInfo]:
        """Yields the objects below the folder ``prefix`` ("" or ending in '/') whose next component begins so."""
        for entry in self._scan(prefix):
            if not entry.name.startswith(start):
                continue
            key = prefix + entry.name
            try:
                if entry.is_dir():
                    yield from self._walk(f"{key}/", "")
                else:
                    yield _info(key, entry.stat())
            except FileNotFoundError:
                continue  # deleted meanwhile

    def _scan(self, prefix: str) -> Iterator[os.DirEntry[str]]:
        """Yields a folder's entries in the order of the keys below them."""
        try:
            with os.scandir(os.path.join(self._base, prefix)) as entries:
                found = [entry for entry in entries if prefix or entry.name != INCOMING]
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from sorted(found, key=lambda entry: f"{entry.name}/" if entry.is_dir() else entry.name)

    def _demand_folder(self) -> None:
        if not os.path.isdir(self._folder):
            raise BucketNotFoundError(
                f"the folder {self._folder} of the local store does not exist",
                hint="create the folder, mount its file system, or correct [storage] endpoint",
            )

    @contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        """Turns errors of the file system into errors of a store."""
        try:
            yield
        except OSError as error:
            raise self._translate(error, key) from error

    def _translate(self, error: OSError, key: str) -> GpusnapError:
        place = os.path.join(self._base, key)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if os.path.isdir(self._folder):
                return ObjectNotFoundError(f"the object {place} does not exist")
            return BucketNotFoundError(f"the folder {self._folder} of the local store does not exist")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StorageAccessDeniedError(
                f"{place}: {error.strerror}", hint="give the agent's user the right to read and write the folder"
            )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpaceError(f"the file system of the store {self._base} is full ({error.strerror})")
        if error.errno == errno.ENAMETOOLONG:
            return InvalidRequestError(f"the object key {key!r} is too long for the file system of {self._base}")
        return StorageUnavailableError(f"{place}: {error.strerror}")


def modified_ns(facts: os.stat_result) -> int:
    """Returns when a file got its content or its name, the later of the two, in nanoseconds since 1970.

    One that was written long before it got its name is as old as its name: renaming changes ctime.
    """
    return max(facts.st_mtime_ns, facts.st_ctime_ns)


def _info(key: str, facts: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, facts.st_size, modified_ns(facts))


def _age_mark(path: str) -> float:
    """Returns the latest modification time in a folder of temporary names (epoch seconds), infinity if it vanished."""
    try:
        names = os.listdir(path)
        return max(os.stat(os.path.join(path, name)).st_mtime for name in [".", *names])
    except OSError:
        return float("inf")


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
