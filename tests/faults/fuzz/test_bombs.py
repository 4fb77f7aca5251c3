"""Small manifests and objects that would take gigabytes of memory, or hours, if they were believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from gpusnap.v1 import manifest_pb2 as pb

from agent.repository import manifest_layout as layout
from tests.support import forging
from tests.support.children import run_python
from tests.support.manifests import Parts, finish, put_together

MEMORY_MIB = 800
"""What a process may take that is given one of them: most take 100, a table of as many chunks as allowed takes 500."""

ENTRIES, CHUNKS, WARNINGS = 1, 2, 3
MANY = 32 << 20
HASH = b"\x01" * 32
PACK = pb.ManifestChunk(id=HASH, raw_size=1, stored_size=9, kind=pb.MANIFEST_CHUNK_KIND_PACK, codec="lz4")
HEADER = pb.ManifestChunk(id=HASH, raw_size=512, stored_size=99, kind=pb.MANIFEST_CHUNK_KIND_HEADER, codec="lz4")
SEGMENT = pb.ManifestChunk(id=HASH, raw_size=64 << 20, stored_size=99, kind=pb.MANIFEST_CHUNK_KIND_SEGMENT, codec="lz4")
TABLE = (CHUNKS, pb.ChunkSection(chunks=[PACK]).SerializeToString())
ROOT = pb.ManifestEntry(type=pb.MANIFEST_ENTRY_TYPE_DIRECTORY)
FILE = pb.ManifestEntry(path=b"f", type=pb.MANIFEST_ENTRY_TYPE_FILE, sparse=True)
FOOTER = pb.ManifestFooter(format_version=1, snapshot_id=forging.SNAPSHOT_ID)


def manifest(*sections: tuple[int, bytes], footer: bytes = b"") -> bytes:
    return put_together(Parts(sections, FOOTER.SerializeToString() + footer))


def entries(*items: bytes) -> tuple[int, bytes]:
    return ENTRIES, b"".join(b"\x0a" + _varint(len(item)) + item for item in items)


def _varint(number: int) -> bytes:
    coded = b""
    while number > 127:
        coded += bytes([number & 127 | 128])
        number >>= 7
    return coded + bytes([number])


def empty_items(kind: int) -> bytes:
    return manifest(*([] if kind == CHUNKS else [TABLE]), (kind, b"\x0a\x00" * MANY))


def empty_inside(field: bytes) -> bytes:
    """A file with 30 million empty extents or extended attributes."""
    return manifest(entries(ROOT.SerializeToString(), FILE.SerializeToString() + field * (MANY - 100)), TABLE)


def one_table_again_and_again() -> bytes:
    raw = pb.ChunkSection(chunks=[PACK] * 16384).SerializeToString()
    stored = layout.compress(raw)
    index = pb.SectionIndex(
        kind=pb.SECTION_KIND_CHUNKS, offset=16, stored_size=len(stored), raw_size=len(raw), hash=blake3(stored).digest()
    )
    return finish(layout.MAGIC + stored, FOOTER.SerializeToString(), [index] * 2000)


def many_tables() -> bytes:
    table = (CHUNKS, pb.ChunkSection(chunks=[PACK] * 16384).SerializeToString())
    return manifest(*[table] * 1000)


def shared_segments(files: int = 2000, segments: int = 16000) -> bytes:
    """Files of a terabyte each that all have the same segments."""
    size = segments * SEGMENT.raw_size
    file = pb.ManifestEntry(type=FILE.type, size=size, data_size=size, chunk=1, segments=segments)
    items = [pb.ManifestEntry(path=b"f%05d" % number) for number in range(files)]
    for item in items:
        item.MergeFrom(file)
    rows = pb.ChunkSection(chunks=[PACK, HEADER, *[SEGMENT] * segments]).SerializeToString()
    return manifest(entries(ROOT.SerializeToString(), *(item.SerializeToString() for item in items)), (CHUNKS, rows))


def long_texts() -> bytes:
    return manifest(TABLE, footer=pb.ManifestFooter(host="h" * (15 << 20)).SerializeToString())


BOMBS: dict[str, Callable[[], bytes]] = {
    "empty entries": lambda: empty_items(ENTRIES),
    "empty chunks": lambda: empty_items(CHUNKS),
    "empty warnings": lambda: empty_items(WARNINGS),
    "empty extents": lambda: empty_inside(b"\x5a\x00"),
    "empty attributes": lambda: empty_inside(b"\x52\x00"),
    "empty sections": lambda: manifest(TABLE, footer=b"\x92\x01\x00" * (5 << 20)),
    "a larger footer": lambda: manifest(TABLE, footer=b"\x92\x01\x00" * (80 << 20)),
    "unknown fields": lambda: manifest(TABLE, (ENTRIES, b"\xf8\x3f\x00" * (20 << 20))),
    "one table again and again": one_table_again_and_again,
    "many tables": many_tables,
    "shared segments": shared_segments,
    "long texts": long_texts,
}

READ = """
import sys
from agent.errors import DataLossError
from agent.repository.manifest_reader import read_local
from agent.restore.plan import make_plan
from agent.restore.selection import Selection
try:
    reader = read_local(sys.argv[1])
    reader.chunks()
    reader.warnings(1000)
    make_plan(reader, Selection(()))
    print("taken")
except DataLossError:
    print("refused")
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM:")))
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_manifest_that_would_take_all_memory(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(BOMBS[bomb]())
    verdict, peak = run_python(READ, path).decode().split()
    assert verdict == "refused"
    assert int(peak) >> 10 < MEMORY_MIB


def test_a_valid_manifest_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(manifest(entries(ROOT.SerializeToString()), TABLE))
    verdict, peak = run_python(READ, path).decode().split()
    assert verdict == "taken"
    assert int(peak) >> 10 < MEMORY_MIB
