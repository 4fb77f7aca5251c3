"""How restores profit from cores: of one snapshot, from nginx to a folder in memory, with an agent held to some cores.

The store gets the cores that the agent leaves, or all where it leaves none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from agent.pipeline.workers import free_memory
from controller_client.cli.columns import columns
from tests.benchmarks.measure import ToolError, Usage, tree
from tests.benchmarks.nginx import Nginx
from tests.benchmarks.ours import Gpusnap
from tests.benchmarks.rounds import Case, Skipped
from tests.benchmarks.stores import Store
from tests.benchmarks.table import GB, Target, skipped_lines, target_lines
from tests.benchmarks.tools import Action, Job
from tests.support.pipelines import memory_folder

FEW, MANY, AT_LEAST = 2, 16, 5.0
"""The target: with ``MANY`` cores a restore is at least so many times as fast as with ``FEW``."""

SPARE_BYTES = 1 << 30


class ScalingSample(msgspec.Struct, frozen=True):
    """One restore."""

    cores: int
    round: int
    usage: Usage


class Scaling(msgspec.Struct):
    """All restores of one workspace, growing while they run."""

    workspace: str
    bytes: int
    samples: list[ScalingSample] = msgspec.field(default_factory=list)
    targets: list[Target] = msgspec.field(default_factory=list)
    skipped: list[Skipped] = msgspec.field(default_factory=list)


def measure_scaling(scaling: Scaling, case: Case, cores: Sequence[int], engine: str, rounds: int, store: Store) -> None:
    """Restores a workspace with each number of cores in turn, round by round.

    Args:
        scaling: takes what is measured.
        case: what is restored.
        cores: the numbers of cores; those that this machine has not are left out by name.
        engine: of the agents.
        rounds: how often.
        store: nginx, which holds the snapshot meanwhile.
    """
    usable = sorted(os.sched_getaffinity(0))
    lacking = {number: _lacking(number, usable, case) for number in cores}
    scaling.skipped += [Skipped(_name(number), why) for number, why in lacking.items() if why]
    fit = {number: usable[:number] for number, why in lacking.items() if not why}
    try:
        for sample in _restores(case, fit, engine, rounds, store) if fit else ():
            scaling.samples.append(sample)
    except ToolError as error:
        scaling.skipped.append(Skipped("the other restores", f"failed: {error}"))
    finally:
        scaling.targets += scaling_targets(_medians(scaling.samples))


def _name(cores: int) -> str:
    return f"{cores} core{'s' if cores > 1 else ''}"


def scaling_targets(medians: Mapping[int, float]) -> list[Target]:
    """Returns the target of median seconds by cores."""
    reached = medians[FEW] / medians[MANY] if FEW in medians and MANY in medians else None
    return [Target(f"restore throughput, {FEW} -> {MANY} cores", reached, AT_LEAST, at_most=False)]


def scaling_lines(scaling: Scaling) -> Iterator[str]:
    """Yields the table."""
    yield f"{scaling.workspace} from nginx to memory, by the agent's cores: {scaling.bytes / GB:.2f} GB"
    medians = _medians(scaling.samples)
    rows = []
    for cores, seconds in sorted(medians.items()):
        cpu = statistics.median(each.usage.client_cpu_seconds for each in scaling.samples if each.cores == cores)
        rate, gain = scaling.bytes / seconds / GB, medians[min(medians)] / seconds
        rows.append((str(cores), f"{seconds:.2f}", f"{rate:.2f}", f"{gain:.2f}", f"{cpu:.1f}"))
    yield from columns(("cores", "s", "GB/s", "times", "client CPU s"), rows, right=range(5))
    yield from skipped_lines(scaling.skipped)
    yield ""
    yield from target_lines(scaling.targets)


def _lacking(number: int, usable: Sequence[int], case: Case) -> str:
    if number > len(usable):
        return f"this machine has {len(usable)}"
    if shutil.which("taskset") is None:
        return "taskset missing"
    needed = 2 * case.contents.bytes + SPARE_BYTES
    free = min(shutil.disk_usage(memory_folder()).free, free_memory())
    return f"needs {needed / GB:.1f} GB of memory, and {free / GB:.1f} are free" if needed > free else ""


def _restores(
    case: Case, cores: Mapping[int, Sequence[int]], engine: str, rounds: int, store: Store
) -> Iterator[ScalingSample]:
    assert isinstance(store.server, Nginx)
    with contextlib.ExitStack() as stack:
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpusnap-bench-", dir=memory_folder())))
        job = Job(case.workspace, case.contents, case.chunks, stack.enter_context(store.bucket()), memory)
        agents = {}
        for number, own in cores.items():
            under = ["taskset", "--cpu-list", ",".join(map(str, own))]
            agents[number] = Gpusnap(engine, [memory, case.workspace], under=under)
            stack.callback(agents[number].close)
        first = next(iter(agents.values()))
        first.perform(Action.SNAPSHOT, job)
        for round_ in range(1, rounds + 1):
            for number, agent in agents.items():
                print(f"{case.name}, nginx to memory, round {round_} of {rounds}: {_name(number)}", flush=True)
                _hold(store.server.pid, others(cores[number]))
                target = memory / f"{number}-{round_}"
                yield ScalingSample(number, round_, agent.restore(job, first.saved(job), target))
                shutil.rmtree(target)


def others(own: Sequence[int]) -> set[int]:
    """Returns the cores that are left beside an agent's own; all if none is."""
    usable = os.sched_getaffinity(0)
    return usable - set(own) or usable


def _hold(pid: int, cores: set[int]) -> None:
    for process in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process, cores)


def _medians(samples: Sequence[ScalingSample]) -> dict[int, float]:
    return {
        cores: statistics.median(each.usage.seconds for each in samples if each.cores == cores)
        for cores in {each.cores for each in samples}
    }
