"""Everything that was measured, for the terminal and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.benchmarks.rounds import Case, Outcome, Sample, Skipped
from tests.benchmarks.scaling import Scaling, scaling_lines
from tests.benchmarks.stores import Link, Store, StoreKind
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
    tls: bool
    files: int
    bytes: int
    weight_bytes: int
    samples: list[Sample]
    summaries: list[Summary]
    verdicts: dict[str, Verdict]
    targets: list[Target]
    skipped: list[Skipped]


class Report(msgspec.Struct):
    """One whole benchmark, growing while it runs, so that what was measured is not lost if it ends early.

    Attributes:
        versions: by the tool's name.
        skipped: stores that could not be had.
        scaling: how restores profit from cores, if that was asked for.
    """

    machine: Machine
    link: Link
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    sections: list[Section] = msgspec.field(default_factory=list)
    skipped: list[Skipped] = msgspec.field(default_factory=list)
    scaling: Scaling | None = None


def this_machine() -> Machine:
    """Returns what the kernel says about this machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(len(os.sched_getaffinity(0)), memory, platform.release(), os.getloadavg()[0])


def section_of(case: Case, store: Store, outcome: Outcome, *, small_files: bool) -> Section:
    """Returns the figures of one case, as far as it was measured."""
    tls = store.certificate is not None
    contents = case.contents
    return Section(
        case.name,
        store.kind,
        tls,
        contents.files,
        contents.bytes,
        contents.weight_bytes,
        outcome.samples,
        list(summarize(outcome.samples).values()),
        outcome.verdicts,
        # The targets are ratios against a real S3 server; the other store shows what is possible.
        _targets(case, outcome, tls, small_files) if store.kind is StoreKind.SEAWEED else [],
        outcome.skipped,
    )


def _targets(case: Case, outcome: Outcome, tls: bool, small_files: bool) -> list[Target]:
    found = summarize(outcome.samples)
    if small_files:
        return small_file_targets(found, case.contents.files)
    targets = workspace_targets(found, case.contents.weight_bytes, tls=tls)
    # Over https not every tool takes part.
    return [target for target in targets if target.value is not None] if tls else targets


def lines(report: Report) -> Iterator[str]:
    """Yields the report for the terminal."""
    machine = report.machine
    yield f"{machine.cores} cores, load {machine.load:.1f}; bandwidth {report.link}"
    for tool, version in report.versions.items():
        yield f"  {tool}: {version}"
    yield from skipped_lines(report.skipped)
    for section in report.sections:
        found = {(summary.tool, summary.action): summary for summary in section.summaries}
        way = f"{section.store.value} over {'https' if section.tls else 'http'}"
        yield ""
        yield f"{section.workspace} to {way}: {section.files:,} files, {section.bytes / 1e9:.2f} GB"
        if found:
            yield from summary_lines(found, section.verdicts)
        yield from skipped_lines(section.skipped)
        if section.targets:
            yield ""
            yield from target_lines(section.targets)
    if report.scaling is not None:
        yield ""
        yield from scaling_lines(report.scaling)


def write_json(report: Report, path: Path) -> None:
    """Writes the report as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
