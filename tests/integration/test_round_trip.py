"""Whatever tree goes into a snapshot comes back identical, and the same content is stored once."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.config.model import MIB
from agent.events import ChunkFinished, ChunkKind, FileReady
from agent.repository.model import EntryType
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.seaweed import SeaweedServer
from tests.support.trees import (
    Device,
    Directory,
    Fifo,
    File,
    HardLink,
    Node,
    Seeded,
    Sparse,
    Symlink,
    build,
    compare,
    trees,
)

IS_ROOT = os.geteuid() == 0

ACL_ACCESS = bytes.fromhex("0200000001000600ffffffff02000700e803000004000400ffffffff10000700ffffffff20000400ffffffff")
"""A POSIX ACL with an entry for user 1000, as the kernel keeps it in system.posix_acl_access."""

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service=ep, as the kernel keeps it in security.capability."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is removed at once: these trees are large, and their files have odd modes."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-round-"))
    yield path
    shutil.rmtree(path)


def round_trip(folder: Path, nodes: list[Node], large_file_size: int = 16 * MIB) -> Pipelines:
    """Builds a tree, saves it, restores it and compares; returns the pipelines for a closer look."""
    workspace, target = os.fsencode(folder / "workspace"), os.fsencode(folder / "target")
    build(workspace, nodes)
    pipelines = Pipelines(folder)
    saved = pipelines.snapshot(workspace, large_file_size=large_file_size)
    assert pipelines.warned() == {}
    restored = pipelines.restore(target)
    assert pipelines.warned() == {}
    assert restored.snapshot_id == saved.snapshot_id
    assert restored.totals == saved.totals
    assert compare(workspace, target) == []
    return pipelines


@contextlib.contextmanager
def few_descriptors(limit: int) -> Iterator[None]:
    """Lowers the number of descriptors that this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(nodes=trees())
def test_any_tree_comes_back_identical(nodes: list[Node]) -> None:
    with tempfile.TemporaryDirectory(prefix="gpusnap-any-", dir=memory_folder()) as path:
        # Above 4,000 bytes a file gets segments, so that small trees have both kinds of chunks.
        round_trip(Path(path), nodes, large_file_size=4000)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-round-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


def test_files_around_the_sizes_of_packs_and_segments(memory: Path) -> None:
    sizes = [16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 64 * MIB - 1, 64 * MIB, 64 * MIB + 1, 128 * MIB]
    nodes: list[Node] = [
        File(b"f%d" % number, Seeded(size, seed=number, compressible=True)) for number, size in enumerate(sizes)
    ]
    pipelines = round_trip(memory, nodes)
    entries = pipelines.entries(pipelines.repository.resolve("latest"))
    segments = [entries[b"f%d" % number].segments for number in range(len(sizes))]
    assert segments == [0, 1, 1, 1, 1, 2, 2]
    ready = {event.path: event.size for event in pipelines.events if isinstance(event, FileReady)}
    assert ready == {b"f%d" % number: size for number, size in enumerate(sizes) if size >= 16 * MIB}


def test_sparse_files_come_back_with_their_holes(memory: Path) -> None:
    many = tuple((number * 65536, 4096) for number in range(1000))
    round_trip(
        memory,
        [
            File(b"large", Sparse(40 * MIB, ((0, 4096), (20 * MIB, 17 * MIB), (40 * MIB - 5, 5)))),
            File(b"small", Sparse(10 * MIB, ((123456, 7),))),
            File(b"begins with data", Sparse(1 << 20, ((0, 4096),))),
            File(b"ends with data", Sparse(1 << 20, (((1 << 20) - 4096, 4096),))),
            File(b"hole", Sparse(30 * MIB)),
            File(b"one byte", Sparse(1)),
            File(b"many", Sparse(70 * MIB, many)),
        ],
    )


