"""Changes bytes as chance wills."""

from __future__ import annotations

import random

_ODD = (b"\xff" * 9 + b"\x01", b"\x7f", b"\x00", b"\x80" * 12, b"\xff\xff\xff\xff", b"\x00\x00\x00\x80")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Returns bytes with a few changes: flipped bits, other bytes, pieces removed, repeated, moved or put in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place = chance.randrange(len(changed) + 1)
        size = chance.choice((1, 1, 2, 4, 8, 40))
        piece = bytes(changed[place : place + size])
        kind = chance.randrange(6)
        if kind == 0 and piece:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[place : place + size] = chance.randbytes(len(piece))
        elif kind == 2:
            del changed[place : place + size]
        elif kind == 3:
            changed[place:place] = piece * chance.choice((1, 2, 100))
        elif kind == 4:
            changed[place:place] = chance.choice(_ODD)
        else:
            other = chance.randrange(len(changed) + 1)
            changed[other:other] = piece
    return bytes(changed)
