"""Measures tools in turn, A B C A B C, each round into folders of its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.benchmarks.measure import ToolError, Usage
from tests.benchmarks.stores import Bucket, Store
from tests.benchmarks.tools import Action, Job, Tool
from tests.benchmarks.verify import Verdict, Verifier
from tests.benchmarks.workspace import Contents

EMPTIED_BYTES = 64 << 10
"""Files from this size on are emptied after their round: most bytes of a workspace lie in them."""


class Sample(msgspec.Struct, frozen=True):
    """One measured action. ``sync_seconds`` is how long the disks then took to have it all."""

    tool: str
    action: Action
    round: int
    usage: Usage
    sync_seconds: float


class Skipped(msgspec.Struct, frozen=True):
    """A tool that was not measured, or not to the end, and why."""

    tool: str
    reason: str


@dataclass(frozen=True)
class Case:
    """One workspace to measure with, and the chunk files that gpusnap stores for it."""

    name: str
    workspace: Path
    contents: Contents
    chunks: Path


@dataclass
class Outcome:
    """What was measured; ``verdicts`` by the tool's name."""

    samples: list[Sample] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def compete(
    tools: Sequence[Tool], store: Store, case: Case, rounds: int, folder: Path, verifier: Verifier, outcome: Outcome
) -> None:
    """Lets each tool do its actions, round by round.

    A tool that fails is left out from then on, by name. What the first round restored is compared. Nothing is deleted,
    as file systems remember deleted inodes for a while and are slow to make new ones then; large files are emptied.

    Args:
        tools: the tools, in their order.
        store: where they save to, in a new bucket each time.
        case: what they save.
        rounds: how often.
        folder: an existing folder on the disk that is measured; the caller deletes it at the very end.
        verifier: compares the trees.
        outcome: takes what is measured, as soon as it is.
    """
    left = []
    for tool in tools:
        if reason := tool.unfit(store):
            outcome.skipped.append(Skipped(tool.name, reason))
        else:
            left.append(tool)
    for number in range(1, rounds + 1):
        for place, tool in enumerate(list(left)):
            job_folder = folder / f"round-{number}-tool-{place}"
            job_folder.mkdir(parents=True)
            print(f"{case.name}, {store.name}, round {number} of {rounds}: {tool.name}", flush=True)
            try:
                with store.bucket() as bucket:
                    job = Job(case.workspace, case.contents, case.chunks, bucket, job_folder)
                    finds_parents = store.complete or not tool.uses_store
                    left_out = () if finds_parents else (Action.UNCHANGED,)
                    _take_turn(tool, job, number, outcome, verifier, left_out)
            except ToolError as error:
                outcome.skipped.append(Skipped(tool.name, f"failed in round {number}: {error}"))
                left.remove(tool)
            _empty(job_folder)


def chunk_files(tool: Tool, workspace: Path, contents: Contents, folder: Path) -> Path:
    """Returns a folder with the chunk files of a workspace, made by gpusnap with its engine ``directory``."""
    folder.mkdir(parents=True)
    tool.perform(Action.SNAPSHOT, Job(workspace, contents, folder, Bucket("", ""), folder))
    return folder / "repository" / "chunks"


def _take_turn(
    tool: Tool, job: Job, number: int, outcome: Outcome, verifier: Verifier, left_out: Sequence[Action]
) -> None:
    for action in tool.actions:
        has_nothing = action is Action.RESTORE_WEIGHTS and not job.contents.weights
        if has_nothing or action in left_out:
            continue
        os.sync()
        usage = tool.perform(action, job)
        begun = time.monotonic()
        os.sync()
        outcome.samples.append(Sample(tool.name, action, number, usage, time.monotonic() - begun))
        if action is Action.RESTORE and tool.name not in outcome.verdicts:
            outcome.verdicts[tool.name] = verifier.verdict(tool.original(job), job.target(action))


def _empty(folder: Path) -> None:
    """Frees the disk without deleting anything."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                if not os.path.islink(path) and os.path.getsize(path) >= EMPTIED_BYTES:
                    os.truncate(path, 0)


def by_tool_and_action(samples: Sequence[Sample]) -> Mapping[tuple[str, Action], list[Sample]]:
    """Returns the rounds of each tool's actions."""
    found: dict[tuple[str, Action], list[Sample]] = {}
    for sample in samples:
        found.setdefault((sample.tool, sample.action), []).append(sample)
    return found
