"""A repository in a folder: names are resolved, pages listed, and what is not committed or not known is refused."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.errors import (
    DataLossError,
    GpusnapError,
    RepositoryVersionError,
    SnapshotAmbiguousError,
    SnapshotNotFoundError,
)
from agent.events import ChunkKind
from agent.repository import keys
from agent.repository.model import Entry, UnreadableSnapshot
from agent.repository.repository import Repository
from agent.storage.directory import DirectoryStore
from tests.support import forging
from tests.support.pipelines import memory_folder

IDS = ["20261123T110512Z-4f2a9c01", "20261123T110512Z-4f2b0000", "20261124T000000Z-00000000"]
ENTRIES = [forging.directory(b""), *(forging.directory(path) for path in (b"a", b"a/b", b"a/c", b"a.b", b"b"))]


@pytest.fixture
def repository() -> Iterator[Repository]:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        yield Repository(DirectoryStore(folder, "some/prefix"))


def commit(repository: Repository, folder: Path, snapshot_id: str, entries: list[Entry] = ENTRIES) -> None:
    forging.store_snapshot(repository, folder / "manifest", entries, [(b"x" * 512, ChunkKind.PACK)], snapshot_id)


@pytest.fixture
def filled(repository: Repository, tmp_path: Path) -> Repository:
    for snapshot_id in IDS:
        commit(repository, tmp_path, snapshot_id)
    return repository


def test_names_are_resolved(filled: Repository) -> None:
    assert filled.resolve("latest") == IDS[2]
    assert filled.resolve("20261124") == IDS[2]
    assert filled.resolve(IDS[0][:-3]) == IDS[0]
    assert filled.resolve(IDS[1]) == IDS[1]


@pytest.mark.parametrize("name", ["", "2027", "Latest", "4f2a9c01", "../", "20261123T110512Z-4f2a9c01x"])
def test_a_name_that_no_snapshot_has(filled: Repository, name: str) -> None:
    with pytest.raises(SnapshotNotFoundError):
        filled.resolve(name)


def test_a_whole_id_that_no_snapshot_has_is_found_out_when_it_is_read(filled: Repository) -> None:
    unknown = "20261123T110512Z-ffffffff"
    for read in (filled.summary, filled.delete_snapshot):
        with pytest.raises(SnapshotNotFoundError, match=unknown):
            read(unknown)


def test_an_ambiguous_name_says_what_it_may_mean(filled: Repository) -> None:
    with pytest.raises(SnapshotAmbiguousError, match=f"names 2 snapshots: {IDS[1]}, {IDS[0]}"):
        filled.resolve("20261123T110512Z-4f2")


def test_an_empty_store_has_no_latest_snapshot(repository: Repository) -> None:
    assert repository.list_snapshots(10) == []
    with pytest.raises(SnapshotNotFoundError):
        repository.resolve("latest")


def test_what_is_not_committed_is_not_listed(filled: Repository) -> None:
    interrupted = "20271123T110512Z-00000000"
    filled.store.write(keys.chunk_list(interrupted), b"chunks/00/00\n")
    filled.store.write("snapshots/notes/manifest", b"no snapshot")
    assert [summary.id for summary in filled.list_snapshots(10)] == IDS[::-1]
    assert filled.resolve("latest") == IDS[2]
    with pytest.raises(SnapshotNotFoundError):
        filled.resolve("2027")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format_version": 1, "id": "\xff"}',
        b'{"format_version": 1, "x": ' + b"[" * 50_000,
        b" " * 99_999,
    ],
)
def test_a_damaged_repository_file_is_data_loss(filled: Repository, content: bytes) -> None:
    filled.store.write(keys.REPOSITORY, content)
    for ask in (filled.info, filled.ensure, filled.snapshot_ids):
        with pytest.raises(DataLossError, match="is damaged"):
            ask()


def test_snapshots_are_listed_by_pages(filled: Repository) -> None:
    pages, before = [], ""
    while page := filled.list_snapshots(2, before):
        pages.append([summary.id for summary in page])
        before = page[-1].id
    assert pages == [[IDS[2], IDS[1]], [IDS[0]]]


def test_entries_are_listed_by_pages(filled: Repository) -> None:
    found: list[bytes] = []
    after: bytes | None = None
    while page := filled.list_entries(IDS[0], b"", after, 2):
        found += [entry.path for entry in page]
        after = found[-1]
    assert found == [entry.path for entry in ENTRIES]


@pytest.mark.parametrize(
    ("path", "expected"),
    [(b"a", [b"a", b"a/b", b"a/c"]), (b"a/b", [b"a/b"]), (b"a.b", [b"a.b"]), (b"a/", []), (b"c", []), (b"a/bb", [])],
)
def test_entries_below_one_path(filled: Repository, path: bytes, expected: list[bytes]) -> None:
    assert [entry.path for entry in filled.list_entries(IDS[0], path, None, 10)] == expected


def test_a_page_below_one_path_ends_with_it(filled: Repository) -> None:
    assert [entry.path for entry in filled.list_entries(IDS[0], b"a", b"a/b", 10)] == [b"a/c"]


def test_a_deleted_snapshot_is_gone_and_its_chunks_stay(filled: Repository) -> None:
    chunks = {found.key for found in filled.store.list("chunks/")}
    filled.delete_snapshot(IDS[1])
    assert [summary.id for summary in filled.list_snapshots(10)] == [IDS[2], IDS[0]]
    assert not list(filled.store.list(f"snapshots/{IDS[1]}/"))
    assert {found.key for found in filled.store.list("chunks/")} == chunks
    with pytest.raises(SnapshotNotFoundError):
        filled.delete_snapshot(IDS[1])


def test_a_damaged_manifest_names_its_snapshot_and_can_be_deleted(filled: Repository) -> None:
    data = filled.store.read(keys.manifest(IDS[1]))
    filled.store.write(keys.manifest(IDS[1]), data[:-70] + b"x" + data[-69:])
    with pytest.raises(DataLossError, match=IDS[1]):
        filled.summary(IDS[1])
    assert filled.resolve(IDS[1][:-2]) == IDS[1]
    listed = filled.list_snapshots(10)
    assert [found.id for found in listed] == IDS[::-1]
    assert [isinstance(found, UnreadableSnapshot) for found in listed] == [False, True, False]
    filled.delete_snapshot(IDS[1])
    assert [summary.id for summary in filled.list_snapshots(10)] == [IDS[2], IDS[0]]


def test_the_manifest_of_another_snapshot_is_refused(filled: Repository) -> None:
    filled.store.write(keys.manifest(IDS[1]), filled.store.read(keys.manifest(IDS[0])))
    with pytest.raises(DataLossError, match=IDS[0]):
        filled.summary(IDS[1])


def test_a_repository_is_made_once(repository: Repository) -> None:
    assert repository.info() is None
    made = repository.ensure()
    assert (made.format_version, made.chunk_size, len(made.id)) == (1, 64 << 20, 32)
    assert repository.ensure() == made == repository.info()


def test_two_agents_that_make_a_repository_at_once_agree(repository: Repository) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: repository.ensure(), range(16)))
    info = repository.info()
    assert info is not None
    assert repository.ensure() == info


REFUSED: dict[str, tuple[dict[str, object], type[GpusnapError]]] = {
    "newer": ({"format_version": 2}, RepositoryVersionError),
    "newer with other fields": ({"format_version": 2, "id": None, "chunk_size": "any"}, RepositoryVersionError),
    "encrypted": ({"encryption": {"kind": "x"}}, RepositoryVersionError),
    "damaged": ({"format_version": "one"}, DataLossError),
    "without id": ({"id": None}, DataLossError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unknown_repository_is_refused_by_every_reader(filled: Repository, case: str) -> None:
    fields, error = REFUSED[case]
    plain = {"format_version": 1, "id": "0", "chunk_size": 1, "created": "", "encryption": None, "later": [1]}
    filled.store.write(keys.REPOSITORY, json.dumps(plain).encode())
    assert filled.resolve("latest") == IDS[2]
    filled.store.write(keys.REPOSITORY, json.dumps({**plain, **fields}).encode())
    for read in (lambda: filled.resolve("latest"), lambda: filled.list_snapshots(1), filled.ensure):
        with pytest.raises(error):
            read()


def test_what_is_no_json_is_damage(repository: Repository) -> None:
    repository.store.write(keys.REPOSITORY, b"{")
    with pytest.raises(DataLossError):
        repository.ensure()


def test_ids_are_plain_digits() -> None:
    assert keys.is_snapshot_id(IDS[0])
    for text in (IDS[0].upper(), IDS[0] + "\n", "\u0662" + IDS[0][1:], IDS[0][:-1], ""):
        assert not keys.is_snapshot_id(text)
