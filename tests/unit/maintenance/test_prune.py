"""What a prune does to a repository, and what it says about it."""

from __future__ import annotations

import msgspec
import pytest

from agent.config.model import Provider
from agent.errors import DataLossError, RepositoryVersionError
from agent.events import Garbage
from agent.maintenance import prune as prune_module
from agent.maintenance.retention import NO_RULE, OTHER_GROUP, Rules
from agent.repository import condemned, keys
from agent.repository.repository import Repository
from tests.support import forging
from tests.support.kept import DAY, GRACE, Kept
from tests.support.virtual_store import VirtualStore


def test_what_goes_is_freed_in_steps(kept: Kept) -> None:
    old, new = kept.snapshot(1, 0, 1, 2), kept.snapshot(2, 2, 3)
    kept.later()
    report = kept.prune(Rules(last=1))
    assert (report.kept, report.removed) == (1, 1)
    assert [(item.snapshot_id, item.reasons) for item in report.verdicts] == [(old, ()), (new, ("last",))]
    assert (report.freed, report.condemned, report.held) == (Garbage(), Garbage(), Garbage(2, 300))
    assert kept.objects.keys("snapshots/") == [keys.chunk_list(new), keys.manifest(new)]
    assert kept.objects.keys("trash/") == [keys.tombstone(old)]

    kept.later(GRACE.seconds - 100)
    assert kept.prune().held == Garbage(2, 300)
    kept.later(200)
    report = kept.prune()
    assert (report.freed, report.condemned, report.held) == (Garbage(), Garbage(2, 300), Garbage())
    assert kept.objects.keys("trash/") == []

    kept.later(GRACE.seconds - 100)
    report = kept.prune()
    assert (report.freed, report.condemned) == (Garbage(), Garbage(2, 300))
    assert len(kept.chunks()) == 4
    kept.later(200)
    report = kept.prune()
    assert (report.freed, report.condemned, report.held) == (Garbage(2, 300), Garbage(), Garbage())
    assert kept.chunks() == {kept.chunk(2), kept.chunk(3)}
    assert kept.prune().freed == Garbage()
    assert kept.repository.summary(new).id == new


def test_a_dry_run_says_the_same_and_changes_nothing(kept: Kept) -> None:
    for day in range(4):
        kept.snapshot(day, day, 5)
    garbage = kept.chunk(7)
    kept.store.write("benchmark/left", b"x")
    kept.later()
    kept.prune()
    kept.later()
    before = dict(kept.objects.found)
    would = kept.prune(Rules(last=2), dry_run=True)
    assert kept.objects.found == before
    assert would.dry_run
    did = kept.prune(Rules(last=2))
    assert msgspec.structs.replace(would, dry_run=False) == msgspec.structs.replace(did, litter=would.litter)
    assert did.freed == Garbage(1, 800)
    assert garbage not in kept.chunks()


def test_without_a_rule_no_snapshot_goes(kept: Kept) -> None:
    ids = {kept.snapshot(day, day) for day in range(5)}
    report = kept.prune()
    assert (report.kept, report.removed) == (5, 0)
    assert {item.reasons for item in report.verdicts} == {(NO_RULE,)}
    assert set(kept.repository.snapshot_ids()) == ids


def test_rules_are_for_the_chosen_groups(kept: Kept) -> None:
    mine = [kept.snapshot(day, 0, host="a", workspace=b"/\xff") for day in range(3)]
    others = [kept.snapshot(day, 1, host="b") for day in range(3)]
    report = kept.prune(Rules(last=1), hosts=("a",), workspaces=(b"/\xff",))
    assert (report.kept, report.removed) == (4, 2)
    assert {item.snapshot_id for item in report.verdicts if item.reasons == (OTHER_GROUP,)} == set(others)
    assert set(kept.repository.snapshot_ids()) == {mine[-1], *others}


