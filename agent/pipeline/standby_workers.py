"""Worker processes that wait for work of any kind, and have loaded what it needs.

Loading it takes a tenth of a second, for which an operation that has just begun would otherwise wait. Each is
``python -m agent.pipeline.standby_workers CONNECTION MODULE...``.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence

from agent.pipeline.process_name import ProcessName, name_process
from agent.pipeline.worker_process import SILENCE_SECONDS, WorkerDiedError, WorkerProcess, own_connection


class StandbyWorkers:
    """Worker processes that wait. For any thread.

    Args:
        modules: what each of them loads, to run any of these.
        count: how many.

    Raises:
        OSError: one cannot be started.
    """

    def __init__(self, modules: Sequence[str] = (), count: int = 0) -> None:
        self._lock = threading.Lock()
        self._waiting: list[WorkerProcess] = []
        try:
            for _ in range(count):
                self._waiting.append(WorkerProcess(__name__, arguments=modules))
        except BaseException:
            self.close()
            raise

    def take(self, module: str, silence_seconds: float = SILENCE_SECONDS) -> WorkerProcess:
        """Returns a process that runs a module: one that has waited, or a new one.

        Raises:
            OSError: there is none left, and another one cannot be started.
        """
        while (process := self._next()) is not None:
            process.connection.silence_seconds = silence_seconds
            try:
                process.connection.send(module.encode())
                return process
            except WorkerDiedError:
                process.end()
        return WorkerProcess(module, silence_seconds)

    def close(self) -> None:
        """Ends those that still wait."""
        while (process := self._next()) is not None:
            process.dismiss()

    def _next(self) -> WorkerProcess | None:
        with self._lock:
            return self._waiting.pop() if self._waiting else None


def main() -> int:
    """Waits to be told which of the modules to run."""
    runs = {name: importlib.import_module(name).main for name in sys.argv[2:]}
    name_process(ProcessName.STANDBY)
    try:
        message, _ = own_connection().receive()
    except WorkerDiedError:
        return 0
    return int(runs[message.decode()]())


if __name__ == "__main__":
    sys.exit(main())
