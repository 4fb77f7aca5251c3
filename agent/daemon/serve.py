"""The agent's life: it takes its state folder, recovers, listens, works until it is asked to end, and drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping

from agent import version
from agent.config.address import TcpAddress, parse_listen, parse_loopback
from agent.config.model import AgentConfig, Config, EngineChoice
from agent.daemon.listen import Address, cannot_listen, claimed, written
from agent.daemon.log import set_up_log
from agent.daemon.notify import Notifier
from agent.daemon.pulse import beat
from agent.daemon.state import StateFolder
from agent.daemon.stop import StopSignals, end_within
from agent.errors import ConfigError, EngineUnavailableError
from agent.metrics import Metrics, MetricsServer
from agent.operations.journal import Journal
from agent.operations.manager import OperationManager
from agent.operations.measured import MeasuredStores
from agent.operations.standby import WORKERS, Standby
from agent.pipeline.workers import worker_count
from agent.rpc.queries import Queries
from agent.rpc.server import AgentServer
from agent.rpc.service import AgentFacts, SnapshotAgentService
from agent.storage.s5cmd_program import find_s5cmd

STREAM_SECONDS = 2.0
"""How long clients may take to read the last events of their operations when the agent ends."""

THREADS_SECONDS = 2.0
"""How long threads that wait for a store may hold up the end of the process."""

_log = logging.getLogger(__name__)


def serve(config: Config, environ: Mapping[str, str]) -> int:
    """Runs the agent until SIGTERM or SIGINT and returns the exit status.

    Raises:
        ConfigError: it cannot start as configured.
        JournalError, NoSpaceError: its journal cannot be used.
    """
    set_up_log(config.agent.log_level, environ)
    return asyncio.run(_serve(config, environ))


async def _serve(config: Config, environ: Mapping[str, str]) -> int:
    signals = StopSignals()
    notifier = Notifier(environ)
    addresses = [parse_listen(text) for text in config.agent.listen]
    async with contextlib.AsyncExitStack() as stack:
        state = await asyncio.to_thread(StateFolder, config.agent.state_dir)
        stack.callback(state.close)
        await asyncio.to_thread(_make_staging_dir, config.agent)
        journal = Journal(state.path)
        stack.push_async_callback(journal.close)
        await journal.open()
        metrics = Metrics(version())
        metrics_address = _serve_metrics(config.agent, metrics, stack)
        measured = MeasuredStores(state.path)
        await measured.load()
        processes = Standby(state.workers_lock, _waiting_workers(config))
        manager = OperationManager(config, journal, metrics.observe, processes, measured)
        queries = Queries(config)
        stack.callback(queries.close)
        facts = await asyncio.to_thread(_facts, config, metrics_address)
        server = AgentServer(SnapshotAgentService(config, facts, manager, queries, measured))
        for address in addresses:
            _listen(server, address)
        # An agent that cannot start has continued nothing, and no client asks before it has.
        await manager.recover()
        await server.start()
        pulse = asyncio.ensure_future(beat(notifier, lambda: _status(manager), metrics.set_loop_lag))
        stack.callback(pulse.cancel)
        tidying = asyncio.ensure_future(manager.tidy())
        stack.callback(tidying.cancel)
        notifier.ready()
        _log.info("gpusnap-agent %s is ready", version())
        await signals.asked.wait()
        await _drain(config, notifier, manager, server, signals.hurry)
    _log.info("gpusnap-agent ended")
    end_within(THREADS_SECONDS)
    return 0


def _waiting_workers(config: Config) -> int | None:
    """Returns how many worker processes wait with the process that is kept ready; ``None`` if none is."""
    if not config.agent.standby:
        return None
    # A single worker works in the operation's own process.
    count = min(worker_count(config.transfer.workers), WORKERS)
    return count if count > 1 else 0


async def _drain(
    config: Config, notifier: Notifier, manager: OperationManager, server: AgentServer, hurry: asyncio.Event
) -> None:
    """Ends in the order that lets clients see why: health, operations, streams, server."""
    notifier.stopping()
    running = len(manager.running)
    _log.info("ending; %d operations have %.0f s left", running, config.agent.drain_seconds)
    manager.refuse_new()
    await server.announce_shutdown()
    await manager.drain(config.agent.drain_seconds, hurry)
    await server.stop(STREAM_SECONDS)


def _listen(server: AgentServer, address: Address) -> None:
    key = "[agent] listen"
    with claimed(address, key):
        try:
            port = server.add_port(written(address))
        except RuntimeError as error:
            raise ConfigError(f"{key}: cannot listen on {written(address)}") from error
    if isinstance(address, TcpAddress):
        address = TcpAddress(address.host, port)
    _log.info("listening on %s", written(address))


def _serve_metrics(agent: AgentConfig, metrics: Metrics, stack: contextlib.AsyncExitStack) -> str:
    """Serves the metrics, if configured, until the stack is closed, and returns their address."""
    if not agent.metrics_listen:
        return ""
    key = "[agent] metrics_listen"
    address = parse_loopback(agent.metrics_listen)
    try:
        server = MetricsServer(metrics, address.host, address.port)
    except OSError as error:
        raise cannot_listen(address, key, error) from error
    stack.push_async_callback(asyncio.to_thread, server.close)
    address = TcpAddress(address.host, server.port)
    _log.info("metrics on http://%s/metrics", written(address))
    return written(address)


def _make_staging_dir(agent: AgentConfig) -> None:
    try:
        os.makedirs(agent.staging_dir, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"[agent] staging_dir {agent.staging_dir} cannot be made: {error.strerror}") from error


def _facts(config: Config, metrics_address: str) -> AgentFacts:
    try:
        s5cmd_version = find_s5cmd(config.transfer.s5cmd_path)[1]
    except EngineUnavailableError as error:
        s5cmd_version = ""
        if config.transfer.engine is EngineChoice.S5CMD:
            _log.warning("%s; %s", error, error.hint)
    return AgentFacts(
        version=version(),
        host=socket.gethostname(),
        start_time_ns=time.time_ns(),
        s5cmd_version=s5cmd_version,
        metrics_address=metrics_address,
    )


def _status(manager: OperationManager) -> str:
    running = manager.running
    if not running:
        return "idle"
    return "running " + ", ".join(record.name for record in running)
