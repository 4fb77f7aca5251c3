"""The command `gpusnap`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from controller_client.cli.arguments import parse
from controller_client.cli.exit_code import ExitCode
from controller_client.cli.hosts import UsageError
from controller_client.cli.run import run


def main() -> None:
    """Runs `gpusnap`."""
    sys.exit(_guarded(sys.argv[1:]))


def _guarded(argv: Sequence[str]) -> int:
    """Returns the exit code; shows a traceback only if GPUSNAP_DEBUG is set."""
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"gpusnap: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except BrokenPipeError:
        # The interpreter flushes stdout at exit; give it something that can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get("GPUSNAP_DEBUG"):
            raise
        hint = "this is a defect of gpusnap: report it with the output of GPUSNAP_DEBUG=1"
        print(f"gpusnap: {type(error).__name__}: {error} ({hint})", file=sys.stderr)
        return ExitCode.FAILED


def _run(argv: Sequence[str]) -> int:
    # Names may hold anything that a terminal's encoding lacks; it is shown escaped, never an error.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if argv[:1] == ["demo"]:
        from controller_client import demo

        return demo.main(argv[1:])
    options, command = parse(argv)
    return asyncio.run(run(options, command))


if __name__ == "__main__":
    main()
