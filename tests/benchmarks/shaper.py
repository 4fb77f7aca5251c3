"""A TCP proxy with a limited bandwidth, shared by all its connections; each direction has it to itself, as a link has.

    python -m tests.benchmarks.shaper PORT HOST:PORT MBIT

It costs about a CPU second a gigabyte, so it can shape to some 2000 Mbit/s.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

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


async def serve(port: int, server: str, megabits: float) -> None:
    """Serves until cancelled."""
    host, _, server_port = server.rpartition(":")
    upward, downward = Pace(megabits * 125_000), Pace(megabits * 125_000)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward_writer = await asyncio.open_connection(host, int(server_port), limit=PIECE)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, onward_writer, upward), _pump(onward_reader, writer, downward))

    listener = await asyncio.start_server(connected, "127.0.0.1", port, limit=PIECE)
    await listener.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: Pace) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            await pace.take(len(data))
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
