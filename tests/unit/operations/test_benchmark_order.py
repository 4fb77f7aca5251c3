"""Orders for benchmarks: what is meant by nothing, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from agent.config.model import GIB, MIB, Config, PerRequest, Provider, StorageConfig
from agent.errors import GpusnapError, InvalidRequestError, StorageNotConfiguredError, StorageNotPermittedError
from agent.operations.benchmark_order import check_benchmark
from agent.operations.order import BenchmarkOrder

OWN = StorageConfig(bucket="own")
OTHER = StorageConfig(Provider.B2, "other", region="us-west-004")
CONFIG = Config(storage=OWN, providers={"b2": OTHER})


def test_nothing_said_means_the_usual() -> None:
    request = check_benchmark(BenchmarkOrder(""), CONFIG)
    assert (request.bytes, request.object_bytes, request.rounds) == (512 * MIB, 64 * MIB, 3)
    assert (request.storage, request.transfer) == (OWN, CONFIG.transfer)


def test_a_small_benchmark_has_small_objects() -> None:
    request = check_benchmark(BenchmarkOrder("", bytes=MIB, rounds=1), CONFIG)
    assert (request.bytes, request.object_bytes, request.rounds) == (MIB, MIB, 1)


def test_the_store_is_the_configured_one_or_one_by_name_or_that_of_the_request() -> None:
    assert check_benchmark(BenchmarkOrder("", "b2"), CONFIG).storage == OTHER
    requested = StorageConfig(bucket="requested")
    assert check_benchmark(BenchmarkOrder("", storage=requested), CONFIG).storage.bucket == "requested"
    forbidding = msgspec.structs.replace(CONFIG, storage=StorageConfig(bucket="own", per_request=PerRequest.FORBID))
    assert check_benchmark(BenchmarkOrder("", "b2"), forbidding).storage == OTHER
    with pytest.raises(StorageNotPermittedError):
        check_benchmark(BenchmarkOrder("", storage=requested), forbidding)
    with pytest.raises(StorageNotConfiguredError):
        check_benchmark(BenchmarkOrder(""), Config())


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (BenchmarkOrder("", "r2"), r"no \[providers.r2\], only b2"),
        (BenchmarkOrder("", "b2", storage=OWN), "a provider and a storage"),
        (BenchmarkOrder("", bytes=64 * GIB + 1), "bytes is 68719476737, more than 64GiB"),
        (BenchmarkOrder("", object_bytes=64 * MIB + 1), "object_bytes is 67108865, more than 64MiB"),
        (BenchmarkOrder("", rounds=21), "rounds is 21, more than 20"),
        (BenchmarkOrder("", bytes=GIB, object_bytes=1), "bytes / object_bytes is 1073741824, more than 10000"),
    ],
)
def test_what_is_refused(order: BenchmarkOrder, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        check_benchmark(order, CONFIG)
    assert isinstance(caught.value, GpusnapError)
    assert "\n" not in caught.value.message


def test_an_agent_without_further_stores_says_so() -> None:
    with pytest.raises(InvalidRequestError, match=r"no \[providers.NAME\] at all"):
        check_benchmark(BenchmarkOrder("", "r2"), Config(storage=OWN))
