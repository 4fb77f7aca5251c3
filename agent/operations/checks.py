"""Checks of an order before its operation starts, and the request that the operation's process then gets.

What only the running operation can find out (an unknown snapshot, a target that is not empty) is not checked here.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from agent.config.model import Config
from agent.errors import (
    InvalidRequestError,
    LocalIoError,
    LocalPermissionError,
    NotADirectoryPathError,
    PathNotAllowedError,
    PathNotFoundError,
)
from agent.maintenance.request import PruneRequest, VerifyRequest
from agent.operations.benchmark_order import check_benchmark
from agent.operations.order import Order, PruneOrder, RestoreOrder, SnapshotOrder, VerifyOrder, without_credentials
from agent.operations.request import Request
from agent.operations.storage_choice import choose_storage, is_inside
from agent.restore.request import RestoreRequest
from agent.snapshot.filters import check_pattern
from agent.snapshot.request import SnapshotRequest

REQUEST_BYTES = 1 << 20
"""Bytes of a request with all its patterns and paths at most: the journal keeps it."""

REQUEST_ID_LENGTH = 128
"""Characters of a request id at most."""

SNAPSHOT_NAME = re.compile(r"[0-9A-Za-z-]{1,64}")

_WRONG_PATH = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})


def check_order(order: Order, config: Config) -> Request:
    """Returns the request for the operation's process; the caller adds the staging folder and the operation's name.

    Reads the file system, so it may block.

    Raises:
        InvalidRequestError: a field is missing or malformed.
        PathNotAllowedError: the path lies outside the workspace roots, or a link leads it there.
        PathNotFoundError: there is no such workspace.
        NotADirectoryPathError: it is not a directory.
        LocalPermissionError: the agent may not look at it.
        StorageNotConfiguredError: neither the order nor the configuration names a store.
        StorageNotPermittedError: the configuration forbids, or demands, that orders name their store.
    """
    check_request_id(order.request_id)
    if len(without_credentials(order)) > REQUEST_BYTES:
        raise InvalidRequestError(
            f"the request is larger than {REQUEST_BYTES} bytes", hint="name folders instead of each file in them"
        )
    if isinstance(order, SnapshotOrder):
        return _check_snapshot(order, config)
    if isinstance(order, RestoreOrder):
        return _check_restore(order, config)
    if isinstance(order, VerifyOrder):
        return _check_verify(order, config)
    return _check_prune(order, config) if isinstance(order, PruneOrder) else check_benchmark(order, config)


def check_request_id(request_id: str) -> None:
    """Raises InvalidRequestError if ``request_id`` is too long or not printable."""
    if len(request_id) > REQUEST_ID_LENGTH:
        raise InvalidRequestError(f"request_id has {len(request_id)} characters, more than {REQUEST_ID_LENGTH}")
    if not request_id.isprintable():
        raise InvalidRequestError("request_id has characters that cannot be printed")


def check_snapshot_name(name: str) -> None:
    """Raises InvalidRequestError if ``name`` cannot be the id of a snapshot, a prefix of one, or "latest"."""
    if not name:
        raise InvalidRequestError("snapshot is empty", hint="name it by its id, a unique prefix of it, or latest")
    if not SNAPSHOT_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"snapshot {name[:100]!r} is not the id of a snapshot",
            hint="ids look like 20261123T110512Z-4f2a9c01; a unique prefix and latest are fine too",
        )


def check_entry_path(path: bytes, field: str) -> bytes:
    """Returns ``path`` without slashes at its end.

    Raises:
        InvalidRequestError: it is not a path relative to the workspace.
    """
    trimmed = path.rstrip(b"/")
    if not trimmed or b"\0" in path or path.startswith(b"/") or {b"..", b".", b""} & set(trimmed.split(b"/")):
        raise InvalidRequestError(
            f"{field} {os.fsdecode(path[:200])!r} is not a path relative to the workspace",
            hint="give it as `gpusnap files` prints it",
        )
    return trimmed


def _check_snapshot(order: SnapshotOrder, config: Config) -> SnapshotRequest:
    storage = choose_storage(order.storage, config)
    for field, patterns in (("exclude", order.exclude), ("include", order.include)):
        for pattern in patterns:
            _check_pattern(field, pattern)
    workspace = _resolve("workspace", order.workspace, config.agent.workspace_roots)
    mode = _mode("workspace", workspace)
    if mode is None:
        raise PathNotFoundError(f"workspace {_shown(workspace)} does not exist")
    if not stat.S_ISDIR(mode):
        raise NotADirectoryPathError(f"workspace {_shown(workspace)} is not a directory")
    return SnapshotRequest(
        workspace=workspace,
        staging_dir="",
        storage=storage,
        transfer=config.transfer,
        scan=config.scan,
        exclude=order.exclude,
        include=order.include,
        exclude_caches=order.exclude_caches,
        one_file_system=order.one_file_system,
        full=order.full,
    )


def _check_restore(order: RestoreOrder, config: Config) -> RestoreRequest:
    check_snapshot_name(order.snapshot)
    paths = tuple(check_entry_path(path, "paths:") for path in order.paths)
    storage = choose_storage(order.storage, config)
    target = _resolve("target", order.target, config.agent.workspace_roots)
    existing = target
    while (mode := _mode("target", existing)) is None:
        existing = os.path.dirname(existing)
    if not stat.S_ISDIR(mode):
        raise NotADirectoryPathError(f"target {_shown(target)}: {_shown(existing)} is not a directory")
    return RestoreRequest(
        operation="",
        snapshot=order.snapshot,
        target=target,
        staging_dir="",
        storage=storage,
        transfer=config.transfer,
        if_not_empty=order.if_not_empty,
        paths=paths,
        checksum=order.checksum,
    )


def _check_verify(order: VerifyOrder, config: Config) -> VerifyRequest:
    if order.snapshot:
        check_snapshot_name(order.snapshot)
    return VerifyRequest(
        snapshot=order.snapshot,
        full=order.full,
        bytes_per_second=order.bytes_per_second,
        staging_dir="",
        storage=choose_storage(order.storage, config),
        transfer=config.transfer,
    )


def _check_prune(order: PruneOrder, config: Config) -> PruneRequest:
    if order.rules.is_empty and (order.hosts or order.workspaces):
        raise InvalidRequestError(
            "hosts or workspaces are named, but no rule that says which of their snapshots stay",
            hint="give a rule, such as keep_last, or name no hosts and workspaces",
        )
    return PruneRequest(
        rules=order.rules,
        hosts=order.hosts,
        workspaces=tuple(workspace.encode() for workspace in order.workspaces),
        dry_run=order.dry_run,
        staging_dir="",
        storage=choose_storage(order.storage, config),
        transfer=config.transfer,
    )


def _check_pattern(field: str, pattern: str) -> None:
    # The library ignores what has no meaning; a NUL or a line break can only be a mistake of the caller.
    if not pattern.strip() or "\0" in pattern or "\n" in pattern:
        raise InvalidRequestError(f"{field} pattern {pattern[:100]!r} is empty or has a NUL or a line break")
    check_pattern(field, pattern)


def _resolve(field: str, path: str, roots: tuple[str, ...]) -> bytes:
    """Returns ``path`` without symbolic links, as far as it exists, if it lies inside one of the roots."""
    if not path:
        raise InvalidRequestError(f"{field} is empty", hint=f"name the {field} by its absolute path")
    if "\0" in path:
        raise InvalidRequestError(f"{field} {path[:200]!r} has a NUL character")
    if not path.startswith("/"):
        raise InvalidRequestError(
            f"{field} {path[:200]!r} is not an absolute path", hint=f"name the {field} by its absolute path"
        )
    real = os.path.realpath(path.encode())
    for root in roots:
        if is_inside(real, os.path.realpath(os.fsencode(root))):
            return real
    where = "" if path.encode().rstrip(b"/") == real else f" leads to {_shown(real)}, which"
    raise PathNotAllowedError(f"{field} {path[:200]!r}{where} is outside the workspace roots ({', '.join(roots)})")


def _mode(field: str, path: bytes) -> int | None:
    """Returns the mode of what ``path`` leads to, or None if it does not exist."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise LocalPermissionError(f"{field} {_shown(path)}: the agent may not look at it") from error
    except OSError as error:
        # A loop of links, a name that is too long: the path is wrong. A failing disk is not the caller's fault.
        if error.errno in _WRONG_PATH:
            raise InvalidRequestError(f"{field} {_shown(path)}: {error.strerror}") from error
        raise LocalIoError(f"{field} {_shown(path)}: {error.strerror}") from error


def _shown(path: bytes) -> str:
    return repr(os.fsdecode(path[:300]))
