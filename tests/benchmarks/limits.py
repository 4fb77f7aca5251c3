"""Measures what the agent promises to stay within: memory, scanning, and health answers under load.

    .venv/bin/python -m tests.benchmarks.limits [--folder DIR] [--model-mib N] [--files N]

Starts a real S3 server and a real agent with 64 connections and staging on /dev/shm, and prints a table:

- scan: entries a second of the scan alone;
- peak: the highest sum, over the agent and all its descendants, of private memory and of staged chunks;
- health: the 50th and 99th percentile of health answers, on a connection of its own, while data moves at full speed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.config.model import ScanConfig
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.pipeline.warnings import Warnings
from agent.snapshot.filters import Filter
from agent.snapshot.scan import Scanner
from controller_client import SyncAgentClient, SyncOperationHandle
from tests.benchmarks.measure import AgentWatch, Usage, percentile
from tests.support.daemon import Daemon
from tests.support.seaweed import SeaweedServer

MIB = 1 << 20


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--model-mib", type=int, default=2048, help="size of the model workspace")
    parser.add_argument(
        "--files", type=int, default=100_000, help="files of the larger of the two small-file workspaces"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-limits-", dir=options.folder))
    shm = Path(tempfile.mkdtemp(prefix="gpusnap-limits-", dir="/dev/shm"))
    try:
        with contextlib.ExitStack() as stack:
            (folder / "seaweed").mkdir()
            server = SeaweedServer(str(folder / "seaweed"), "limits", "limits-secret")
            server.start()
            stack.callback(server.stop)
            daemon = _daemon(folder, shm, server)
            stack.callback(daemon.close)
            daemon.start()
            _measure(daemon, options.model_mib, options.files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(shm, ignore_errors=True)


def _daemon(folder: Path, shm: Path, server: SeaweedServer) -> Daemon:
    storage = {
        "STORAGE_PROVIDER": "custom",
        "STORAGE_ENDPOINT": server.endpoint,
        "STORAGE_BUCKET": server.make_bucket(),
        "STORAGE_ACCESS_KEY_ID": server.access_key,
        "STORAGE_SECRET_ACCESS_KEY": server.secret_key,
    }
    return Daemon(folder / "agent", storage, {"GPUSNAP_AGENT__STAGING_DIR": str(shm)})


def _measure(daemon: Daemon, model_mib: int, files: int) -> None:
    root = daemon.workspace_root
    names = (f"models, {model_mib} MiB", f"{files // 100} files of 4 KiB", f"{files} files of 4 KiB")
    workspaces = [root / f"workspace-{number}" for number in range(len(names))]
    _write_models(workspaces[0], model_mib)
    _write_files(workspaces[1], files // 100)
    _write_files(workspaces[2], files)
    rows: list[tuple[str, float, Usage]] = []
    with SyncAgentClient(daemon.address) as client:
        for name, workspace in zip(names, workspaces, strict=True):
            print(f"scan, {name}: {_scan_rate(workspace):,.0f} entries/s", flush=True)
            save = functools.partial(client.snapshot, str(workspace))
            rows.append((f"snapshot, {name}", *_run(daemon, save)))
            bring_back = functools.partial(client.restore, "latest", f"{workspace}-restored")
            rows.append((f"restore, {name}", *_run(daemon, bring_back)))
    print(f"{'':34} {'s':>6} {'MiB/s':>7} {'peak MiB':>9} {'p50 ms':>7} {'p99 ms':>7}")
    for name, moved, usage in rows:
        p50, p99 = ((percentile(usage.health_seconds, percent) or 0.0) * 1000 for percent in (50, 99))
        print(
            f"{name:34} {usage.seconds:6.1f} {moved / usage.seconds:7.0f} {usage.peak_memory_bytes / MIB:9.0f}"
            f" {p50:7.1f} {p99:7.1f}"
        )


def _scan_rate(workspace: Path) -> float:
    root_fd = os.open(workspace, DIRECTORY_FLAGS)
    try:
        scanner = Scanner(root_fd, Filter(), ScanConfig(), False, Warnings())
        begun = time.monotonic()
        count = sum(1 for _ in scanner.entries())
        return count / (time.monotonic() - begun)
    finally:
        os.close(root_fd)


def _run(daemon: Daemon, start: Callable[[], SyncOperationHandle]) -> tuple[float, Usage]:
    """Returns the MiB that an operation handled, and what it took."""
    staging = Path(daemon.environ["GPUSNAP_AGENT__STAGING_DIR"])
    with AgentWatch(daemon.pid, staging, daemon.tcp_address) as watch:
        moved = start().result().raw_bytes
    return moved / MIB, watch.usage


def _write_models(path: Path, mebibytes: int) -> None:
    path.mkdir()
    for number in range(4):
        with (path / f"model-{number}.safetensors").open("wb") as file:
            for _ in range(mebibytes // 4):
                file.write(os.urandom(MIB))


def _write_files(path: Path, count: int) -> None:
    content = os.urandom(4096)
    for number in range(count):
        folder = path / f"folder-{number // 200}"
        if number % 200 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-{number}.txt").write_bytes(b"%d" % number + content[:4088])


if __name__ == "__main__":
    main()
