"""Runs one command on every host."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from controller_client.cli import exit_code
from controller_client.cli.arguments import Options
from controller_client.cli.context import Command, Context
from controller_client.cli.exit_code import ExitCode
from controller_client.cli.hosts import Host, UsageError, choose_hosts
from controller_client.cli.output import Output
from controller_client.cli.view import View, choose_view
from controller_client.errors import GpusnapError

_SIGNALS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


async def run(options: Options, command: Command) -> ExitCode:
    """Runs the command on all its hosts at once and returns the worst of their codes.

    Raises:
        UsageError: the hosts are wrong.
    """
    hosts = choose_hosts(options.agents, options.fleet)
    if len(hosts) > 1 and options.only_one:
        raise UsageError(options.only_one)
    # Progress on the terminal that also shows the events as JSON would tear both apart.
    shown = not options.quiet and not (options.json and sys.stdout.isatty())
    with choose_view(several=len(hosts) > 1, shown=shown) as view:
        return await _run_on_all(hosts, options, command, view)


async def _run_on_all(hosts: Sequence[Host], options: Options, command: Command, view: View) -> ExitCode:
    several = len(hosts) > 1
    outputs = [Output(host, view, several=several, json=options.json, quiet=options.quiet) for host in hosts]
    tasks = [
        asyncio.ensure_future(_run_on(host, output, view, options.reattach_seconds, command))
        for host, output in zip(hosts, outputs, strict=True)
    ]
    stopped = _stop_on_signals(tasks)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    codes = list(stopped)
    for result in results:
        if isinstance(result, ExitCode):
            codes.append(result)
        elif not isinstance(result, asyncio.CancelledError):
            raise result
    return exit_code.worst(codes)


def _stop_on_signals(tasks: Sequence[asyncio.Future[ExitCode]]) -> list[ExitCode]:
    """Lets the first signal cancel the tasks, and a second one end the process; returns where the code will be."""
    loop = asyncio.get_running_loop()
    stopped: list[ExitCode] = []

    def stop(number: signal.Signals) -> None:
        stopped.append(_SIGNALS[number])
        for known in _SIGNALS:
            loop.remove_signal_handler(known)
        for task in tasks:
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    return stopped


async def _run_on(host: Host, output: Output, view: View, reattach_seconds: float, command: Command) -> ExitCode:
    context = Context(host, output, view, reattach_seconds)
    try:
        code = await command.run(context)
        output.flush()
        return code
    except GpusnapError as error:
        output.error(error)
        return exit_code.of_error(error)
    finally:
        await context.client.close()
