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
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpusnap import v1

import agent
import controller_client
from tests.benchmarks.options import Options, read_options
from tests.benchmarks.ours import DIRECTORY, Gpusnap
from tests.benchmarks.report import Report, Section, lines, section_of, this_machine, write_json
from tests.benchmarks.rivals import RIVALS, ChunkCopy, Rclone
from tests.benchmarks.rounds import Case, Outcome, Skipped, chunk_files, compete
from tests.benchmarks.scaling import Scaling, measure_scaling
from tests.benchmarks.stores import Link, Store, StoreKind, StoreMissingError, open_store
from tests.benchmarks.tools import Tool
from tests.benchmarks.verify import Verifier
from tests.benchmarks.workspace import WorkspaceError, contents, prepare, prepare_small_files


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and returns 1 if a tool failed or gpusnap did not restore a workspace as it was.

    However it ends, it prints and writes what was measured until then.
    """
    options = read_options(arguments)
    report = Report(this_machine(), options.link)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.folder))
    status = 0
    try:
        _Benchmark(options, folder, report).run()
    except WorkspaceError as error:
        print(f"make bench: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("make bench: interrupted; deleting what it made", file=sys.stderr)
        status = 130
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print()
    print("\n".join(lines(report)))
    if options.json:
        write_json(report, options.json)
    return status or (0 if _is_sound(report) else 1)


class _Benchmark:
    """One run, whose report grows with it."""

    def __init__(self, options: Options, folder: Path, report: Report) -> None:
        self._options = options
        self._folder = folder
        self._report = report
        self._verifier = Verifier()

    def run(self) -> None:
        """Measures all that was asked for."""
        _compile_ours()
        cases = _cases(self._options, self._folder)
        for tls in self._options.tls:
            again = tls and len(self._options.tls) > 1
            for kind in self._options.stores[:1] if again else self._options.stores:
                name = f"{kind.value}{' over https' if tls else ''}"
                place = self._place(name.replace(" ", "-"))
                try:
                    with open_store(kind, place, tls=tls, link=self._options.link) as store:
                        self._against(store, cases, place, again=again)
                except StoreMissingError as error:
                    self._report.skipped.append(Skipped(name, str(error)))
        if self._options.cores:
            self._scale(cases[0])

    def _against(self, store: Store, cases: Sequence[Case], place: Path, *, again: bool) -> None:
        """Measures against one store; ``again`` only what https changes for gpusnap."""
        with contextlib.ExitStack() as stack:
            tools = list(_tools(self._options, [place, *(case.workspace for case in cases)], store, stack))
            if again:
                tools = [tool for tool in tools if isinstance(tool, Gpusnap | ChunkCopy)]
            self._report.versions |= {tool.name: tool.version() for tool in tools if not tool.unfit(store)}
            # What needs no store is measured beside the first one.
            tools = [tool for tool in tools if tool.uses_store or not self._report.sections]
            for number, case in enumerate(cases[:1] if again else cases):
                small = number > 0
                fit, left_out = _for_small_files(tools, self._options) if small else (tools, [])
                outcome = Outcome(skipped=left_out)
                folder = place / f"case-{number}"
                try:
                    compete(fit, store, case, self._options.rounds, folder, self._verifier, outcome)
                finally:
                    self._report.sections.append(section_of(case, store, outcome, small_files=small))

    def _scale(self, case: Case) -> None:
        scaling = self._report.scaling = Scaling(case.name, case.contents.bytes)
        # One that is yet to find out its engine would blur what the cores do.
        engine = next((each for each in self._options.engines if each in ("stream", "s5cmd")), "stream")
        try:
            with open_store(StoreKind.NGINX, self._place("scaling"), tls=False, link=Link()) as store:
                measure_scaling(scaling, case, self._options.cores, engine, self._options.rounds, store)
        except StoreMissingError as error:
            scaling.skipped.append(Skipped(StoreKind.NGINX.value, str(error)))

    def _place(self, name: str) -> Path:
        place = self._folder / name
        place.mkdir()
        return place


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


def _is_sound(report: Report) -> bool:
    scaled = report.scaling.skipped if report.scaling else []
    is_scaled = not any(each.reason.startswith("failed") for each in scaled)
    return bool(report.sections) and is_scaled and all(map(_is_well, report.sections))


def _is_well(section: Section) -> bool:
    failed = any(each.reason.startswith("failed") for each in section.skipped)
    ours = [verdict for tool, verdict in section.verdicts.items() if tool.startswith("gpusnap")]
    return not failed and not any(verdict.content or verdict.metadata for verdict in ours)


if __name__ == "__main__":
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job ignores the first otherwise
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
