"""Memory that several processes see."""

from __future__ import annotations

import os
from pathlib import Path

from agent.pipeline.memory import Mappings, SharedMemory

PAGE = os.sysconf("SC_PAGE_SIZE")


def test_shared_memory_is_mapped_once_and_seen_as_it_changes() -> None:
    memory, mappings = SharedMemory(3 * PAGE), Mappings()
    memory.view[PAGE : PAGE + 5] = b"first"
    seen = mappings.view(memory.fd, PAGE, 5)
    assert bytes(seen) == b"first"
    assert seen.readonly
    duplicate = os.dup(memory.fd)
    memory.view[PAGE : PAGE + 5] = b"later"
    again = mappings.view(duplicate, PAGE, 5)
    os.close(duplicate)
    assert bytes(seen) == bytes(again) == b"later"
    assert again.obj is seen.obj


def test_another_memory_is_another_mapping() -> None:
    mappings = Mappings()
    one, other = SharedMemory(PAGE), SharedMemory(PAGE)
    one.view[:3], other.view[:3] = b"one", b"two"
    assert bytes(mappings.view(one.fd, 0, 3)) == b"one"
    assert bytes(mappings.view(other.fd, 0, 3)) == b"two"


def test_files_are_mapped_each_time(tmp_path: Path) -> None:
    mappings = Mappings()
    for content in (b"", b"x", b"y" * 2 * PAGE):
        path = tmp_path / "file"
        path.write_bytes(content)
        with path.open("rb") as file:
            seen = mappings.view(file.fileno(), 0, len(content))
        path.unlink()
        assert bytes(seen) == content
