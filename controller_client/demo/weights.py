"""Writes models as training leaves them: safetensors files full of bf16 weights."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator

_PIECE = 4 << 20
_HIDDEN = 2048
_VOCABULARY = 8192


def write_weights(path: bytes, size: int, seed: int) -> None:
    """Writes a valid safetensors file of about ``size`` bytes.

    The weights are spread like a network's (normal, sigma 0.02), so that they compress as badly as real ones.

    Args:
        path: the file to make.
        size: bytes of content, rounded to whole tensors.
        seed: other seeds give other weights.
    """
    tensors = dict(_tensors(size))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "xb", buffering=0) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        source = random.Random(seed)  # noqa: S311 - weights, not secrets
        for begin in range(0, end, _PIECE):
            file.write(_weights(min(_PIECE, end - begin), source))


def _tensors(size: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields names and shapes like those of a language model."""
    hidden = _HIDDEN if size > 16 * _HIDDEN * _VOCABULARY else 256
    left = size - 2 * _VOCABULARY * hidden
    yield "model.embed_tokens.weight", (_VOCABULARY, hidden)
    layer = 0
    while left > 0:
        for part, rows in (("self_attn.q_proj", 1), ("self_attn.o_proj", 1), ("mlp.up_proj", 4), ("mlp.down_proj", 4)):
            yield f"model.layers.{layer}.{part}.weight", (rows * hidden, hidden)
            left -= 2 * rows * hidden * hidden
        layer += 1


def _high_bytes() -> bytes:
    """Returns the upper byte of the bf16 weight (sign and most of the exponent) at each of 256 quantiles."""
    source = random.Random(0)  # noqa: S311
    weights = sorted(source.gauss(0.0, 0.02) for _ in range(256))
    return bytes(_float_bits(weight) >> 24 for weight in weights)


def _float_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


_HIGH_BYTES = _high_bytes()


def _weights(length: int, source: random.Random) -> bytearray:
    weights = bytearray(source.randbytes(length))
    weights[1::2] = weights[1::2].translate(_HIGH_BYTES)
    return weights
