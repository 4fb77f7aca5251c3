"""Objects in the store are damaged, missing or others: found, named, never under a final name, and healed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.events import ChunkKind
from agent.repository import keys
from agent.repository.repository import Repository
from agent.storage.open import open_store
from tests.faults.invariants import TREE, Kind
from tests.faults.network.conftest import MakeScene
from tests.support import forging
from tests.support.damage import flipped
from tests.support.fuzz import FACTOR
from tests.support.seaweed import SeaweedServer
from tests.support.trees import File, Seeded

MORE = tuple(File(b"models/more-%d.bin" % number, Seeded(300_000, seed=900 + number)) for number in range(4))
"""With them there are enough large files for every kind of damage."""

NOTES = tuple(File(b"notes/%d.txt" % number, Seeded(2000, seed=950 + number)) for number in range(4))
"""Behind the large files, and so in a pack of their own."""

Damage = Callable[[bytes, random.Random], bytes | None]
"""Makes of an object's bytes what stands there instead; None for nothing."""


def bit_flipped(data: bytes, chance: random.Random) -> bytes:
    return flipped(data, chance.randrange(len(data)))


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def longer(data: bytes, chance: random.Random) -> bytes:
    return data + chance.randbytes(chance.randrange(1, 5000))


def empty(data: bytes, chance: random.Random) -> bytes:
    return b""


def another(data: bytes, chance: random.Random) -> bytes:
    return forging.frame(chance.randbytes(300_000))


def missing(data: bytes, chance: random.Random) -> None:
    return None


DAMAGES: tuple[Damage, ...] = (bit_flipped, cut, longer, empty, another, missing)


class Objects:
    """The objects of one repository, to be looked at and replaced behind its back."""

    def __init__(self, seaweed: SeaweedServer, storage: pb.Storage | None) -> None:
        assert storage is not None
        self._client = seaweed.client()
        self._storage = storage
        self.repository = Repository(open_store(seaweed.storage_config(storage.bucket, storage.prefix)))

    def read(self, key: str) -> bytes:
        found: bytes = self._client.get_object(Bucket=self._storage.bucket, Key=f"{self._storage.prefix}/{key}")[
            "Body"
        ].read()
        return found

    def replace(self, key: str, data: bytes | None) -> None:
        if data is None:
            self._client.delete_object(**self._place(key))
        else:
            self._client.put_object(**self._place(key), Body=data)

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._storage.bucket, "Key": f"{self._storage.prefix}/{key}"}


def test_damaged_chunks_are_named_and_all_else_is_restored(
    make_scene: MakeScene, seaweed: SeaweedServer, chance: random.Random
) -> None:
    scene = make_scene(Kind.SNAPSHOT, TREE + MORE + NOTES)
    scene.prepare(Kind.RESTORE)
    objects = Objects(seaweed, scene.storage)
    manifest = objects.repository.manifest(scene.listed()[0])
    table = manifest.chunks()
    entries = [entry for entry in manifest.entries() if entry.data_size]
    # A large file has a header and, here, one segment.
    content = {entry.path: table[entry.chunk + entry.segments].id for entry in entries}
    files = chance.sample(sorted(entry.path for entry in entries if entry.segments), len(DAMAGES))
    damaged = {content[path]: {path} for path in files} | {content[NOTES[0].path]: {file.path for file in NOTES}}
    before = {chunk: objects.read(keys.chunk(chunk)) for chunk in damaged}
    for chunk, damage in zip(damaged, [*DAMAGES, bit_flipped], strict=True):
        objects.replace(keys.chunk(chunk), damage(before[chunk], chance))

    outcome = scene.run(Kind.RESTORE)
    scene.check(outcome)
    assert outcome.reason == "DATA_LOSS"
    named = {bytes.fromhex(found.chunk_id): set(found.paths) & content.keys() for found in outcome.end.error.damaged}
    assert named == damaged
    lost = set().union(*damaged.values())
    for path in content:
        assert (scene.target / path.decode()).exists() == (path not in lost), path

    for chunk in damaged:
        objects.replace(keys.chunk(chunk), before[chunk])
    scene.recovers(Kind.RESTORE, outcome)


