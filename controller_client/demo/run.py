"""The demonstration itself, from the first process to the last line."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console

from controller_client.demo.agent import AgentError, DemoAgent, staging_folder
from controller_client.demo.children import free_port, program_beside_python, show_command
from controller_client.demo.compare import Fingerprint, differences, fingerprint
from controller_client.demo.options import Options, Size
from controller_client.demo.report import show_metrics, show_results
from controller_client.demo.seaweed import Seaweed, SeaweedError
from controller_client.demo.workspace import WorkspaceError, build_workspace, remove_tree
from controller_client.errors import GpusnapError
from controller_client.model import OperationResult

BUCKET = "gpusnap-demo"
# The path of a socket has at most 107 bytes; the longest of them is store/filer.sock.
_FOLDER_PATH_LIMIT = 107 - len("/store/filer.sock")
_STAGING_BYTES = 384 << 20
_NEEDED_BYTES = {Size.FULL: 4 * 10**9, Size.SMALL: 4 * 10**8}
_SHOWN_DIFFERENCES = 20


class DemoError(Exception):
    """The demonstration cannot go on; the message is one line."""


def run(options: Options) -> int:
    """Runs the demonstration and returns the exit code."""
    console = Console(highlight=False)
    try:
        with _signals_end_it():
            _Demo(options, console).run()
    except (DemoError, AgentError, SeaweedError, WorkspaceError, GpusnapError) as error:
        print(f"gpusnap demo: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"gpusnap demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gpusnap demo: interrupted; everything is cleaned up", file=sys.stderr)
        return 130
    return 0


class _Demo:
    """One run. Whatever happens, the processes end and, unless they are to be kept, the folders go."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._step = 0

    def run(self) -> None:
        own = _checked_workspace(self._options)
        with contextlib.ExitStack() as stack:
            folder = self._make_folder(stack)
            workspace, target = _places(own, folder)
            store = self._start_store(stack, folder)
            agent = self._start_agent(stack, folder, os.path.dirname(workspace), store)
            if own is None:
                self._say("building the workspace")
                build_workspace(os.fsencode(workspace), self._options.size, self._tell)
            else:
                stack.callback(lambda: None if self._options.keep else remove_tree(target))
            before = self._read(workspace)
            self._say(f"gpusnap snapshot {workspace}")
            agent.run("snapshot", workspace)
            saved = agent.last_result()
            if own is None:
                self._say(f"deleting {workspace}")
                remove_tree(workspace)
            self._say(f"gpusnap restore {saved.snapshot_id} {target}")
            agent.run("restore", saved.snapshot_id, target)
            restored = agent.last_result()
            self._compare(before, target, owners=own is None or os.geteuid() == 0)
            self._report(agent, saved, restored)
            if self._options.keep:
                self._explain(folder, target, store, agent)

    def _make_folder(self, stack: contextlib.ExitStack) -> str:
        if self._options.folder is not None:
            os.makedirs(self._options.folder, exist_ok=True)
        folder = os.path.realpath(tempfile.mkdtemp(prefix="gpusnap-demo-", dir=self._options.folder))
        if not self._options.keep:
            stack.callback(remove_tree, folder)
        if len(os.fsencode(folder)) > _FOLDER_PATH_LIMIT:
            raise DemoError(f"{folder}: too long, as sockets are made below it; name a shorter one with --folder")
        needed = _NEEDED_BYTES[self._options.size] if self._options.workspace is None else 10**9
        free = shutil.disk_usage(folder).free
        if free < needed:
            advice = "name a folder with more room with --folder"
            raise DemoError(f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed; {advice}")
        return folder

    def _start_store(self, stack: contextlib.ExitStack, folder: str) -> Seaweed:
        self._say("starting a real S3 server (SeaweedFS)")
        data = os.path.join(folder, "store")
        os.mkdir(data)
        store = Seaweed(data, secrets.token_hex(8), secrets.token_hex(16), buckets=(BUCKET,))
        stack.callback(store.stop if self._options.keep else store.kill)
        try:
            store.start()
        except FileNotFoundError as error:
            raise DemoError(f"{error}; install it with `pip install 'gpusnap[demo]'`") from error
        self._tell(store.endpoint)
        return store

    def _start_agent(self, stack: contextlib.ExitStack, folder: str, root: str, store: Seaweed) -> DemoAgent:
        self._say("starting gpusnap-agent")
        # What is kept stays in one folder.
        staging = staging_folder(folder, _STAGING_BYTES, in_memory=not self._options.keep)
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        storage = {
            "STORAGE_PROVIDER": "custom",
            "STORAGE_ENDPOINT": store.endpoint,
            "STORAGE_BUCKET": BUCKET,
            "STORAGE_ACCESS_KEY_ID": store.access_key,
            "STORAGE_SECRET_ACCESS_KEY": store.secret_key,
        }
        agent = DemoAgent(folder, staging, root, storage, free_port(set()))
        stack.callback(agent.stop)
        agent.start()
        self._tell(agent.address)
        return agent

    def _read(self, workspace: str) -> Fingerprint:
        self._say("reading every byte and every piece of metadata, to compare with later")
        return self._timed(lambda: fingerprint(os.fsencode(workspace)))

    def _compare(self, before: Fingerprint, target: str, owners: bool) -> None:
        self._say("comparing every byte and every piece of metadata")
        found = differences(before, self._timed(lambda: fingerprint(os.fsencode(target))), owners=owners)
        for difference in found[:_SHOWN_DIFFERENCES]:
            self._console.print(f"   {difference}", markup=False, soft_wrap=True)
        if found:
            raise DemoError(f"{len(found)} differences between what was saved and what came back, first {found[0]}")
        note = "" if owners else " (but for owners, which only root can give back)"
        self._console.print(f"   [green]identical: {len(before):,} entries{note}[/green]")

    def _timed(self, read: Callable[[], Fingerprint]) -> Fingerprint:
        begin = time.monotonic()
        found = read()
        content = sum(facts.status.st_size for path, facts in found.items() if facts.digest and facts.leader == path)
        self._tell(f"{len(found):,} entries, {content / 1e6:,.0f} MB, in {time.monotonic() - begin:.1f} s")
        return found

    def _report(self, agent: DemoAgent, saved: OperationResult, restored: OperationResult) -> None:
        self._console.print()
        show_results(self._console, saved, restored)
        self._console.print()
        show_metrics(self._console, agent.metrics_url)

    def _explain(self, folder: str, target: str, store: Seaweed, agent: DemoAgent) -> None:
        """Writes a script that starts both servers again, and says how to use it."""
        script = os.path.join(folder, "start")
        serve = show_command(agent.variables, [program_beside_python("gpusnap-agent"), "serve"])
        with open(script, "x") as file:
            file.write("#!/bin/sh\n# Starts the S3 server and the agent of the demonstration; Ctrl-C ends both.\n")
            file.write(f"{store.command_line} >/dev/null 2>&1 &\nstore=$!\n")
            file.write(f"mkdir -p {agent.variables['GPUSNAP_AGENT__STAGING_DIR']}\n{serve} &\nagent=$!\n")
            # The first wait ends with the signal, the second with the agent.
            file.write("trap 'kill $agent' INT TERM\nwait $agent\nwait $agent\nkill $store\nwait $store\n")
        os.chmod(script, 0o700)
        gpusnap = f"{program_beside_python('gpusnap')} --agent {agent.address}"
        self._console.print(
            f"\nkept: {folder}, with the restored workspace in {target}\n"
            f"to go on by hand, in one terminal:\n   {script}\nand in another:\n   {gpusnap} snapshots\n"
            f"   {gpusnap} files latest\n   {gpusnap} restore latest {target}.again\n"
            f"to remove it all:\n   rm -rf {folder}",
            markup=False, soft_wrap=True,
        )  # fmt: skip

    def _say(self, text: str) -> None:
        self._step += 1
        self._console.print(f"[bold]{self._step}.[/bold] {text}", soft_wrap=True)

    def _tell(self, text: str) -> None:
        self._console.print(f"   [dim]{text}[/dim]", soft_wrap=True)


def _checked_workspace(options: Options) -> str | None:
    """Returns the user's own workspace without symbolic links, if there is one."""
    if options.workspace is None:
        return None
    workspace = os.path.realpath(options.workspace)
    if not os.path.isdir(workspace):
        raise DemoError(f"{options.workspace}: not a directory; name the folder to save")
    parent = os.path.dirname(workspace)
    if parent == workspace or not os.access(parent, os.W_OK | os.X_OK):
        raise DemoError(f"{parent}: cannot be written to, but the workspace is restored there, beside the original")
    folder = os.path.realpath(options.folder or tempfile.gettempdir())
    if os.path.commonpath([workspace, folder]) == workspace:
        raise DemoError(f"{folder}: inside the workspace; name another place to work in with --folder")
    return workspace


def _places(own: str | None, folder: str) -> tuple[str, str]:
    """Returns the workspace and where it is restored."""
    if own is None:
        workspace = os.path.join(folder, "workspaces", "workspace")
        os.mkdir(os.path.dirname(workspace))
        return workspace, workspace
    return own, f"{own}.restored-{secrets.token_hex(3)}"


@contextlib.contextmanager
def _signals_end_it() -> Iterator[None]:
    """Has SIGTERM and SIGHUP clean up as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
