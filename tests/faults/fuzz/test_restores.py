"""Restores of manifests that say anything: nothing outside is ever touched, and nothing unfinished is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpusnap.v1 import manifest_pb2 as pb
from hypothesis import strategies as st

from agent.errors import GpusnapError
from agent.events import ChunkKind
from agent.repository import keys
from agent.repository.model import Extent, order
from agent.restore.request import IfNotEmpty
from tests.support import forging
from tests.support.fuzz import fuzz
from tests.support.manifests import Parts, put_together, take_apart
from tests.support.messages import variations
from tests.support.pipelines import Pipelines, leftovers, memory_folder
from tests.support.trees import File, build, facts

OUTSIDE = b"{outside}"
"""Stands for the path of the folder that no restore may touch."""


class Store:
    """A repository with the chunks of one snapshot, whose manifest is written anew for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outside = os.fsencode(folder / "outside")
        self.target = folder / "target"
        build(self.outside, [File(b"file", b"x"), File(b"dir/file", b"y")])
        self.before = facts(self.outside)
        self.pipelines = Pipelines(folder)
        entries = [
            forging.directory(b""),
            forging.directory(b"a", xattrs=((b"user.a", b"1"),)),
            forging.file(b"a/file", 512, 100, hard_link_group=1),
            forging.hard_link(b"a/more", b"a/file"),
            forging.symlink(b"a/sym", b"file"),
            forging.file(b"b", 1024, 512, size=9000, sparse=True, extents=(Extent(0, 256), Extent(4096, 256))),
            forging.file(b"c", 0, 1000, chunk=1, segments=1),
            forging.directory(b"d", chunk=3),
            forging.file(b"d/file", 0, 9, chunk=3),
        ]
        raw = [
            (b"EVIL" * 1024, ChunkKind.PACK),
            (b"h" * 512, ChunkKind.HEADER),
            (b"s" * 1024, ChunkKind.SEGMENT),
            (b"p" * 512, ChunkKind.PACK),
        ]
        self.id = forging.store_snapshot(self.pipelines.repository, folder / "manifest", entries, raw)
        self.path = self.pipelines.store_folder / keys.manifest(self.id)
        self.parts = take_apart(self.path.read_bytes())
        self.entries = list(pb.EntrySection.FromString(self.parts.sections[0][1]).entries)

    def restore(self, manifest: bytes, mode: IfNotEmpty) -> GpusnapError | None:
        """Restores into a fresh target; returns the error, which must be one of ours and no defect."""
        self.path.write_bytes(manifest)
        shutil.rmtree(self.target, ignore_errors=True)
        if mode is not IfNotEmpty.FAIL:
            build(os.fsencode(self.target), [File(b"a", b"in the way"), File(b"z", b"more")])
        failure: GpusnapError | None = None
        try:
            self.pipelines.restore(os.fsencode(self.target), self.id, if_not_empty=mode)
        except GpusnapError as error:
            assert error.reason != GpusnapError.reason
            failure = error
        assert facts(self.outside) == self.before
        assert not self.target.exists() or leftovers(os.fsencode(self.target)) == []
        return failure


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-fuzz-", dir=memory_folder()))
    yield Store(folder)
    shutil.rmtree(folder)


COUNTS = st.one_of(st.integers(0, 5), st.sampled_from([256, 512, 1000, 1024, 4096, 9000, 2**40, 2**62, 2**64 - 1]))
PATHS = st.sampled_from(
    [b"", b"a", b"a/file", b"a/sym", b"a/sym/x", b"b", b"c", b"zz", b"..", b"../outside/file", b"/etc/x", b"d/../../x",
     OUTSIDE + b"/file", b"n" * 255, b"n" * 256, b"a/" + b"n" * 4096, b".gpusnap-restore-restore-test", b"\xff\n"]
)  # fmt: skip
TARGETS = st.one_of(PATHS, st.sampled_from([OUTSIDE, b"..", b"/", b"../outside", b"x" * 4096]))
FIELDS = {
    "ManifestEntry.path": PATHS,
    "ManifestEntry.link_target": TARGETS,
    "ManifestEntry.type": st.integers(0, 8),
    "ManifestEntry.mode": st.sampled_from([0, 0o644, 0o7777, 0o10000]),
    "ManifestEntry.chunk": st.integers(0, 5),
    "ManifestEntry.segments": st.integers(0, 3),
    "ManifestEntry.hard_link_group": st.integers(0, 2),
    "ExtendedAttribute.name": st.one_of(
        st.binary(max_size=9),
        st.sampled_from([b"user.x", b"user.\0", b"system.posix_acl_access", b"x" * 300, b"trusted.x"]),
    ),
    **{f"ManifestEntry.{name}": COUNTS for name in ("size", "data_size", "data_offset")},
    **{f"Extent.{name}": COUNTS for name in ("offset", "length")},
}  # fmt: skip


NEW = pb.ManifestEntry(type=pb.MANIFEST_ENTRY_TYPE_FILE, mode=0o644, path=b"new", size=4, data_size=4)


def repaired(entries: list[pb.ManifestEntry]) -> list[pb.ManifestEntry]:
    """Puts entries in order and corrects what a reader looks at first, so that the rest of what they say counts."""
    kept: dict[bytes, pb.ManifestEntry] = {}
    for entry in sorted(entries, key=lambda entry: order(entry.path)):
        # Names that are made by the restore's writer must not hide behind those that are refused at once.
        kept.setdefault(entry.path, entry)
    chunk = 0
    for entry in kept.values():
        entry.type = entry.type or pb.MANIFEST_ENTRY_TYPE_FILE
        entry.mode &= 0o7777
        entry.device_major &= 0xFFF
        entry.device_minor &= 0xFFFFF
        entry.mtime_nanos %= 10**9
        if entry.segments != 1 or entry.chunk != 1:
            entry.segments, entry.chunk = 0, chunk if chunk in (0, 3) else 3
            entry.data_offset %= 512
            entry.data_size = min(entry.data_size, 3000 if not entry.chunk else 3)
            if not entry.sparse:
                entry.size = entry.data_size
        chunk = 3 if entry.segments else entry.chunk
    return list(kept.values())


@fuzz(
    800,
    added=st.lists(variations(NEW, FIELDS, most=3), max_size=3),
    changed=st.lists(st.tuples(st.integers(0, 8), variations(pb.ManifestEntry(), FIELDS, most=2)), max_size=2),
    mode=st.sampled_from(IfNotEmpty),
    repair=st.sampled_from([True, True, True, False]),
)
def test_any_entries(
    store: Store,
    added: list[pb.ManifestEntry],
    changed: list[tuple[int, pb.ManifestEntry]],
    mode: IfNotEmpty,
    repair: bool,
) -> None:
    entries = [pb.ManifestEntry.FromString(entry.SerializeToString()) for entry in (*store.entries, *added)]
    for number, change in changed:
        entries[number].MergeFrom(change)
    for entry in entries:
        for name in ("path", "link_target"):
            setattr(entry, name, getattr(entry, name).replace(OUTSIDE, store.outside))
    if repair:
        entries = repaired(entries)
    raw = pb.EntrySection(entries=entries).SerializeToString()
    parts = Parts(((store.parts.sections[0][0], raw), *store.parts.sections[1:]), store.parts.footer)
    store.restore(put_together(parts), mode)


def test_the_snapshot_itself_is_restored(store: Store) -> None:
    assert store.restore(put_together(store.parts), IfNotEmpty.FAIL) is None
    assert (store.target / "a/more").read_bytes() == (b"EVIL" * 25)
