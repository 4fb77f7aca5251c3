"""Operations of a real agent that come to their middle and no further: which half is confirmed is known exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.repository.model import SEGMENT_SIZE
from agent.rpc import convert
from tests.support.daemon import Daemon
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected
from tests.support.seaweed import SeaweedServer

SETTINGS = {
    "GPUSNAP_TRANSFER__CONNECTIONS": "4",
    "GPUSNAP_TRANSFER__ENGINE": "stream",
    "GPUSNAP_TRANSFER__WORKERS": "1",
    "GPUSNAP_SCAN__LARGE_FILE_SIZE": "1MiB",
    "GPUSNAP_AGENT__DRAIN_SECONDS": "0",
}
"""An agent that has all chunks on their way at once, so that some can be held up while the others get through."""

FILES = 4
LARGE = 2 << 20
"""Bytes of each file but one, which is one chunk."""

HUGE = "a-huge-one.bin"
"""A file of two chunks."""

Request = pb.SnapshotRequest | pb.RestoreRequest


class Models:
    """A workspace of a few large files.

    Attributes:
        first, second: the ids of the chunks that are confirmed before a test breaks something, and of the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        contents = {f"model-{number}.bin": os.urandom(LARGE) for number in range(FILES)}
        contents[HUGE] = os.urandom(SEGMENT_SIZE + LARGE)
        for name, content in contents.items():
            (path / name).write_bytes(content)
        huge = contents.pop(HUGE)
        held, *others = (_id(content) for content in contents.values())
        self.first = {_id(huge[:SEGMENT_SIZE]), *others}
        self.second = {_id(huge[SEGMENT_SIZE:]), held}

    def half_done(
        self, agent: Daemon, proxy: Proxy, request: Request, act: Callable[[], object] = lambda: None
    ) -> list[pb.Event]:
        """Starts an operation, acts when its first half is confirmed, and returns its events up to then.

        The requests for the second half wait at the proxy until they break, and never reach the store.
        """
        proxy.script = lambda seen: Fault(is_held=True) if any(chunk in seen.path for chunk in self.second) else None
        events: list[pb.Event] = []
        for event in events_of(agent, request):
            events.append(event)
            if set(moved(events)) == self.first:
                act()
                return events
        raise AssertionError(f"it ended before: {events[-1]}")


def run(agent: Daemon, request: Request) -> list[pb.Event]:
    """Runs an operation to its end and returns its events."""
    return list(events_of(agent, request))


def events_of(agent: Daemon, request: Request) -> Iterator[pb.Event]:
    """Starts an operation and yields its events."""
    with connected(agent.address) as stub:
        if isinstance(request, pb.SnapshotRequest):
            yield from (response.event for response in stub.Snapshot(request, timeout=SECONDS))
        else:
            yield from (response.event for response in stub.Restore(request, timeout=SECONDS))


def moved(events: list[pb.Event]) -> list[str]:
    """Returns the large chunks that went over the link."""
    finished = [event.chunk_finished for event in events if event.HasField("chunk_finished")]
    return [chunk.chunk_id for chunk in finished if chunk.raw_bytes >= LARGE and not chunk.reused]


def storage_behind(proxy: Proxy, seaweed: SeaweedServer, bucket: str) -> pb.Storage:
    """Returns the way to a repository, with keys of its own."""
    message = convert.storage_message(seaweed.storage_config(bucket))
    message.endpoint = proxy.endpoint
    return with_new_keys(message, seaweed)


def with_new_keys(storage: pb.Storage, seaweed: SeaweedServer) -> pb.Storage:
    """Returns the same with other keys, as short-lived ones are."""
    keys = seaweed.new_keys()
    again = pb.Storage()
    again.CopyFrom(storage)
    again.credentials.access_key_id, again.credentials.secret_access_key = keys.access_key_id, keys.secret_access_key
    return again


def _id(content: bytes) -> str:
    return blake3(content).hexdigest()
