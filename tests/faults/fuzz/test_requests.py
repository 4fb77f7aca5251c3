"""Requests that say anything, to a real agent: only its own statuses come back, and it goes on."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub
from hypothesis import strategies as st

from agent.rpc.paging import make_token
from tests.support.daemon import Daemon
from tests.support.fuzz import fuzz
from tests.support.messages import BYTES, TEXTS, messages, variations
from tests.support.rpc import connected, error_info, snapshot
from tests.support.seaweed import SeaweedServer

SECONDS = 60.0
SERVICE = pb.DESCRIPTOR.services_by_name["SnapshotAgent"]
STARTING = ("Benchmark", "Snapshot", "Restore")
METHODS = {method.name: GetMessageClass(method.input_type) for method in SERVICE.methods}

# Drawn values name what the agent of this run has by these.
ROOT, ENDPOINT, REPOSITORY, OPERATION = "{root}", "{endpoint}", "{repository}", "{operation}"

FOLDERS = st.one_of(
    TEXTS,
    st.sampled_from(["", "/", "/etc", ROOT, f"{ROOT}/ws", f"{ROOT}/missing", f"{ROOT}/out", f"{ROOT}/ws/file",
                     f"{ROOT}/../..", f"{ROOT}//ws/.", f"{ROOT}/loop", f"{ROOT}/ws\0", f"{ROOT}/" + "n" * 300,
                     f"{ROOT}/" + "a/" * 3000, ROOT[1:]]),
)  # fmt: skip
# No host but this one is ever contacted: an endpoint is the server of the tests, a folder, or none at all.
NO_ENDPOINTS = st.sampled_from(["x", "http://", "ftp://h", "http://h/path", "http://[", "http://h:x", "http://\u00e9"])
STORAGE = {
    "Storage.endpoint": st.one_of(st.sampled_from([ENDPOINT, REPOSITORY, ROOT]), NO_ENDPOINTS),
    "Storage.bucket": st.one_of(st.sampled_from(["", "bucket", "a.b", "B_C"]), TEXTS),
    "Storage.credentials": variations(pb.Credentials(access_key_id="id", secret_access_key="secret")),
}
LOCAL = pb.Storage(provider=pb.PROVIDER_LOCAL, endpoint=REPOSITORY)
S3 = pb.Storage(
    provider=pb.PROVIDER_CUSTOM,
    endpoint=ENDPOINT,
    bucket="bucket",
    credentials=pb.Credentials(access_key_id="id", secret_access_key="secret"),
)
STORES = st.one_of(variations(LOCAL, STORAGE), variations(S3, STORAGE)).filter(lambda storage: bool(storage.endpoint))
SNAPSHOTS = st.one_of(TEXTS, st.sampled_from(["", "latest", "2", "20261123T110512Z-4f2a9c01", "..", "a/b"]))
TOKENS = st.one_of(
    TEXTS,
    st.builds(
        make_token,
        st.sampled_from([b"operations", b"snapshots\0", b"files\0\0latest\0"]),
        st.one_of(BYTES, st.sampled_from([b"-1", b"1e9", b"9" * 30, b"9" * 5000, b"\xff", b"latest\0x", b"x\0\xff"])),
    ),
)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "SnapshotRequest.workspace": FOLDERS,
    "RestoreRequest.target": FOLDERS,
    "RestoreRequest.snapshot": SNAPSHOTS,
    "GetSnapshotRequest.snapshot": SNAPSHOTS,
    "ListFilesRequest.snapshot": SNAPSHOTS,
    # Nothing that other cases need is deleted.
    "DeleteSnapshotRequest.snapshot": SNAPSHOTS.filter(lambda name: name != "2"),
    **{f"{kind.DESCRIPTOR.name}.storage": STORES for kind in METHODS.values()},
    **{f"{kind.DESCRIPTOR.name}.page_token": TOKENS for kind in METHODS.values()},
    **{f"{kind.DESCRIPTOR.name}.name": st.one_of(TEXTS, st.just(OPERATION)) for kind in METHODS.values()},
}


VALID: dict[str, Message] = {
    **{name: kind() for name, kind in METHODS.items()},
    "Snapshot": pb.SnapshotRequest(workspace=f"{ROOT}/ws"),
    "Restore": pb.RestoreRequest(target=f"{ROOT}/out", snapshot="latest", if_not_empty=pb.IF_NOT_EMPTY_OVERWRITE),
    "GetSnapshot": pb.GetSnapshotRequest(snapshot="latest"),
    "ListFiles": pb.ListFilesRequest(snapshot="latest"),
    "DeleteSnapshot": pb.DeleteSnapshotRequest(snapshot="20261123T110512Z-4f2a9c01"),
    "WatchOperation": pb.WatchOperationRequest(name=OPERATION),
    "GetOperation": pb.GetOperationRequest(name=OPERATION),
    "CancelOperation": pb.CancelOperationRequest(name=OPERATION),
}


def calls(*methods: str) -> st.SearchStrategy[tuple[str, Message]]:
    """Draws a method and a request for it: any, or a valid one with a few fields changed."""
    return st.sampled_from(sorted(methods)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.one_of(variations(VALID[name], SPECIAL), messages(METHODS[name], SPECIAL))
        )
    )


class Target:
    """An agent with a snapshot, and how to ask it anything."""

    def __init__(self, daemon: Daemon, stub: SnapshotAgentStub, endpoint: str) -> None:
        self.daemon = daemon
        self._stub = stub
        root = daemon.workspace_root
        (root / "ws").mkdir()
        (root / "ws/file").write_text("x")
        (root / "loop").symlink_to("loop")
        made = snapshot(stub, pb.SnapshotRequest(workspace=f"{root}/ws"))
        self._names = {
            ROOT: str(root), ENDPOINT: endpoint, REPOSITORY: str(daemon.repository), OPERATION: made[0].operation
        }  # fmt: skip

    def ask(self, method: str, request: Message) -> str:
        """Makes a call and returns the reason of the refusal, "" for none; an operation that it starts is cancelled."""
        self._fill_in(request)
        call = getattr(self._stub, method)
        try:
            if SERVICE.methods_by_name[method].server_streaming:
                # A rate that is held to makes a verification last as long as it says.
                is_slow = getattr(request, "bytes_per_second", 0) > 0
                self._begin(call(request, timeout=SECONDS), stop=is_slow or method in STARTING)
            else:
                answer = call(request, timeout=SECONDS)
                assert all(step.error.reason != "INTERNAL" for step in getattr(answer, "steps", ())), answer
        except grpc.RpcError as error:
            reason: str = error_info(error).reason
            assert reason != "INTERNAL", error
            return reason
        return ""

    def _begin(self, stream: Any, stop: bool) -> None:
        first = next(stream, None)
        if first is not None and stop:
            self._stub.CancelOperation(pb.CancelOperationRequest(name=first.event.operation), timeout=SECONDS)
        for _ in stream:
            pass

    def _fill_in(self, message: Message) -> None:
        """Puts what the agent has in the place of the names that stand for it."""
        for field, value in message.ListFields():
            if isinstance(value, str):
                for name, meant in self._names.items():
                    value = value.replace(name, meant)
                setattr(message, field.name, value)
            elif isinstance(value, Message):
                self._fill_in(value)


@pytest.fixture(scope="module")
def target(seaweed: SeaweedServer) -> Iterator[Target]:
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
    daemon = Daemon(folder, environ={"GPUSNAP_TRANSFER__RETRY_SECONDS": "1"})
    try:
        daemon.start()
        with connected(daemon.address) as stub:
            yield Target(daemon, stub, seaweed.endpoint)
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _it_goes_on(target: Target) -> Iterator[None]:
    yield
    assert target.ask("GetAgentInfo", pb.GetAgentInfoRequest()) == ""
    for sign in ("Traceback", "defect", "Exception"):
        assert sign not in target.daemon.log, target.daemon.log


@fuzz(1200, drawn=calls(*set(METHODS) - set(STARTING)))
def test_any_question(target: Target, drawn: tuple[str, Message]) -> None:
    target.ask(*drawn)


@fuzz(300, drawn=calls(*STARTING))
def test_any_start(target: Target, drawn: tuple[str, Message]) -> None:
    target.ask(*drawn)


@fuzz(500, method=st.sampled_from(sorted(METHODS)), data=st.binary(min_size=1, max_size=60))
def test_any_bytes(target: Target, method: str, data: bytes) -> None:
    """Bytes that are no message at all."""
    kind = METHODS[method]
    try:
        request = kind.FromString(data)
    except Exception:
        with grpc.insecure_channel(target.daemon.address) as channel:
            call: Any = channel.unary_stream(f"/{SERVICE.full_name}/{method}")
            with pytest.raises(grpc.RpcError) as raised:
                next(iter(call(data, timeout=SECONDS)))
        assert error_info(raised.value).reason == "INVALID_REQUEST"
    else:
        with contextlib.suppress(StopIteration):
            target.ask(method, request)