def test_a_damaged_manifest_stops_it_and_is_named(kept: Kept) -> None:
    damaged, sound = kept.snapshot(1, 0), kept.snapshot(2, 1)
    kept.chunk(5)
    kept.later()
    data = kept.store.read(keys.manifest(damaged))
    kept.store.write(keys.manifest(damaged), data[:-70] + b"x" + data[-69:])
    before = dict(kept.objects.found)
    with pytest.raises(DataLossError, match=damaged) as caught:
        kept.prune(Rules(last=1))
    assert f"gpusnap delete {damaged}" in caught.value.hint
    assert kept.objects.found == before

    kept.repository.delete_snapshot(damaged)
    report = kept.prune()
    assert report.kept == 1
    assert [(warning.reason, damaged in warning.message) for warning in kept.warnings] == [("SNAPSHOT_DAMAGED", True)]
    assert kept.repository.snapshot_ids() == [sound]


def test_a_damaged_chunk_table_stops_it_too(kept: Kept) -> None:
    damaged = kept.snapshot(1, 0)
    data = bytearray(kept.store.read(keys.manifest(damaged)))
    offset = data.index(forging.chunk(b"\0" * 100).id)
    data[offset] ^= 1
    kept.store.write(keys.manifest(damaged), bytes(data))
    kept.chunk(5)
    kept.later()
    with pytest.raises(DataLossError, match=damaged):
        kept.prune()
    assert kept.objects.keys("condemned/") == []


def test_another_version_stops_it(kept: Kept) -> None:
    kept.snapshot(1, 0)
    info = kept.repository.ensure()
    kept.store.write(keys.REPOSITORY, msgspec.json.encode(msgspec.structs.replace(info, format_version=2)))
    kept.later()
    with pytest.raises(RepositoryVersionError):
        kept.prune(Rules(last=1))


def test_what_interrupted_operations_left_goes_when_it_is_old(kept: Kept) -> None:
    snapshot = kept.snapshot(1, 0)
    left = [
        "benchmark/a/b",
        "clock/0123",
        "gpusnap-check-0123",
        keys.chunk_list("20200101T000000Z-00000000"),
        keys.tombstone("20200101T000000Z-00000001"),
    ]
    others = ["chunks/zz", "chunks/00/notes", "snapshots/notes/manifest", "trash/notes", "gpusnap", "condemned/notes"]
    for key in left + others:
        kept.store.write(key, b"")
    kept.store.write(left[4], kept.store.read(keys.manifest(snapshot)))
    kept.later(GRACE.seconds - 100)
    assert kept.prune().litter == 0
    assert set(left) <= set(kept.objects.found)
    kept.later(200)
    young = [f"{key}-young" for key in left[:3]]
    for key in young:
        kept.store.write(key, b"")
    assert kept.prune(dry_run=True).litter == 5
    assert kept.prune().litter == 5
    assert set(left).isdisjoint(kept.objects.found)
    assert {*young, *others, keys.manifest(snapshot), keys.chunk_list(snapshot)} <= set(kept.objects.found)


def test_litter_whose_delete_comes_too_late_is_deleted_by_another(kept: Kept) -> None:
    left = [keys.chunk_list(f"20200101T000000Z-0000000{number}") for number in range(3)]
    for key in left:
        kept.store.write(key, b"")
    kept.later()
    late = iter(range(2))

    def turn(request: str) -> None:
        if request.startswith("send delete") and next(late, None) is not None:
            kept.objects.now += GRACE.delete + 1

    kept.repository = Repository(VirtualStore(kept.objects, turn))
    assert kept.prune().litter == 3
    assert not set(left) & set(kept.objects.found)


def test_worked_off_records_are_removed(kept: Kept) -> None:
    kept.chunk(0)
    for _ in range(2):
        kept.later()
        kept.prune()
    assert len(kept.objects.keys("condemned/")) == 2
    kept.later(GRACE.settle)
    kept.prune()
    assert kept.objects.keys("condemned/") == []


def test_the_removal_of_a_record_is_completed(kept: Kept) -> None:
    kept.chunk(0)
    for _ in range(2):
        kept.later()
        kept.prune()
    kept.store.delete(next(key for key in kept.objects.keys("condemned/") if key.endswith("/chunks")))
    kept.later()
    kept.prune()
    assert kept.objects.keys("condemned/") == []


