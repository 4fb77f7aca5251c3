"""JSON that others wrote, or that a store, a disk or another program may have damaged: one way to decode it all.

Besides what it calls a decoding error, msgspec raises UnicodeDecodeError and RecursionError. Whoever catches too little
fails for a file that should not matter.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from agent.errors import DataLossError

_MOST_CHARACTERS = 300

_T = TypeVar("_T")


def decode(data: bytes, decoder: msgspec.json.Decoder[_T], what: str) -> _T:
    """Returns what JSON says.

    Args:
        decoder: of the type that it should have.
        what: how the error names it.

    Raises:
        DataLossError: it is no JSON, or says something else.
    """
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)[:_MOST_CHARACTERS]
        # It may quote what it was given.
        raise DataLossError(f"{what} is damaged: {text if text.isprintable() else ascii(text)}") from error