def test_a_sparse_file_beyond_what_tar_headers_hold(memory: Path) -> None:
    size, data = (9 << 40) + 7, (5 << 40) + 4096
    workspace, target = memory / "workspace", memory / "target"
    build(os.fsencode(workspace), [File(b"disk", Sparse(size, ((data, 5000),)))])
    pipelines = Pipelines(memory)
    pipelines.snapshot(os.fsencode(workspace))
    pipelines.restore(os.fsencode(target))
    with open(workspace / "disk", "rb") as was, open(target / "disk", "rb") as now:
        assert now.seek(0, os.SEEK_END) == size
        begin = now.seek(0, os.SEEK_DATA)
        assert begin == was.seek(0, os.SEEK_DATA)
        assert now.read(8192) == was.read(8192)


def test_a_sparse_file_of_several_segments(memory: Path) -> None:
    extents = tuple((number * 6 * MIB, 5 * MIB) for number in range(14))
    pipelines = round_trip(memory, [File(b"image", Sparse(90 * MIB, extents))])
    entry = pipelines.entries(pipelines.repository.resolve("latest"))[b"image"]
    assert (entry.segments, entry.data_size) == (2, 70 * MIB)


def test_metadata_of_every_kind(folder: Path) -> None:
    nodes: list[Node] = [
        Directory(b"", mode=0o2775),
        Directory(b"sticky", mode=0o1777, xattrs=((b"user.note", b"\0\xff"),)),
        Directory(b"read only", mode=0o555),
        File(b"read only/file", b"in a folder without write", mode=0o444),
        File(b"past", b"x", mtime_ns=-1),
        File(b"long past", b"x", mtime_ns=-(2**31) * 10**9),
        File(b"epoch", b"x", mtime_ns=0),
        File(b"future", b"x", mtime_ns=(2**33) * 10**9 + 1),
        File(b"set id", b"x", mode=0o6755),
        File(b"attributes", b"x", mode=0o400, xattrs=((b"user.a", b""), (b"user.a=b%\xff\n", b"\0" * 1000))),
        File(b"acl", b"x", mode=0o670, xattrs=((b"system.posix_acl_access", ACL_ACCESS),)),
        Directory(
            b"acl folder",
            mode=0o770,
            xattrs=((b"system.posix_acl_access", ACL_ACCESS), (b"system.posix_acl_default", ACL_ACCESS)),
        ),
        File(b"acl folder/file", b"has none itself"),
        Directory(b"acl folder/folder"),
        Symlink(b"loop", b"loop"),
        Symlink(b"dangling", b"/nowhere/" + b"x" * 300),
        Symlink(b"up", b".."),
        HardLink(b"z link", b"loop"),
        Fifo(b"pipe", mode=0o622),
        HardLink(b"z pipe", b"pipe"),
    ]
    # Attributes are set after the owner; the ACL of the folder is inherited by what is built below it.
    build(os.fsencode(folder / "workspace"), nodes)
    for name in ("acl folder/file", "acl folder/folder"):
        for attribute in os.listxattr(folder / "workspace" / name):
            os.removexattr(folder / "workspace" / name, attribute)
    pipelines = Pipelines(folder)
    pipelines.snapshot(os.fsencode(folder / "workspace"))
    pipelines.restore(os.fsencode(folder / "target"))
    assert pipelines.warned() == {}
    assert compare(os.fsencode(folder / "workspace"), os.fsencode(folder / "target")) == []


@pytest.mark.skipif(not IS_ROOT, reason="only root makes devices and gives files away")
def test_what_only_root_can_make(folder: Path) -> None:
    round_trip(
        folder,
        [
            Device(b"null", number=(1, 3)),
            Device(b"disk", block=True, number=(4095, 1048575), owner=(7, 8), mode=0o4640),
            HardLink(b"same disk", b"disk"),
            File(b"theirs", b"x", owner=(1000, 1001), mode=0o6711, xattrs=((b"security.capability", CAPABILITY),)),
            File(b"trusted", b"x", xattrs=((b"trusted.overlay", b"y"),)),
            Symlink(b"link", b"theirs", owner=(5, 6), xattrs=((b"trusted.link", b"z"),)),
            Directory(b"folder", owner=(2**32 - 2, 2**31), mode=0o7000),
            File(b"folder/file", Seeded(5000), mode=0),
        ],
        large_file_size=1000,
    )


