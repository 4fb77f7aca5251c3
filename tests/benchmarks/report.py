"""Everything that was measured, for the terminal and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.benchmarks.rounds import Case, Outcome, Sample, Skipped
from tests.benchmarks.stores import StoreKind
from tests.benchmarks.table import (
    Summary,
    Target,
    skipped_lines,
    small_file_targets,
    summarize,
    summary_lines,
    target_lines,
    workspace_targets,
)
from tests.benchmarks.verify import Verdict


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured. ``load`` is the average of the last minute before."""

    cores: int
    memory_bytes: int
    kernel: str
    load: float


class Section(msgspec.Struct, frozen=True):
    """All about one workspace and one store."""

    workspace: str
    store: StoreKind
    files: int
    bytes: int
    weight_bytes: int
    samples: list[Sample]
    summaries: list[Summary]
    verdicts: dict[str, Verdict]
    targets: list[Target]
    skipped: list[Skipped]


class Report(msgspec.Struct, frozen=True):
    """One whole benchmark. ``versions`` by the tool's name."""

    machine: Machine
    tls: bool
    megabits: float | None
    versions: dict[str, str]
    sections: list[Section]


def this_machine() -> Machine:
    """Returns what the kernel says about this machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(len(os.sched_getaffinity(0)), memory, platform.release(), os.getloadavg()[0])


def section_of(case: Case, store: StoreKind, outcome: Outcome, *, small_files: bool) -> Section:
    """Returns the figures of one case."""
    found = summarize(outcome.samples)
    contents = case.contents
    targets = (
        small_file_targets(found, contents.files) if small_files else workspace_targets(found, contents.weight_bytes)
    )
    return Section(
        case.name,
        store,
        contents.files,
        contents.bytes,
        contents.weight_bytes,
        outcome.samples,
        list(found.values()),
        outcome.verdicts,
        # The targets are ratios against a real S3 server; the other store shows what is possible.
        targets if store is StoreKind.SEAWEED else [],
        outcome.skipped,
    )


def lines(report: Report) -> Iterator[str]:
    """Yields the report for the terminal."""
    machine = report.machine
    link = f"{report.megabits:g} Mbit/s" if report.megabits else "unlimited"
    yield f"{machine.cores} cores, load {machine.load:.1f}; {'https' if report.tls else 'http'}, bandwidth {link}"
    for tool, version in report.versions.items():
        yield f"  {tool}: {version}"
    for section in report.sections:
        found = {(summary.tool, summary.action): summary for summary in section.summaries}
        yield ""
        yield f"{section.workspace} to {section.store.value}: {section.files:,} files, {section.bytes / 1e9:.2f} GB"
        if found:
            yield from summary_lines(found, section.verdicts)
        yield from skipped_lines(section.skipped)
        if section.targets:
            yield ""
            yield from target_lines(section.targets)


def write_json(report: Report, path: Path) -> None:
    """Writes the report as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
