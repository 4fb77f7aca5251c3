"""What committed snapshots have is found, with as few manifests read as the question needs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agent.config.model import Provider, StorageConfig
from agent.pipeline.warnings import Warnings
from agent.repository import keys
from agent.repository.repository import Repository
from agent.snapshot import known as module
from agent.snapshot.known import MANIFESTS_READ, READERS, Known
from agent.storage.open import open_store
from tests.support import forging

MANIFESTS = 150


def content(number: int) -> bytes:
    return b"the only chunk of snapshot %d" % number


class Saved:
    """Manifests of ``MANIFESTS`` hosts, "host 0" with the newest, and what was read of them."""

    def __init__(self, folder: Path) -> None:
        (folder / "store").mkdir()
        store = open_store(StorageConfig(Provider.LOCAL, endpoint=str(folder / "store")))
        self.repository = Repository(store)
        self.repository.ensure()
        self.ids = [f"20261123T110512Z-{MANIFESTS - number:08x}" for number in range(MANIFESTS)]
        for number, snapshot_id in enumerate(self.ids):
            data = forging.manifest(
                folder / "manifest",
                [forging.directory(b"")],
                [forging.chunk(content(number))],
                snapshot_id=snapshot_id,
                host=f"host {number}",
            )
            store.write(keys.manifest(snapshot_id), data)
        self.reads: Counter[str] = Counter()
        read_tail, read = store.read_tail, store.read

        def counted_tail(key: str, length: int) -> tuple[bytes, int]:
            self.reads[key] += 1
            return read_tail(key, length)

        def counted_read(key: str, offset: int = 0, length: int | None = None) -> bytes:
            self.reads[key] += 1
            return read(key, offset, length)

        store.read_tail = counted_tail  # type: ignore[method-assign]
        store.read = counted_read  # type: ignore[method-assign]

    def known(self, condemned: frozenset[bytes] = frozenset(), warnings: Warnings | None = None) -> Known:
        found = Known(self.repository, condemned, warnings or Warnings())
        self.reads.clear()
        return found


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


def size(known: Known, number: int) -> int | None:
    return known.size(forging.chunk(content(number)).id)


def test_the_newest_snapshot_is_all_that_is_read_if_it_is_the_parent(saved: Saved) -> None:
    known = saved.known()
    assert known.parent("host 0", b"/workspace") == saved.ids[0]
    assert size(known, 0) == forging.chunk(content(0)).stored_size
    assert saved.reads == {keys.manifest(saved.ids[0]): 1}


def test_a_parent_is_found_far_behind_and_its_chunks_too_if_they_are_recent(saved: Saved) -> None:
    for number in (1, READERS, MANIFESTS_READ - 1, MANIFESTS_READ, MANIFESTS - 1):
        known = saved.known()
        assert known.parent(f"host {number}", b"/workspace") == saved.ids[number]
        assert len(saved.reads) <= number + READERS
        assert (size(known, number) is not None) == (number < MANIFESTS_READ)
        assert set(saved.reads.values()) == {1}


def test_other_hosts_and_workspaces_are_no_parents(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved.known().parent("host 0", b"/other") == ""
    assert saved.known().parent("another host", b"/workspace") == ""
    monkeypatch.setattr(module, "MANIFESTS_SEARCHED", 100)
    assert saved.known().parent("host 140", b"/workspace") == ""
    assert len(saved.reads) <= 100 + READERS


def test_chunks_of_the_newest_snapshots_are_known(saved: Saved) -> None:
    known = saved.known()
    assert [number for number in range(MANIFESTS) if size(known, number)] == list(range(MANIFESTS_READ))
    assert len(saved.reads) == MANIFESTS_READ
    assert known.size(bytes(32)) is None
    assert set(saved.reads.values()) == {1}


def test_what_is_condemned_is_not_known(saved: Saved) -> None:
    known = saved.known(frozenset({forging.chunk(content(3)).id}))
    assert [number for number in range(5) if size(known, number)] == [0, 1, 2, 4]


def test_a_damaged_or_deleted_manifest_is_passed_over(saved: Saved) -> None:
    warnings = Warnings()
    known = saved.known(warnings=warnings)
    saved.repository.store.write(keys.manifest(saved.ids[0]), b"damaged")
    saved.repository.store.delete(keys.manifest(saved.ids[1]))
    assert known.parent("host 2", b"/workspace") == saved.ids[2]
    assert [number for number in range(4) if size(known, number)] == [2, 3]
    assert warnings.count == 1
