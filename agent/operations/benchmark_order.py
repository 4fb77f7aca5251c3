"""Checks of an order for a benchmark."""

from __future__ import annotations

from agent.config.model import GIB, MIB, Config, StorageConfig
from agent.config.values import show_size
from agent.errors import InvalidRequestError
from agent.maintenance.request import BenchmarkRequest
from agent.operations.order import BenchmarkOrder
from agent.operations.storage_choice import choose_storage

BYTES = 512 * MIB
OBJECT_BYTES = 64 * MIB
ROUNDS = 3
"""What a benchmark does unless it is told otherwise."""

MOST_BYTES = 64 * GIB
MOST_OBJECT_BYTES = 64 * MIB
MOST_OBJECTS = 10_000
MOST_ROUNDS = 20
"""What it can be told to do at most. No chunk is larger than the largest object."""


def check_benchmark(order: BenchmarkOrder, config: Config) -> BenchmarkRequest:
    """Returns the request for the operation's process, without what the caller adds.

    Raises:
        InvalidRequestError: a number is beyond its bounds, or the provider is not one of the configuration.
        GpusnapError: what ``agent.operations.storage_choice.choose_storage`` raises.
    """
    size = order.bytes or BYTES
    object_bytes = order.object_bytes or min(OBJECT_BYTES, size)
    rounds = order.rounds or ROUNDS
    _check("bytes", size, MOST_BYTES, is_size=True)
    _check("object_bytes", object_bytes, MOST_OBJECT_BYTES, is_size=True)
    _check("rounds", rounds, MOST_ROUNDS)
    _check("bytes / object_bytes", size // object_bytes, MOST_OBJECTS)
    return BenchmarkRequest(
        operation="",
        bytes=size,
        object_bytes=object_bytes,
        rounds=rounds,
        staging_dir="",
        storage=_storage(order, config),
        transfer=config.transfer,
    )


def _storage(order: BenchmarkOrder, config: Config) -> StorageConfig:
    if not order.provider:
        return choose_storage(order.storage, config)
    if order.storage is not None:
        raise InvalidRequestError("the request names a provider and a storage", hint="name one of them")
    if order.provider not in config.providers:
        known = f"only {', '.join(config.providers)}" if config.providers else "no [providers.NAME] at all"
        raise InvalidRequestError(
            f"the agent's configuration has no [providers.{order.provider[:100]}], {known}",
            hint="add it to agent.toml, or name the store in the request",
        )
    return config.providers[order.provider]


def _check(field: str, value: int, most: int, *, is_size: bool = False) -> None:
    if value > most:
        shown = show_size(most) if is_size else str(most)
        raise InvalidRequestError(f"{field} is {value}, more than {shown}", hint="ask for less")
