"""The store's clock: the only one that all agents of a repository share."""

from __future__ import annotations

import secrets

from agent.errors import ObjectNotFoundError
from agent.storage.store import Store

CLOCK = "clock/"
"""Where small objects are written to read the store's clock from them."""

ATTEMPTS = 3


def read_clock(store: Store) -> int:
    """Returns the store's clock in whole seconds since 1970, never ahead of it; takes a write, a question, a delete.

    Raises:
        GpusnapError: the store cannot be written.
    """
    for attempt in range(ATTEMPTS):
        key = f"{CLOCK}{secrets.token_hex(8)}"
        store.write(key, b"gpusnap reads this store's clock\n")
        try:
            now = store.head(key).modified_s
        except ObjectNotFoundError:
            # This process was stopped for so long that a prune took it for a leftover.
            if attempt + 1 == ATTEMPTS:
                raise
            continue
        store.delete(key)
        return now
    raise AssertionError("unreachable")