def test_a_tree_deeper_than_a_process_may_have_descriptors(memory: Path) -> None:
    deep = b"/".join([b"d"] * 600)
    with few_descriptors(256):
        round_trip(memory, [File(deep + b"/file", b"at the bottom"), File(deep[:999] + b"/other", Seeded(1000))])


def test_many_names_of_one_file_over_many_folders(memory: Path) -> None:
    nodes: list[Node] = [File(b"a/first", Seeded(6000)), File(b"a/small", b"small")]
    nodes += [HardLink(b"%d/link" % number, b"a/first") for number in range(30)]
    nodes += [HardLink(b"%d/small" % number, b"a/small") for number in range(30)]
    round_trip(memory, nodes, large_file_size=5000)


def test_more_equal_files_than_a_process_may_have_descriptors(memory: Path) -> None:
    nodes: list[Node] = [File(b"f%04d" % number, Seeded(600, compressible=True)) for number in range(300)]
    with few_descriptors(256):
        pipelines = round_trip(memory, nodes, large_file_size=600)
    kinds = [chunk.kind for chunk in set(pipelines.chunks(pipelines.repository.resolve("latest")))]
    assert kinds.count(ChunkKind.SEGMENT) == 1


def test_the_same_data_twice_moves_nothing(memory: Path) -> None:
    nodes: list[Node] = [File(b"model.bin", Seeded(9000)), File(b"small", b"x" * 100), Symlink(b"link", b"small")]
    workspace = os.fsencode(memory / "workspace")
    build(workspace, nodes)
    pipelines = Pipelines(memory)
    first = pipelines.snapshot(workspace, large_file_size=5000)
    second = pipelines.snapshot(workspace, large_file_size=5000)
    assert first.chunks_transferred == first.chunks > 2
    assert (second.chunks_transferred, second.transferred_bytes) == (0, 0)
    assert second.snapshot_id != first.snapshot_id
    assert pipelines.repository.summary(second.snapshot_id).parent == first.snapshot_id
    finished = [event for event in pipelines.events if isinstance(event, ChunkFinished)]
    assert len(finished) == second.chunks
    assert all(event.reused and event.attempts == 0 for event in finished)
    # Both share their chunks, and each comes back whole.
    for number, snapshot in enumerate([first, second]):
        target = os.fsencode(memory / f"target{number}")
        pipelines.restore(target, snapshot.snapshot_id)
        assert compare(workspace, target) == []


def test_a_renamed_and_a_copied_model_store_no_content_again(memory: Path) -> None:
    workspace = memory / "workspace"
    build(os.fsencode(workspace), [File(b"a/model.safetensors", Seeded(300_000)), File(b"b/small", b"x")])
    pipelines = Pipelines(memory)
    pipelines.snapshot(os.fsencode(workspace), large_file_size=100_000)
    (workspace / "a").rename(workspace / "renamed")
    shutil.copy2(workspace / "renamed/model.safetensors", workspace / "b/copy.safetensors")
    again = pipelines.snapshot(os.fsencode(workspace), large_file_size=100_000)
    moved = [event for event in pipelines.events if isinstance(event, ChunkFinished) and not event.reused]
    assert {event.kind for event in moved} <= {ChunkKind.PACK, ChunkKind.HEADER}
    assert 0 < again.transferred_bytes < 10_000
    target = os.fsencode(memory / "target")
    pipelines.restore(target)
    assert compare(os.fsencode(workspace), target) == []


def test_models_and_others_are_counted_apart(memory: Path) -> None:
    workspace = os.fsencode(memory / "workspace")
    nodes: list[Node] = [
        File(b"a.safetensors", b"12345"),
        File(b"dir.bin/b.GGUF", Seeded(5000)),
        File(b"c.txt", b"123"),
        HardLink(b"d.pt", b"c.txt"),
        Symlink(b"e.pt", b"c.txt"),
    ]
    build(workspace, nodes)
    pipelines = Pipelines(memory)
    totals = pipelines.snapshot(workspace, large_file_size=4000).totals
    assert (totals.entries, totals.directories, totals.links) == (7, 2, 2)
    assert (totals.models.files, totals.models.bytes) == (2, 5005)
    assert (totals.other.files, totals.other.bytes) == (1, 3)
    kinds = {path: entry.type for path, entry in pipelines.entries(pipelines.repository.resolve("latest")).items()}
    assert kinds[b"d.pt"] is EntryType.HARD_LINK


