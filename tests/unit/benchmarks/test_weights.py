"""The weights that the benchmark makes up."""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path

import cramjam

from tests.benchmarks import weights


def test_weights_are_a_normal_distribution_that_lz4_cannot_shrink() -> None:
    data = weights.bf16_normal(random.Random(1), 1 << 20)
    values = [struct.unpack("<f", b"\0\0" + data[place : place + 2])[0] for place in range(0, 1 << 18, 2)]
    deviation = math.sqrt(sum(value * value for value in values) / len(values))
    assert abs(sum(values) / len(values)) < 0.001
    assert 0.9 * weights.DEVIATION < deviation < 1.2 * weights.DEVIATION
    assert len(bytes(cramjam.lz4.compress_block(bytes(data)))) > 0.99 * len(data)


def test_shards_are_safetensors_and_always_the_same(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        weights.write_shards(tmp_path / folder, 1, 2)
    shards = sorted((tmp_path / "a").iterdir())
    assert [shard.name for shard in shards] == [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    contents = [shard.read_bytes() for shard in shards]
    assert contents == [(tmp_path / "b" / shard.name).read_bytes() for shard in shards]
    assert contents[0][1 << 20 :] != contents[1][1 << 20 :], "shards share no content"
    length = struct.unpack("<Q", contents[0][:8])[0]
    tensors = json.loads(contents[0][8 : 8 + length])
    assert len(contents[0]) == 8 + length + max(tensor["data_offsets"][1] for tensor in tensors.values())
