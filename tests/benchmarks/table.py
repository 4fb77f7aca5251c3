"""From samples to medians, ratios, targets and tables. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from controller_client.cli.columns import columns
from tests.benchmarks.measure import percentile
from tests.benchmarks.ours import DIRECTORY, our_name
from tests.benchmarks.rounds import Sample, Skipped, by_tool_and_action
from tests.benchmarks.tools import Action
from tests.benchmarks.verify import Verdict

MIB = 1 << 20
GB = 1_000_000_000


class Summary(msgspec.Struct, frozen=True):
    """One action of one tool over all rounds: medians, the highest memory, and health answers of all rounds together.

    Attributes:
        ratio: its median time by that of gpusnap.
        engines: the engines that gpusnap took.
    """

    tool: str
    action: Action
    rounds: int
    seconds: float
    ratio: float | None
    sync_seconds: float
    client_cpu_seconds: float
    machine_cpu_seconds: float
    peak_memory_bytes: int
    health_p99_seconds: float | None
    engines: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True):
    """Something to be reached. ``value`` is ``None`` if it was not measured."""

    name: str
    value: float | None
    limit: float
    at_most: bool

    @property
    def verdict(self) -> str:
        """Whether it was reached."""
        if self.value is None:
            return "not measured"
        return "reached" if (self.value <= self.limit if self.at_most else self.value >= self.limit) else "missed"


Summaries = Mapping[tuple[str, Action], Summary]


def summarize(samples: Sequence[Sample]) -> Summaries:
    """Returns the medians of each tool's actions, and their ratios to gpusnap's."""
    rounds = by_tool_and_action(samples)
    medians = {key: statistics.median(sample.usage.seconds for sample in found) for key, found in rounds.items()}
    ours = ours_of(medians)
    return {
        (tool, action): _summary(found, medians[tool, action], medians.get((ours, action)))
        for (tool, action), found in rounds.items()
    }


def ours_of(medians: Mapping[tuple[str, Action], float]) -> str:
    """Returns which gpusnap others are compared with: ``auto``, or else the engine that restores quickest over S3."""
    ours = our_name("")
    restores = {tool: value for (tool, action), value in medians.items() if action is Action.RESTORE}
    engines = {tool: value for tool, value in restores.items() if tool.startswith(ours)}
    over_s3 = {tool: value for tool, value in engines.items() if tool != our_name(DIRECTORY)} or engines
    if our_name("auto") in over_s3:
        return our_name("auto")
    return min(over_s3, key=lambda tool: over_s3[tool], default=our_name("auto"))


def workspace_targets(found: Summaries, weight_bytes: int, *, tls: bool = False) -> list[Target]:
    """Returns the targets of a restore and a snapshot of a whole workspace; over https they are rows of their own."""
    ours = ours_of({key: summary.seconds for key, summary in found.items()})

    def ratio(a: str, b: str, action: Action) -> float | None:
        return _ratio(found, a, b, action)

    weights = found.get((ours, Action.RESTORE_WEIGHTS))
    per_gb = weights.client_cpu_seconds / (weight_bytes / GB) if weights and weight_bytes else None
    s5cmd, stream = our_name("s5cmd"), our_name("stream")
    restore, snapshot = Action.RESTORE, Action.SNAPSHOT
    return [
        Target("restore / s5cmd cp of the same chunks", ratio(ours, "s5cmd cp", restore), 0.9, at_most=True),
        Target("restic restore / ours", ratio("restic", ours, restore), 3.0, at_most=False),
        Target("s5cmd cat | lz4 -d | tar -x / ours", ratio("tar|lz4|s5cmd", ours, restore), 3.0, at_most=False),
        Target("snapshot / s5cmd cp upload of the same chunks", ratio(ours, "s5cmd cp", snapshot), 1.0, at_most=True),
        Target("restic backup / ours", ratio("restic", ours, snapshot), 2.5, at_most=False),
        Target("engine s5cmd restore / engine stream restore", ratio(s5cmd, stream, restore), 1.4, at_most=True),
        Target(f"client CPU s per GB of weights restored{' (https)' if tls else ''}", per_gb, 0.8, at_most=True),
        *common_targets(found),
    ]


def small_file_targets(found: Summaries, files: int) -> list[Target]:
    """Returns the targets of many small files."""
    restore = found.get((ours_of({key: summary.seconds for key, summary in found.items()}), Action.RESTORE))
    rate = files / restore.seconds if restore else None
    return [Target("restore, files/s", rate, 25_000, at_most=False), *common_targets(found)]


def common_targets(found: Summaries) -> list[Target]:
    """Returns what must hold of every workspace, and of every engine of gpusnap in every action."""
    compared = ours_of({key: summary.seconds for key, summary in found.items()})
    ours = [summary for (tool, _), summary in found.items() if tool.startswith(our_name(""))]
    memory = max((summary.peak_memory_bytes / MIB for summary in ours), default=None)
    health = max((summary.health_p99_seconds * 1000 for summary in ours if summary.health_p99_seconds), default=None)
    unchanged = _ratio(found, "restic", compared, Action.UNCHANGED)
    return [
        Target("restic backup / ours, unchanged", unchanged, 4.0, at_most=False),
        Target("peak memory of the process tree, MiB", memory, 600, at_most=True),
        Target("health p99, ms", health, 50, at_most=True),
    ]


def summary_lines(found: Summaries, verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    """Yields the table of all tools, action by action, the quickest first."""
    ours = ours_of({key: summary.seconds for key, summary in found.items()})
    header = ("action", "tool", "s", "/ ours", "sync s", "client CPU s", "machine CPU s", "peak MiB", "p99 ms", "tree")
    rows = []
    for action in Action:
        for summary in sorted(
            (summary for summary in found.values() if summary.action is action), key=lambda summary: summary.seconds
        ):
            verdict = verdicts.get(summary.tool) if action is Action.RESTORE else None
            rows.append(
                (
                    action.value,
                    _label(summary) + (" *" if summary.tool == ours else ""),
                    f"{summary.seconds:.2f}",
                    f"{summary.ratio:.2f}" if summary.ratio else "",
                    f"{summary.sync_seconds:.1f}",
                    f"{summary.client_cpu_seconds:.1f}",
                    f"{summary.machine_cpu_seconds:.1f}",
                    f"{summary.peak_memory_bytes / MIB:.0f}",
                    f"{summary.health_p99_seconds * 1000:.1f}" if summary.health_p99_seconds else "",
                    verdict.text if verdict else "",
                )
            )
    yield from columns(header, rows, right=range(2, 9))
    yield "* ours"


def target_lines(targets: Sequence[Target]) -> Iterator[str]:
    """Yields the table of targets."""
    rows = [
        (
            target.name,
            "" if target.value is None else f"{target.value:,.2f}",
            f"{'<=' if target.at_most else '>='} {target.limit:,g}",
            target.verdict,
        )
        for target in targets
    ]
    yield from columns(("target", "measured", "limit", ""), rows, right=(1, 2))


def skipped_lines(skipped: Sequence[Skipped]) -> Iterator[str]:
    """Yields what was left out, and why."""
    for each in skipped:
        yield f"skipped: {each.tool}: {each.reason}"


def _label(summary: Summary) -> str:
    """Returns the tool's name, for ``auto`` with the engines that it took."""
    took = [engine for engine in summary.engines if our_name(engine) != summary.tool]
    return f"{summary.tool} ({', '.join(took)})" if took else summary.tool


def _ratio(found: Summaries, a: str, b: str, action: Action) -> float | None:
    upper, lower = found.get((a, action)), found.get((b, action))
    return upper.seconds / lower.seconds if upper and lower else None


def _summary(samples: Sequence[Sample], seconds: float, ours: float | None) -> Summary:
    usages = [sample.usage for sample in samples]
    return Summary(
        samples[0].tool,
        samples[0].action,
        len(samples),
        seconds,
        seconds / ours if ours else None,
        statistics.median(sample.sync_seconds for sample in samples),
        statistics.median(usage.client_cpu_seconds for usage in usages),
        statistics.median(usage.machine_cpu_seconds for usage in usages),
        max(usage.peak_memory_bytes for usage in usages),
        percentile([answer for usage in usages for answer in usage.health_seconds], 99),
        tuple(dict.fromkeys(usage.engine for usage in usages if usage.engine)),
    )
