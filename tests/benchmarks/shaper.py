"""A TCP proxy with a limited bandwidth: of all its connections together, and of each one.

Each direction has it to itself, as a link has. "inf" is no limit.

    python -m tests.benchmarks.shaper PORT HOST:PORT MBIT MBIT

It costs about a CPU second a gigabyte, so it can shape to some 2000 Mbit/s.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable

PIECE = 1 << 16


class Pace:
    """Lets so many bytes a second through, first come, first served."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self.free_at = 0.0
        """When all that was taken so far will have passed, by the monotonic clock."""

    async def take(self, count: int) -> None:
        """Returns once ``count`` bytes may have passed."""
        now = time.monotonic()
        self.free_at = max(self.free_at, now) + count / self._rate
        await asyncio.sleep(self.free_at - now)


async def serve(port: int, server: str, megabits: float, connection_megabits: float) -> None:
    """Serves until cancelled."""
    host, _, server_port = server.rpartition(":")
    upward, downward = _pace(megabits), _pace(megabits)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward_writer = await asyncio.open_connection(host, int(server_port), limit=PIECE)
        except OSError:
            writer.close()
            return
        own_upward, own_downward = _pace(connection_megabits), _pace(connection_megabits)
        await asyncio.gather(
            _pump(reader, onward_writer, (own_upward, upward)), _pump(onward_reader, writer, (own_downward, downward))
        )

    listener = await asyncio.start_server(connected, "127.0.0.1", port, limit=PIECE)
    await listener.serve_forever()


def _pace(megabits: float) -> Pace:
    return Pace(megabits * 125_000)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, paces: Iterable[Pace]) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            for pace in paces:
                await pace.take(len(data))
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