def everything() -> list[Node]:
    """A tree with what standard tools must bring back."""
    nodes: list[Node] = [
        Directory(b"empty", mode=0o750),
        Directory(b"n" * 120, mtime_ns=1_600_000_000_123_456_789),
        File(b"n" * 120 + b"/" + b"m" * 200, b"a long name", mtime_ns=-1_500_000_000),
        File(b"\xff\xfe\nodd name", b"x" * 513, xattrs=((b"user.note", b"a\0b\xff"), (b"user.a=b%", b"1"))),
        File(b"large", Seeded(30_000, compressible=True), mode=0o640),
        File(b"incompressible", Seeded(9_000)),
        HardLink(b"more/large", b"large"),
        Symlink(b"link", b"large"),
        Symlink(b"long link", b"l" * 150),
        Fifo(b"pipe"),
        File(b"sparse small", Sparse(50_000, ((8192, 100),))),
        File(b"sparse large", Sparse(1 << 20, ((4096, 20_000), (1 << 19, 4096)))),
        File(b"hole", Sparse(100_000)),
        File(b"zero", b""),
    ]
    if IS_ROOT:
        nodes += [Device(b"null"), File(b"theirs", b"x", owner=(2**31, 2**32 - 2), mode=0o4755)]
    return nodes


EXTRACT = "lz4 -dc | tar -x --xattrs --xattrs-include='*' --same-owner --numeric-owner -p -C {target}"


def test_standard_tools_restore_a_snapshot_from_a_folder(folder: Path) -> None:
    workspace, target = folder / "workspace", folder / "target"
    build(os.fsencode(workspace), everything())
    target.mkdir()
    pipelines = Pipelines(folder)
    saved = pipelines.snapshot(os.fsencode(workspace), large_file_size=5000)
    listed = pipelines.store_folder / "snapshots" / saved.snapshot_id / "chunks.txt"
    command = f'while read key; do cat "{pipelines.store_folder}/$key"; done < {listed} | '
    subprocess.run(["sh", "-c", command + EXTRACT.format(target=target)], check=True, timeout=60)
    assert compare(os.fsencode(workspace), os.fsencode(target)) == []


def test_standard_tools_restore_a_snapshot_from_s3(folder: Path, seaweed: SeaweedServer, bucket: str) -> None:
    workspace, target = folder / "workspace", folder / "target"
    build(os.fsencode(workspace), everything())
    target.mkdir()
    pipelines = Pipelines(folder, seaweed.storage_config(bucket, prefix="some/prefix"))
    saved = pipelines.snapshot(os.fsencode(workspace), large_file_size=5000)
    # The lines of FORMAT.md, with an endpoint.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_REGION": "us-east-1",
        "S3_ENDPOINT_URL": seaweed.endpoint,
    }
    script = (
        f's5cmd cat "s3://{bucket}/some/prefix/snapshots/{saved.snapshot_id}/chunks.txt" > chunks.txt\n'
        f'while read key; do s5cmd cat "s3://{bucket}/$key"; done < chunks.txt | ' + EXTRACT.format(target=target)
    )
    subprocess.run(["sh", "-e", "-c", script], cwd=folder, env=environment, check=True, timeout=60)
    assert compare(os.fsencode(workspace), os.fsencode(target)) == []


def test_round_trip_through_s3(folder: Path, seaweed: SeaweedServer, bucket: str) -> None:
    workspace, target = os.fsencode(folder / "workspace"), os.fsencode(folder / "target")
    build(workspace, everything())
    pipelines = Pipelines(folder, seaweed.storage_config(bucket))
    saved = pipelines.snapshot(workspace, large_file_size=5000)
    again = pipelines.snapshot(workspace, large_file_size=5000)
    assert (saved.engine, again.chunks_transferred) == ("stream", 0)
    assert "too little" in saved.engine_reason
    pipelines.restore(target, again.snapshot_id)
    assert compare(workspace, target) == []
