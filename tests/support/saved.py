"""A workspace that is saved, most often in a local repository, to be damaged and restored."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec

from agent.config.model import StorageConfig
from agent.events import OperationResult
from agent.repository.model import Chunk
from agent.restore.request import IfNotEmpty
from tests.support.pipelines import Pipelines, leftovers
from tests.support.trees import Directory, File, HardLink, Node, Seeded, Symlink, build, compare, facts

LARGE = 5000
"""Files of at least this many bytes are large ones in these workspaces."""


VARIED_TREE: list[Node] = [
    Directory(b"dir"),
    File(b"dir/large", Seeded(7000, seed=1)),
    File(b"dir/zero", b""),
    HardLink(b"more", b"dir/large"),
    File(b"small a", b"a" * 100),
    Symlink(b"small link", b"small a"),
    HardLink(b"small more", b"small a"),
    File(b"x large", Seeded(9000, seed=2)),
]
"""Something of each kind: in segments and in packs, linked and not."""


class Saved:
    """Builds ``nodes`` in ``folder`` and saves them.

    Args:
        large: files of at least so many bytes are large ones.
        storage: where they are saved; by default in a local folder.

    Attributes:
        workspace, target: what was saved, and where it is restored.
        outside: a folder that no restore may touch.
    """

    def __init__(
        self, folder: Path, nodes: list[Node], large: int = LARGE, storage: StorageConfig | None = None
    ) -> None:
        self.folder = folder
        self.workspace, self.target, self.outside = folder / "workspace", folder / "target", folder / "outside"
        build(os.fsencode(self.outside), [File(b"file", b"outside")])
        build(os.fsencode(self.workspace), nodes)
        self.pipelines = Pipelines(folder, storage)
        self.id = self.pipelines.snapshot(os.fsencode(self.workspace), large_file_size=large).snapshot_id
        self.entries = self.pipelines.entries(self.id)
        self.chunks = self.pipelines.chunks(self.id)

    def chunk_of(self, path: bytes) -> Chunk:
        """Returns the (first) chunk that holds the content of a file."""
        entry = self.entries[path]
        return self.chunks[entry.chunk + (1 if entry.segments else 0)]

    def restore(
        self, if_not_empty: IfNotEmpty = IfNotEmpty.FAIL, *paths: bytes, cancel: threading.Event | None = None
    ) -> None:
        """Restores; whether that succeeds or not, nothing outside is touched and nothing unfinished is left."""
        before = facts(os.fsencode(self.outside))
        target = os.fsencode(self.target)
        try:
            self.pipelines.restore(target, self.id, if_not_empty=if_not_empty, paths=paths, cancel=cancel)
        finally:
            assert facts(os.fsencode(self.outside)) == before
            assert leftovers(target) == []

    def restore_over(
        self, *paths: bytes, mode: IfNotEmpty, checksum: bool = False, workers: int = 1
    ) -> OperationResult:
        """Restores over what is there; nothing outside is touched and nothing unfinished is left."""
        self.pipelines.transfer = msgspec.structs.replace(self.pipelines.transfer, workers=workers)
        outside = facts(os.fsencode(self.outside))
        target = os.fsencode(self.target)
        result = self.pipelines.restore(target, self.id, if_not_empty=mode, paths=paths, checksum=checksum)
        assert facts(os.fsencode(self.outside)) == outside
        assert leftovers(target) == []
        return result

    def differences(self) -> list[str]:
        """Returns what is not in the target as it was in the workspace."""
        return compare(os.fsencode(self.workspace), os.fsencode(self.target))

    def missing(self) -> set[str]:
        """Returns what of the workspace is not in the target; all else must be identical."""
        lines = [line for line in self.differences() if "a hard link of" not in line]
        assert all(line.endswith(": missing") for line in lines), lines
        return {line.removesuffix(": missing") for line in lines}