MANIFEST, REPOSITORY, CHUNK_LIST = "manifest", keys.REPOSITORY, "chunks.txt"

ENDS: dict[tuple[str, Kind], tuple[set[str], set[str]]] = {
    (MANIFEST, Kind.RESTORE): ({"DATA_LOSS", "REPOSITORY_VERSION_UNSUPPORTED"}, {"SNAPSHOT_NOT_FOUND"}),
    (MANIFEST, Kind.SNAPSHOT): ({""}, {""}),
    (REPOSITORY, Kind.RESTORE): ({"DATA_LOSS", "REPOSITORY_VERSION_UNSUPPORTED", ""}, {""}),
    (REPOSITORY, Kind.SNAPSHOT): ({"DATA_LOSS", "REPOSITORY_VERSION_UNSUPPORTED", ""}, {""}),
    (CHUNK_LIST, Kind.RESTORE): ({""}, {""}),
}
"""What an operation may end with if an object is damaged, and if it is missing."""


@pytest.mark.parametrize("engine", ["stream"], indirect=True)  # engines move chunks only
@pytest.mark.parametrize(("what", "kind"), ENDS, ids=lambda value: getattr(value, "value", value))
def test_what_is_not_a_chunk_is_damaged(
    make_scene: MakeScene, seaweed: SeaweedServer, what: str, kind: Kind, chance: random.Random
) -> None:
    scene = make_scene(Kind.SNAPSHOT)
    scene.prepare(Kind.RESTORE)
    objects = Objects(seaweed, scene.storage)
    for damage in chance.sample(DAMAGES, min(round(2 * FACTOR), len(DAMAGES))):
        newest = scene.listed()[0]
        key = {MANIFEST: keys.manifest(newest), CHUNK_LIST: keys.chunk_list(newest)}.get(what, what)
        before = objects.read(key)
        objects.replace(key, damage(before, chance))
        outcome = scene.run(kind, snapshot=newest)
        objects.replace(key, before)
        damaged, gone = ENDS[what, kind]
        assert outcome.reason in (gone if damage is missing else damaged), (damage.__name__, outcome.end)
        if (what, kind) == (MANIFEST, Kind.SNAPSHOT) and damage is not missing:
            assert "SNAPSHOT_DAMAGED" in outcome.warnings
        if kind is Kind.RESTORE:
            assert outcome.succeeded or not scene.target.exists()
            shutil.rmtree(scene.target, ignore_errors=True)
        scene.check(outcome)
    scene.recovers(kind)


@pytest.mark.parametrize("engine", ["stream"], indirect=True)
def test_objects_that_stand_under_the_keys_of_others(make_scene: MakeScene, seaweed: SeaweedServer) -> None:
    scene = make_scene(Kind.SNAPSHOT)
    scene.prepare(Kind.RESTORE)
    scene.prepare(Kind.RESTORE)
    objects = Objects(seaweed, scene.storage)
    newest, older = scene.listed()
    chunks = [chunk.id for chunk in objects.repository.manifest(newest).chunks() if chunk.kind is ChunkKind.SEGMENT]
    for kind_of_object in ([keys.manifest(newest), keys.manifest(older)], [keys.chunk(chunk) for chunk in chunks[:2]]):
        before = [objects.read(key) for key in kind_of_object]
        for key, data in zip(kind_of_object, reversed(before), strict=True):
            objects.replace(key, data)
        outcome = scene.run(Kind.RESTORE, snapshot=newest)
        scene.check(outcome)
        assert outcome.reason == "DATA_LOSS", outcome.end
        for key, data in zip(kind_of_object, before, strict=True):
            objects.replace(key, data)
    scene.recovers(Kind.RESTORE)
