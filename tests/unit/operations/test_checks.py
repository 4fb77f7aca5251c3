"""Every order that must be refused, and what one that is fine becomes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent import errors
from agent.config.model import AgentConfig, Config, Credentials, PerRequest, Provider, StorageConfig
from agent.operations.checks import check_order
from agent.operations.order import Order, RestoreOrder, SnapshotOrder
from agent.restore.request import IfNotEmpty, RestoreRequest
from agent.snapshot.request import SnapshotRequest

KEYS = Credentials("id", "secret")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "ws").mkdir(parents=True)
    (root / "file").write_text("x")
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "dangling").symlink_to(tmp_path / "outside" / "missing")
    (root / "loop").symlink_to(root / "loop")
    (root / "inner").symlink_to(root / "ws")
    return root


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Config:
    link = tmp_path / "root-link"
    link.symlink_to(root)
    return Config(
        agent=AgentConfig(workspace_roots=("/nonexistent-root", str(link))),
        storage=StorageConfig(provider=Provider.LOCAL, endpoint="/repo"),
    )


def snapshot(path: object, **fields: object) -> SnapshotOrder:
    return msgspec.structs.replace(SnapshotOrder("", str(path)), **fields)


def restore(path: object, **fields: object) -> RestoreOrder:
    return msgspec.structs.replace(RestoreOrder("", "latest", str(path)), **fields)


def both(change: Callable[[Path], object]) -> list[Callable[[Path], Order]]:
    return [lambda root: snapshot(change(root)), lambda root: restore(change(root))]


REFUSED: list[tuple[Callable[[Path], Order], type[errors.GpusnapError], str]] = [
    *((make, errors.InvalidRequestError, "is empty") for make in both(lambda root: "")),
    *((make, errors.InvalidRequestError, "not an absolute path") for make in both(lambda root: "ws")),
    *((make, errors.InvalidRequestError, "not an absolute path") for make in both(lambda root: "~/ws")),
    *((make, errors.InvalidRequestError, "NUL") for make in both(lambda root: f"{root}/a\0b")),
    *((make, errors.PathNotAllowedError, "outside the workspace roots") for make in both(lambda root: "/etc")),
    *((make, errors.PathNotAllowedError, "outside the workspace roots") for make in both(lambda root: "/")),
    *((make, errors.PathNotAllowedError, "outside") for make in both(lambda root: root / ".." / "outside")),
    *((make, errors.PathNotAllowedError, "outside") for make in both(lambda root: f"{root}-sibling")),
    *((make, errors.PathNotAllowedError, "leads to") for make in both(lambda root: root / "out")),
    *((make, errors.PathNotAllowedError, "leads to") for make in both(lambda root: root / "out" / "deeper")),
    *((make, errors.PathNotAllowedError, "leads to") for make in both(lambda root: root / "dangling")),
    *((make, errors.InvalidRequestError, "symbolic links") for make in both(lambda root: root / "loop")),
    *((make, errors.InvalidRequestError, "too long") for make in both(lambda root: root / ("x" * 300))),
    *((make, errors.NotADirectoryPathError, "not a directory") for make in both(lambda root: root / "file")),
    (lambda root: snapshot(root / "missing"), errors.PathNotFoundError, "does not exist"),
    (lambda root: snapshot(root / "file" / "x"), errors.PathNotFoundError, "does not exist"),
    (lambda root: restore(root / "file" / "x"), errors.NotADirectoryPathError, "not a directory"),
    (lambda root: snapshot(root / "ws", exclude=("a\nb",)), errors.InvalidRequestError, "exclude pattern"),
    (lambda root: snapshot(root / "ws", include=("",)), errors.InvalidRequestError, "include pattern"),
    (lambda root: snapshot(root / "ws", exclude=("!",)), errors.InvalidRequestError, "gitignore"),
    (lambda root: snapshot(root / "ws", request_id="x" * 129), errors.InvalidRequestError, "129 characters"),
    (lambda root: snapshot(root / "ws", request_id="a\nb"), errors.InvalidRequestError, "request_id"),
    (lambda root: snapshot(root / "ws", exclude=("x" * 2_000_000,)), errors.InvalidRequestError, "larger than"),
    (lambda root: restore(root / "ws", snapshot=""), errors.InvalidRequestError, "snapshot is empty"),
    (lambda root: restore(root / "ws", snapshot="../x"), errors.InvalidRequestError, "not the id"),
    (lambda root: restore(root / "ws", paths=(b"../x",)), errors.InvalidRequestError, "not a path relative"),
    (lambda root: restore(root / "ws", paths=(b"/x",)), errors.InvalidRequestError, "not a path relative"),
    (lambda root: restore(root / "ws", paths=(b"a//b",)), errors.InvalidRequestError, "not a path relative"),
    (lambda root: restore(root / "ws", paths=(b"a\0b",)), errors.InvalidRequestError, "not a path relative"),
    (lambda root: restore(root / "ws", paths=(b"",)), errors.InvalidRequestError, "not a path relative"),
]


@pytest.mark.parametrize(("make", "error", "text"), REFUSED)
def test_refused(
    root: Path, config: Config, make: Callable[[Path], Order], error: type[errors.GpusnapError], text: str
) -> None:
    with pytest.raises(error, match=text) as raised:
        check_order(make(root), config)
    assert type(raised.value) is error
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_a_snapshot_that_is_fine(root: Path, config: Config) -> None:
    order = snapshot(root / "inner" / ".." / "inner", exclude=("*.tmp",), include=("/a/",), exclude_caches=True)
    request = check_order(order, config)
    assert request == SnapshotRequest(
        workspace=os.fsencode(root.resolve() / "ws"),
        staging_dir="",
        storage=config.storage,
        transfer=config.transfer,
        scan=config.scan,
        exclude=("*.tmp",),
        include=("/a/",),
        exclude_caches=True,
    )


@pytest.mark.parametrize("target", ["ws", "new", "new/and/deeper", "."])
def test_a_restore_that_is_fine(root: Path, config: Config, target: str) -> None:
    order = restore(root / target, if_not_empty=IfNotEmpty.MIRROR, paths=(b"a/b/", b"\xff"))
    request = check_order(order, config)
    assert isinstance(request, RestoreRequest)
    assert request.target == os.fsencode((root / target).resolve())
    assert request.paths == (b"a/b", b"\xff")
    assert request.if_not_empty is IfNotEmpty.MIRROR


LOCAL = StorageConfig(provider=Provider.LOCAL, endpoint="/repo")
BUCKET = StorageConfig(provider=Provider.CUSTOM, bucket="bucket", endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("per_request", "requested", "error"),
    [
        (PerRequest.ALLOW, None, None),
        (PerRequest.ALLOW, LOCAL, None),
        (PerRequest.FORBID, None, None),
        (PerRequest.FORBID, LOCAL, errors.StorageNotPermittedError),
        (PerRequest.REQUIRE, None, errors.StorageNotPermittedError),
        (PerRequest.REQUIRE, LOCAL, None),
        (PerRequest.ALLOW, StorageConfig(), errors.InvalidRequestError),
        (PerRequest.ALLOW, StorageConfig(provider=Provider.LOCAL, endpoint="relative"), errors.InvalidRequestError),
        (PerRequest.ALLOW, msgspec.structs.replace(BUCKET, endpoint=""), errors.InvalidRequestError),
        (PerRequest.ALLOW, msgspec.structs.replace(BUCKET, endpoint="ftp://x"), errors.InvalidRequestError),
        (PerRequest.ALLOW, msgspec.structs.replace(BUCKET, bucket="a/../b"), errors.InvalidRequestError),
        (PerRequest.ALLOW, msgspec.structs.replace(BUCKET, prefix="/a"), errors.InvalidRequestError),
    ],
)
def test_the_policy_on_storage(
    root: Path,
    config: Config,
    per_request: PerRequest,
    requested: StorageConfig | None,
    error: type[errors.GpusnapError] | None,
) -> None:
    config = msgspec.structs.replace(config, storage=msgspec.structs.replace(config.storage, per_request=per_request))
    order = snapshot(root / "ws", storage=requested)
    if error is None:
        assert check_order(order, config).storage.endpoint == (requested or config.storage).endpoint
    else:
        with pytest.raises(error):
            check_order(order, config)


def test_no_storage_at_all(root: Path, config: Config) -> None:
    with pytest.raises(errors.StorageNotConfiguredError):
        check_order(snapshot(root / "ws"), msgspec.structs.replace(config, storage=StorageConfig()))


def test_a_requested_storage_without_keys_gets_those_of_the_agent(root: Path, config: Config) -> None:
    config = msgspec.structs.replace(config, storage=msgspec.structs.replace(BUCKET, bucket="own", credentials=KEYS))
    assert check_order(snapshot(root / "ws", storage=BUCKET), config).storage.credentials == KEYS
    own = Credentials("other", "other", "token")
    requested = msgspec.structs.replace(BUCKET, credentials=own)
    assert check_order(snapshot(root / "ws", storage=requested), config).storage.credentials == own


def test_the_keys_of_the_agent_go_to_no_other_endpoint(root: Path, config: Config) -> None:
    config = msgspec.structs.replace(config, storage=msgspec.structs.replace(BUCKET, credentials=KEYS))
    elsewhere = msgspec.structs.replace(BUCKET, endpoint="http://127.0.0.1:2")
    with pytest.raises(errors.InvalidRequestError, match="another endpoint"):
        check_order(snapshot(root / "ws", storage=elsewhere), config)
    requested = msgspec.structs.replace(elsewhere, credentials=Credentials("other", "other"))
    assert check_order(snapshot(root / "ws", storage=requested), config).storage == requested


@pytest.mark.parametrize(
    ("folder", "allowed"), [("ws", True), ("inner", True), ("outside", False), ("../elsewhere", False), ("/etc", False)]
)
def test_a_requested_folder_lies_where_the_agent_may_write(
    root: Path, config: Config, folder: str, allowed: bool
) -> None:
    (root / "outside").symlink_to("/etc")
    order = snapshot(root / "ws", storage=StorageConfig(provider=Provider.LOCAL, endpoint=os.path.join(root, folder)))
    if allowed:
        check_order(order, config)
    else:
        with pytest.raises(errors.PathNotAllowedError, match="storage folder"):
            check_order(order, config)
