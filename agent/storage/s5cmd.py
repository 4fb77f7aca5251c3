"""The transfer engine that moves chunks with s5cmd through a staging folder."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import Future

from agent.config.model import StorageConfig, TransferConfig
from agent.config.provider import ResolvedStorage
from agent.errors import EngineUnavailableError, GpusnapError, NoSpaceError
from agent.pipeline.memory import map_file
from agent.storage.choice import S5CMD
from agent.storage.engine import Incoming, Outgoing, Place, Share, TransferReport
from agent.storage.keys import check_key, clean_prefix, join
from agent.storage.local import open_local
from agent.storage.outgoing_file import OutgoingFile
from agent.storage.retry import RetryPolicy
from agent.storage.s5cmd_lane import Lane, Transfer
from agent.storage.s5cmd_lines import download_line, download_parts, upload_line
from agent.storage.s5cmd_program import command_line, environment, find_s5cmd
from agent.storage.staging import StagedFile, StagingArea, cancelled

__all__ = ["S5cmdEngine", "find_s5cmd"]

STUCK_FACTOR = 8
"""Staging sizes of bytes that may pass one object by before it counts as stuck; fair sharing makes it one."""


class S5cmdEngine:
    """Moves chunks with one long-lived s5cmd a direction, each started by its first transfer.

    Args:
        storage: where the objects are, with the credentials.
        resolved: its endpoint and region.
        transfer: connections, staging size, retries and the program.
        staging_dir: an existing folder that belongs to this engine alone.
        share: what it may use at first, by default all that is configured.

    Raises:
        EngineUnavailableError: s5cmd is missing or too old.
        ConfigError: the prefix is not allowed.
    """

    name = S5CMD
    sources = None
    loans = None
    processor_seconds = 0.0

    def __init__(
        self,
        storage: StorageConfig,
        resolved: ResolvedStorage,
        transfer: TransferConfig,
        staging_dir: str,
        share: Share | None = None,
    ) -> None:
        share = share or Share.whole(transfer)
        self._program, self.version = find_s5cmd(transfer.s5cmd_path)
        self._storage = storage
        self._prefix = clean_prefix(storage.prefix)
        self._location = f"s3://{storage.bucket} at {resolved.endpoint_url or 'AWS'}"
        self._endpoint_url = resolved.endpoint_url
        # AWS tells the region of a bucket when asked; other services want the one that is configured.
        self._region = resolved.region if resolved.endpoint_url or storage.region else ""
        self._transfer = transfer
        self._share = share
        self._area = StagingArea(staging_dir, share.bytes)
        self._lock = threading.Lock()
        self._lanes: dict[str, Lane] = {}
        self._ended = False

    @property
    def bytes_moved(self) -> int:
        """Bytes that s5cmd has written to the network or to the staging folder."""
        with self._lock:
            return sum(lane.bytes_moved for lane in self._lanes.values())

    @property
    def capacity(self) -> int:
        """Bytes that may be staged at once."""
        with self._lock:
            return self._share.bytes

    def outgoing(self, size: int) -> OutgoingFile:
        """Returns an empty staged file; blocks while the staging budget is used up."""
        staged, file = self._area.create(size)
        return OutgoingFile(staged.path, file, size, lambda: self._area.full(size), staged.release)

    def upload(self, outgoing: Outgoing, key: str) -> Future[TransferReport]:
        """Uploads a staged file with one PUT."""
        assert isinstance(outgoing, OutgoingFile)
        future: Future[TransferReport] = Future()
        future.set_running_or_notify_cancel()
        path = outgoing.path
        try:
            size = outgoing.finish()
            line = upload_line(path, self._url(key), self._region)
        except GpusnapError as error:
            outgoing.release()
            future.set_exception(error)
            return future

        def done(seconds: float, attempts: int, error: GpusnapError | None) -> None:
            if not isinstance(error, EngineUnavailableError):
                outgoing.release()
            if error:
                future.set_exception(error)
            else:
                future.set_result(TransferReport(size, seconds, attempts, S5CMD))

        transfer = Transfer(path, line, self._location, self._full(key), done)
        self._submit("upload", transfer)
        return future

    def download(self, key: str, size: int) -> Future[Incoming]:
        """Fetches an object into the staging folder, in parts that keep all connections busy."""
        future: Future[Incoming] = Future()
        future.set_running_or_notify_cancel()
        url = self._url(key)
        file = self._area.reserve(size)

        def done(seconds: float, attempts: int, error: GpusnapError | None) -> None:
            try:
                if error:
                    raise self._area.full(size) if isinstance(error, NoSpaceError) else error
                incoming = _Incoming(file, seconds, attempts)
            except GpusnapError as problem:
                file.release()
                future.set_exception(problem)
            else:
                future.set_result(incoming)

        parts = download_parts(size, self._share.bytes, self._share.connections)
        line = download_line(url, file.path, self._region, parts)
        self._submit(
            "download",
            Transfer(file.path, line, self._location, self._full(key), done, file.clear, parts.connections),
        )
        return future

    def widen(self, share: Share) -> None:
        """Allows more staged bytes and connections from now on."""
        self._area.widen(share.bytes)
        with self._lock:
            self._share = Share(max(self._share.bytes, share.bytes), max(self._share.connections, share.connections))
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.widen(share.connections)

    def close(self) -> None:
        """Waits for what is running and ends s5cmd."""
        for lane in self._end():
            lane.close()

    def abort(self) -> None:
        """Kills s5cmd, fails what waits, and empties the staging folder. Not to be called from a future's callback."""
        lanes = self._end()
        self._area.abort()
        for lane in lanes:
            lane.abort()
        self._area.clear()

    def _full(self, key: str) -> str:
        return join(self._prefix, check_key(key))

    def _url(self, key: str) -> str:
        return f"s3://{self._storage.bucket}/{self._full(key)}"

    def _submit(self, name: str, transfer: Transfer) -> None:
        lane = self._lane(name)
        if lane:
            lane.submit(transfer)
        else:
            transfer.finish(cancelled())

    def _lane(self, name: str) -> Lane | None:
        with self._lock:
            if self._ended:
                return None
            if name not in self._lanes:
                self._lanes[name] = Lane(
                    f"s5cmd-{name}",
                    command_line(self._program, self._endpoint_url, self._transfer.connections),
                    environment(self._storage, self._region, os.environ),
                    self._share.connections,
                    RetryPolicy(self._transfer.retry_seconds),
                    STUCK_FACTOR * self._transfer.staging_size,
                )
            return self._lanes[name]

    def _end(self) -> list[Lane]:
        with self._lock:
            self._ended = True
            return list(self._lanes.values())


class _Incoming:
    """A downloaded object in the staging folder, mapped by whoever reads it.

    Mapping is safe here: s5cmd has written every byte of the file and has let go of it, and nobody else has the folder.
    """

    def __init__(self, staged: StagedFile, seconds: float, attempts: int) -> None:
        self._staged = staged
        self._file = open_local(staged.path)
        self.path = staged.path
        self.place = Place(self._file.fileno(), 0, os.fstat(self._file.fileno()).st_size)
        self.report = TransferReport(self.place.size, seconds, attempts, S5CMD)

    @functools.cached_property
    def view(self) -> memoryview:
        # An empty file cannot be mapped. The mapping ends with the last part of the view that somebody holds.
        return memoryview(map_file(self.place.fd, 0, self.place.size) if self.place.size else b"")

    def release(self) -> None:
        self._file.close()
        self._staged.release()
