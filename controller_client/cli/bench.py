"""`gpusnap bench`: how fast is which engine with which store?"""

from __future__ import annotations

from dataclasses import dataclass

from controller_client.cli import exit_code
from controller_client.cli.benchmark_table import benchmark_table
from controller_client.cli.context import Context
from controller_client.cli.exit_code import ExitCode
from controller_client.cli.follow import follow, follow_or_detach
from controller_client.cli.json_form import fields_of
from controller_client.errors import GpusnapError
from controller_client.model import OperationResult, Storage
from controller_client.names import show_text
from controller_client.operation import OperationHandle

CONFIGURED = "storage"
"""What stands for the agent's [storage] among the names of its providers."""


@dataclass(frozen=True)
class BenchCommand:
    """`gpusnap bench`. Without ``providers`` and ``storage`` it measures every store of the agent's configuration.

    Attributes:
        providers: names of tables [providers.NAME] of the agent's configuration.
        storage: one store, instead of them.
    """

    providers: tuple[str, ...] = ()
    bytes: int = 0
    object_bytes: int = 0
    rounds: int = 0
    storage: Storage | None = None
    request_id: str | None = None
    detach: bool = False

    async def run(self, context: Context) -> ExitCode:
        """Measures one store after the other."""
        labels = await self._labels(context)
        if self.detach:
            return await follow_or_detach(context, await self._start(context, labels[0]), _title(labels[0]), True)
        outcomes: list[tuple[str, OperationResult]] = []
        codes: list[ExitCode] = []
        for label in labels:

            def take(_: Context, result: OperationResult, label: str = label) -> None:
                outcomes.append((label, result))
                _record(context, label, result)

            try:
                codes.append(await follow(context, await self._start(context, label), _title(label), take))
            except GpusnapError as error:
                context.output.error(error)
                codes.append(exit_code.of_error(error))
            if codes[-1] is ExitCode.INTERRUPTED:
                break
        for line in benchmark_table(outcomes) if outcomes else ():
            context.output.line(line)
        return exit_code.worst(codes)

    async def _labels(self, context: Context) -> tuple[str, ...]:
        """Returns what each store is called."""
        if self.storage is not None:
            return (self.storage.provider.value,)
        if self.providers or self.detach or self.request_id:
            return self.providers or (CONFIGURED,)
        info = await context.client.info()
        return (*([CONFIGURED] if info.storage else []), *(item.name for item in info.providers)) or (CONFIGURED,)

    async def _start(self, context: Context, label: str) -> OperationHandle:
        return await context.client.benchmark(
            "" if self.storage is not None or label == CONFIGURED else label,
            bytes_=self.bytes,
            object_bytes=self.object_bytes,
            rounds=self.rounds,
            storage=self.storage,
            request_id=self.request_id,
        )


def _title(label: str) -> str:
    return f"benchmark of {show_text(label)}"


def _record(context: Context, label: str, result: OperationResult) -> None:
    report = result.benchmark
    place = {"vendor": report.provider, "bucket": report.bucket, "endpoint": report.endpoint} if report else {}
    for item in result.measurements:
        context.output.record("measurement", provider=label, **place, **fields_of(item))
