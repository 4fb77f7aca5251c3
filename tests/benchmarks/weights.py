"""Model files as they come: bf16 weights in safetensors shards. LZ4 gains nothing on them.

The weights are those of a normal distribution around 0 with a standard deviation of 0.02, as trained layers have: sign
and exponent are drawn with their probabilities, to 1/256, and the seven bits of the mantissa at random.
"""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path

DEVIATION = 0.02
TENSOR_BYTES = 32 << 20
_ROW = 4096


def write_shards(folder: Path, size: int, shards: int) -> None:
    """Writes ``size`` bytes of weights in ``shards`` files named as model hubs do; always the same bytes."""
    folder.mkdir(parents=True)
    tensors = max(size // shards // TENSOR_BYTES, 1)
    for shard in range(1, shards + 1):
        source = random.Random(shard)
        with (folder / f"model-{shard:05}-of-{shards:05}.safetensors").open("wb") as file:
            file.write(_header(shard, tensors))
            for _ in range(tensors):
                file.write(bf16_normal(source, TENSOR_BYTES))


def bf16_normal(source: random.Random, size: int) -> bytearray:
    """Returns ``size`` bytes of little-endian bf16 numbers."""
    drawn = source.randbytes(size // 2)
    mantissas = int.from_bytes(source.randbytes(size // 2).translate(_MANTISSAS), "little")
    exponent_bits = int.from_bytes(drawn.translate(_EXPONENT_BITS), "little")
    data = bytearray(size)
    data[0::2] = (mantissas | exponent_bits).to_bytes(size // 2, "little")
    data[1::2] = drawn.translate(_UPPER_BYTES)
    return data


def _header(shard: int, tensors: int) -> bytes:
    shape = [TENSOR_BYTES // 2 // _ROW, _ROW]
    table = {
        f"model.layers.{shard}.{number}.weight": {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [number * TENSOR_BYTES, (number + 1) * TENSOR_BYTES],
        }
        for number in range(tensors)
    }
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _quantile(step: int) -> bytes:
    """Returns the big-endian float32 at the middle of one of 128 equally likely steps of the absolute value."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        below = math.erf(middle / DEVIATION / math.sqrt(2)) < (step + 0.5) / 128
        low, high = (middle, high) if below else (low, middle)
    return struct.pack(">f", low)


# A number's upper byte is its sign and most of its exponent; the exponent's last bit leads the lower one.
_QUANTILES = [_quantile(step // 2) for step in range(256)]
_UPPER_BYTES = bytes(quantile[0] | (step % 2) << 7 for step, quantile in enumerate(_QUANTILES))
_EXPONENT_BITS = bytes(quantile[1] & 0x80 for quantile in _QUANTILES)
_MANTISSAS = bytes(number & 0x7F for number in range(256))
