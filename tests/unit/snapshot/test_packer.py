"""A pack keeps its bounds and its form, whatever happened to the files since they were scanned."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.config.model import Provider, ScanConfig, StorageConfig, TransferConfig
from agent.events import ChunkKind, Stage
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.pipeline.crew import Allowance, Crew
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations
from agent.repository import frame
from agent.repository.manifest_reader import ManifestReader
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import MAX_CHUNK_SIZE, Entry
from agent.repository.tar import END_OF_ARCHIVE
from agent.snapshot.assembly import Assembly, SnapshotWarnings
from agent.snapshot.builder import ChunkBuilder
from agent.snapshot.compare import compare
from agent.snapshot.filters import Filter
from agent.snapshot.packer import Packer, PackTask
from agent.snapshot.plan import PackPlan, plan
from agent.snapshot.scan import Scanner
from agent.snapshot.sent_files import SentFiles
from agent.snapshot.sink import ChunkSink
from agent.storage.open import open_engine
from tests.support import forging
from tests.support.trees import File, Node, Symlink, build

NODES: list[Node] = [File(b"a", b"a" * 1000), File(b"m", b"m" * 1000), Symlink(b"s", b"a"), File(b"z", b"z" * 1000)]


class Packed:
    """The pack that was made of a folder which changed after its scan."""

    def __init__(self, folder: Path, change: Callable[[Path], object]) -> None:
        workspace = folder / "workspace"
        build(os.fsencode(workspace), NODES)
        self.warnings = SnapshotWarnings()
        root_fd = os.open(workspace, DIRECTORY_FLAGS)
        scanner = Scanner(root_fd, Filter(), ScanConfig(), False, self.warnings)
        (planned,) = plan(compare(scanner.entries(), []), 16 << 20)
        assert isinstance(planned, PackPlan)
        # The pack is as full as a plan can make it: no file has more room than its own bound.
        bounds = planned.bounds[:-1]
        planned = PackPlan(planned.entries, [*bounds, MAX_CHUNK_SIZE - sum(bounds)])
        change(workspace / "m")
        (folder / "store").mkdir()
        storage = StorageConfig(provider=Provider.LOCAL, endpoint=str(folder / "store"))
        engine = open_engine(storage, TransferConfig(), "")
        crew = Crew(threading.Event())
        meter = Meter((Stage.PACK, Stage.COMPRESS, Stage.UPLOAD), leading=Stage.PACK)
        sink = ChunkSink(engine, lambda _: None, crew, meter, Occupations(), lambda _: None)
        file = io.BytesIO()
        writer = ManifestWriter(file)
        allowance = Allowance(crew, 1000)
        allowance.take(len(planned.entries))
        assembly = Assembly(writer, allowance, self.warnings)
        with crew.work():
            builder = ChunkBuilder(root_fd, crew.check)
            packer = Packer(builder, sink, assembly, crew, meter, Occupations(), self.warnings, SentFiles(crew, 1))
            packer.pack(PackTask(0, planned))
            packer.close()
            sink.wait()
        os.close(root_fd)
        engine.close()
        table = sink.table(assembly.chunks)
        writer.finish(forging.summary(), table, [])
        data = file.getvalue()
        self.entries = list(
            ManifestReader(lambda offset, size: data[offset : offset + size], data, len(data)).entries()
        )
        (chunk,) = table
        assert chunk.kind is ChunkKind.PACK
        (path,) = (folder / "store/chunks").glob("*/*")
        out = memoryview(bytearray(frame.BLOCK_SIZE))
        blocks = frame.blocks(memoryview(path.read_bytes()), chunk.raw_size)
        self.raw = b"".join(bytes(frame.decode(block, out)) for block in blocks)

    def content(self, entry: Entry) -> bytes:
        return self.raw[entry.data_offset : entry.data_offset + entry.data_size]

    def members(self) -> Iterator[tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.raw + END_OF_ARCHIVE)) as archive:
            yield from archive.getmembers()


def many_holes(path: Path) -> None:
    """Makes a file whose sparse map is larger than the room that was planned for the whole member."""
    with path.open("wb") as file:
        for number in range(3000):
            file.seek(number * 8192)
            file.write(b"h")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("a")


KEPT: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "same size": lambda path: path.write_bytes(b"n" * 1000),
    "shorter": lambda path: path.write_bytes(b"n"),
    "empty": lambda path: path.write_bytes(b""),
    "one hole": lambda path: os.truncate(path, 1024),
    "longer": lambda path: path.write_bytes(b"n" * 500_000),
    "huge": lambda path: path.write_bytes(b"n" * (MAX_CHUNK_SIZE + 5)),
    "many holes": many_holes,
}


@pytest.mark.parametrize("case", KEPT)
def test_a_file_that_changed_after_the_scan_is_stored_as_it_is_or_cut(tmp_path: Path, case: str) -> None:
    packed = Packed(tmp_path, KEPT[case])
    by_path = {entry.path: entry for entry in packed.entries}
    assert [member.name for member in packed.members()] == [".", "a", "m", "s", "z"]
    assert packed.content(by_path[b"a"]) == b"a" * 1000
    assert packed.content(by_path[b"z"]) == b"z" * 1000
    changed = by_path[b"m"]
    whole = (tmp_path / "workspace/m").read_bytes()
    if changed.sparse:
        stored = b"".join(whole[extent.offset : extent.offset + extent.length] for extent in changed.extents)
        assert packed.content(changed) == stored
    else:
        assert packed.content(changed) == whole[: changed.size]
    is_whole = changed.size == len(whole) and (changed.sparse or changed.data_size == len(whole))
    assert packed.warnings.count == (0 if is_whole else 1)
    if case in ("nothing", "same size", "shorter", "empty"):
        assert is_whole


GONE: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (Path.unlink, "FILE_VANISHED"),
    "a folder": (replace_by_folder, "FILE_VANISHED"),
    "a pipe": (replace_by_pipe, "FILE_VANISHED"),
    "a link": (replace_by_link, "FILE_UNREADABLE"),
}


@pytest.mark.parametrize("case", GONE)
def test_what_is_no_file_any_more_is_left_out_with_a_warning(tmp_path: Path, case: str) -> None:
    change, reason = GONE[case]
    packed = Packed(tmp_path, change)
    assert [entry.path for entry in packed.entries] == [b"", b"a", b"s", b"z"]
    assert [(warning.reason, warning.path) for warning in packed.warnings.kept] == [(reason, b"m")]
    assert [member.name for member in packed.members()] == [".", "a", "s", "z"]
