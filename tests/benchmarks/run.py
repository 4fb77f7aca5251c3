"""Measures gpusnap beside other tools: `make bench`, or `.venv/bin/python -m tests.benchmarks.run --help`.

Each round lets every tool save the workspace into a new bucket and bring it back into a new folder, one tool after the
other. Caches of the operating system are warm for all of them alike; nothing dirty is left by the one before. Times
are those of the tool itself; how long the disks then need to have it all stands apart, under "sync s". CPU and memory
of gpusnap are those of the agent with all its descendants.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpusnap import v1

import agent
import controller_client
from tests.benchmarks.options import Options, read_options
from tests.benchmarks.ours import DIRECTORY, Gpusnap
from tests.benchmarks.report import Machine, Report, Section, lines, section_of, this_machine, write_json
from tests.benchmarks.rivals import RIVALS, Rclone
from tests.benchmarks.rounds import Case, Skipped, chunk_files, compete
from tests.benchmarks.stores import Store, open_store
from tests.benchmarks.tools import Tool
from tests.benchmarks.verify import Verifier
from tests.benchmarks.workspace import WorkspaceError, contents, prepare, prepare_small_files


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and returns 1 if a tool failed or gpusnap did not restore a workspace as it was."""
    options = read_options(arguments)
    machine = this_machine()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.folder))
    try:
        report = _measure(options, machine, folder)
    except (FileNotFoundError, WorkspaceError) as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make bench: interrupted; deleting what it made", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print()
    print("\n".join(lines(report)))
    if options.json:
        write_json(report, options.json)
    return 0 if all(map(_is_sound, report.sections)) else 1


def _measure(options: Options, machine: Machine, folder: Path) -> Report:
    _compile_ours()
    cases = _cases(options, folder)
    roots = [folder, *(case.workspace for case in cases)]
    verifier = Verifier()
    sections: list[Section] = []
    versions: dict[str, str] = {}
    for kind in options.stores:
        place = folder / kind.value
        place.mkdir()
        with (
            open_store(kind, place, tls=options.tls, megabits=options.megabits) as store,
            contextlib.ExitStack() as stack,
        ):
            tools = list(_tools(options, roots, store, stack))
            versions |= {tool.name: tool.version() for tool in tools if not tool.unfit(store)}
            # What needs no store is measured beside the first one.
            tools = [tool for tool in tools if tool.uses_store or kind is options.stores[0]]
            for number, case in enumerate(cases):
                small = number > 0
                fit, left_out = _for_small_files(tools, options) if small else (tools, [])
                outcome = compete(fit, store, case, options.rounds, place / f"case-{number}", verifier)
                outcome.skipped += left_out
                sections.append(section_of(case, kind, outcome, small_files=small))
    return Report(machine, options.tls, options.megabits, versions, sections)


def _compile_ours() -> None:
    """Compiles gpusnap as its installation would; else every process might compile what it imports anew."""
    for package in (agent, controller_client, v1):
        for folder in package.__path__:
            compileall.compile_dir(folder, quiet=2)


def _cases(options: Options, folder: Path) -> list[Case]:
    workspaces = {"workspace": options.workspace or prepare(options.cache, options.size)}
    if options.small_files:
        workspaces["small files"] = prepare_small_files(options.cache, options.size)
    seed = Gpusnap(DIRECTORY, [folder, *workspaces.values()])
    try:
        return [
            Case(name, path, counted := contents(path), chunk_files(seed, path, counted, folder / f"chunks-of-{place}"))
            for place, (name, path) in enumerate(workspaces.items())
        ]
    finally:
        seed.close()


def _tools(options: Options, roots: Sequence[Path], store: Store, stack: contextlib.ExitStack) -> Iterator[Tool]:
    if "gpusnap" in options.tools:
        for engine in options.engines:
            tool = Gpusnap(engine, roots, store.certificate)
            stack.callback(tool.close)
            yield tool
    for rival in RIVALS:
        if rival.key in options.tools:
            yield rival()


def _for_small_files(tools: Sequence[Tool], options: Options) -> tuple[list[Tool], list[Skipped]]:
    """Leaves out what would take an hour, unless it was asked for by name."""
    if not options.all_tools:
        return list(tools), []
    reason = "goes file by file, which takes very long; name it in --tools to measure it"
    slow = [tool for tool in tools if isinstance(tool, Rclone)]
    return [tool for tool in tools if tool not in slow], [Skipped(tool.name, reason) for tool in slow]


def _is_sound(section: Section) -> bool:
    failed = any(each.reason.startswith("failed") for each in section.skipped)
    ours = [verdict for tool, verdict in section.verdicts.items() if tool.startswith("gpusnap")]
    return not failed and not any(verdict.content or verdict.metadata for verdict in ours)


if __name__ == "__main__":
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job ignores the first otherwise
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
