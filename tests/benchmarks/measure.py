"""What a piece of work costs: wall time, CPU of its processes and of the whole machine, and memory.

Memory of a process tree is private memory, plus what it holds on tmpfs: the larger of its share of mapped shared
memory and the size of its staging folder, as staged chunks may be mapped. Page cache of a disk counts for nobody.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from tests.benchmarks.health import health_watch

SAMPLE_SECONDS = 0.2
"""Looking at the memory of all processes takes milliseconds of a core each time."""
COMMAND_SECONDS = 3600.0
SETTLE_SECONDS = 5.0

# Whatever else is set may lead a tool elsewhere or change what it trusts.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR")
_TICKS = os.sysconf("SC_CLK_TCK")


class ToolError(Exception):
    """A tool failed; the message ends with what it said last."""


class Usage(msgspec.Struct, frozen=True):
    """What one piece of work took.

    Attributes:
        seconds: wall time.
        client_cpu_seconds: user and system time of the tool's own processes.
        machine_cpu_seconds: time in which the machine's cores were busy, the store's and everybody else's included.
        peak_memory_bytes: the highest sum over the tool's processes.
        health_seconds: how long each health answer took meanwhile; only an agent gives any.
        engine: the engine that an agent's operation took; empty for other tools.
    """

    seconds: float
    client_cpu_seconds: float
    machine_cpu_seconds: float
    peak_memory_bytes: int
    health_seconds: tuple[float, ...] = ()
    engine: str = ""


def run_command(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Usage:
    """Runs a command to its end and measures it with all that it starts.

    Args:
        command: the program and its arguments.
        environment: its variables; of the inherited ones it gets only where programs are and the language.
        folder: where it runs.
        log: takes its output.

    Raises:
        ToolError: it is missing, failed, or took more than an hour.
    """
    machine, begun = machine_cpu_seconds(), time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                env={**{name: os.environ[name] for name in _INHERITED if name in os.environ}, **environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(f"{command[0]} cannot be started: {error.strerror}") from error
    limit = threading.Timer(COMMAND_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    try:
        with MemoryWatch(process.pid) as memory:
            _, status, used = os.wait4(process.pid, 0)
            seconds, machine = time.monotonic() - begun, machine_cpu_seconds() - machine
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        limit.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ToolError(f"{command[0]} ended with status {process.returncode}: {_last_words(log)}")
    return Usage(seconds, used.ru_utime + used.ru_stime, machine, memory.peak_bytes)


class AgentWatch:
    """Measures a running agent while the block runs: its own cost alone, not that of the client in this process.

    Args:
        pid: the agent's process.
        staging: its staging folder.
        address: where its health service answers, ``HOST:PORT``.
    """

    def __init__(self, pid: int, staging: Path, address: str) -> None:
        self._pid = pid
        self._memory = MemoryWatch(pid, staging)
        self._asking = health_watch(address)
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage:
        """What the block took; known after it."""
        assert self._usage is not None
        return self._usage

    def __enter__(self) -> AgentWatch:
        self._health = self._asking.__enter__()
        self._helpers = len(tree(self._pid))
        self._client = tree_cpu_seconds(self._pid)
        self._memory.__enter__()
        self._machine, self._begun = machine_cpu_seconds(), time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds, machine = time.monotonic() - self._begun, machine_cpu_seconds() - self._machine
        self._asking.__exit__(kind, error, traceback)
        self._memory.__exit__(kind, error, traceback)
        self._settle()
        client = tree_cpu_seconds(self._pid) - self._client
        self._usage = Usage(seconds, client, machine, self._memory.peak_bytes, tuple(self._health))

    def _settle(self) -> None:
        """Lets the operation's processes end, and those that wait for the next one start: their CPU time counts too."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while len(tree(self._pid)) != self._helpers and time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)


class MemoryWatch:
    """Samples the memory of a process tree while the block runs, five times a second."""

    def __init__(self, pid: int, staging: Path | None = None) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._staging = staging
        self._stop = threading.Event()
        self._sampling = threading.Thread(target=self._sample)

    def __enter__(self) -> MemoryWatch:
        self._sampling.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._sampling.join()

    def _sample(self) -> None:
        while True:
            private, shared = map(sum, zip(*(_memory(pid) for pid in tree(self._pid)), strict=True))
            staged = _staged(self._staging) if self._staging else 0
            self.peak_bytes = max(self.peak_bytes, private + max(shared, staged))
            if self._stop.wait(SAMPLE_SECONDS):
                return


def _staged(folder: Path) -> int:
    # os.walk passes over folders that go while it looks.
    return sum(_allocated(Path(place, name)) for place, _, names in os.walk(folder) for name in names)


def tree(pid: int) -> list[int]:
    """Returns a process and all its live descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                for child in file.read().split():
                    found += tree(int(child))
    return found


def tree_cpu_seconds(pid: int) -> float:
    """Returns the CPU time of a process, of its descendants, and of all those that have ended and been waited for."""
    return sum(_cpu_ticks(process) for process in tree(pid)) / _TICKS


def machine_cpu_seconds() -> float:
    """Returns how long the machine's cores have been busy since it started, summed over them."""
    with open("/proc/stat", "rb") as file:
        user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Returns a percentile; ``None`` for fewer than two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else None


def _cpu_ticks(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return sum(int(word) for word in file.read().rpartition(b")")[2].split()[11:15])
    return 0


def _memory(pid: int) -> tuple[int, int]:
    """Returns the bytes of private and of shared memory that count for a process."""
    sizes = {name: size for name, size in _rollup(pid) if name in (b"Pss_Anon", b"Pss_Shmem")}
    return sizes.get(b"Pss_Anon", 0), sizes.get(b"Pss_Shmem", 0)


def _rollup(pid: int) -> Iterator[tuple[bytes, int]]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file.readlines()[1:]:
            name, _, size = line.partition(b":")
            yield name, int(size.split()[0]) * 1024


def _allocated(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_blocks * 512
    return 0


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return " / ".join(line.strip() for line in lines[-8:] if line.strip())[-600:] or "it said nothing"
