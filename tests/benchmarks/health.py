"""How fast an agent answers its health checks meanwhile.

A process of its own asks: in the benchmark's, an answer would also wait for the interpreter's lock.

    python -m tests.benchmarks.health HOST:PORT     # ends when its input does, and prints seconds, one a line
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PAUSE_SECONDS = 0.05
"""Asked 50 times a second, an agent spent a twelfth of a restore's processor time on its answers."""
ANSWER_SECONDS = 5.0
"""An answer that takes longer ends the benchmark."""


@contextlib.contextmanager
def health_watch(address: str) -> Iterator[list[float]]:
    """Asks for an agent's health all the time while the block runs, and fills the list when it has ended.

    Args:
        address: where the agent listens, ``HOST:PORT``.

    Yields:
        How long each answer took, in seconds.
    """
    seconds: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.health", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asking:
        assert asking.stdout is not None
        asking.stdout.readline()  # it has begun to ask
        try:
            yield seconds
        finally:
            output, _ = asking.communicate()
    if asking.returncode:
        raise RuntimeError(f"asking {address} for its health ended with status {asking.returncode}")
    seconds += map(float, output.split())


def main(address: str) -> None:
    """Asks until the input ends."""
    seconds: list[float] = []
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS)
        print(flush=True)
        while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            begun = time.monotonic()
            stub.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS)
            seconds.append(time.monotonic() - begun)
    print(*seconds, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