def test_a_damaged_record_is_set_aside(kept: Kept) -> None:
    kept.chunk(0)
    kept.later()
    kept.prune()
    (key,) = kept.objects.keys("condemned/")
    kept.store.write(key, kept.store.read(key)[:-1])
    with pytest.raises(DataLossError, match=key):
        condemned.read_all(kept.store, int(kept.objects.now), GRACE)
    kept.later()
    assert kept.prune().freed == Garbage()
    assert [warning.reason for warning in kept.warnings] == ["RECORD_DAMAGED"]
    kept.later()
    assert kept.prune().freed == Garbage(1, 100)
    assert not any(found.startswith(key) for found in kept.objects.keys("condemned/"))


def test_many_chunks_need_several_records(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condemned, "IDS_PER_RECORD", 2)
    for number in range(5):
        kept.chunk(number)
    kept.later()
    kept.prune()
    assert len(kept.objects.keys("condemned/")) == 3
    kept.later()
    assert kept.prune().freed == Garbage(5, 1500)


def test_what_is_needed_again_is_spared(kept: Kept) -> None:
    kept.chunk(0)
    kept.chunk(1)
    kept.later()
    kept.prune()
    kept.later()
    kept.snapshot(1, 1)
    assert kept.prune().freed == Garbage(1, 100)
    assert kept.chunks() == {kept.chunk(1)}


def test_a_minimum_storage_time_is_told(kept: Kept) -> None:
    kept.chunk(0)
    kept.later(100 * DAY)
    kept.chunk(1)
    kept.later()
    kept.prune()
    kept.later()
    report = kept.prune(provider=Provider.WASABI, dry_run=True)
    assert (report.minimum_storage_days, report.freed, report.early) == (90, Garbage(2, 300), Garbage(1, 200))
    report = kept.prune(provider=Provider.B2)
    assert (report.minimum_storage_days, report.freed, report.early) == (0, Garbage(2, 300), Garbage())


def test_a_minimum_storage_time_is_told_before_anything_goes(kept: Kept) -> None:
    kept.snapshot(1, 0)
    kept.later(100 * DAY)
    kept.snapshot(2, 0, 1)
    kept.snapshot(3, 2)
    kept.chunk(3)
    kept.later(2 * DAY)
    # The chunks of snapshots that would go: 0 stored long ago and again, 1 by the second, and 3 by none at all.
    rules = Rules(last=1)
    report = kept.prune(rules, provider=Provider.WASABI, dry_run=True)
    assert (report.removed, report.freed, report.held, report.condemned) == (
        2,
        Garbage(),
        Garbage(2, 300),
        Garbage(1, 400),
    )
    assert report.early == Garbage(3, 700)
    assert kept.prune(rules, provider=Provider.WASABI).early == report.early
    # All of it goes when it is old enough.
    kept.later(88 * DAY + GRACE.seconds)
    report = kept.prune(rules, provider=Provider.WASABI, dry_run=True)
    assert (report.freed, report.condemned, report.early) == (Garbage(1, 400), Garbage(2, 300), Garbage())


def test_an_empty_store(kept: Kept) -> None:
    kept.objects.found.clear()
    report = kept.prune(Rules(last=1))
    assert (report.kept, report.removed, report.freed) == (0, 0, Garbage())
    assert kept.objects.found == {}


def test_long_lists_of_verdicts_are_cut(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(8):
        kept.snapshot(day, 0)
    monkeypatch.setattr(prune_module, "VERDICTS", 5)
    report = kept.prune(Rules(last=2), dry_run=True)
    assert (report.kept, report.removed) == (2, 6)
    assert [bool(item.reasons) for item in report.verdicts] == [False] * 5
    monkeypatch.setattr(prune_module, "VERDICT_BYTES", 350)
    assert len(kept.prune(Rules(last=2), dry_run=True).verdicts) == 3
