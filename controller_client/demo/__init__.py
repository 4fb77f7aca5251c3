"""A demonstration: a real workspace goes to a real S3 server and comes back, driven through an agent."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Runs the demonstration and returns the exit code: 0, 1 if anything failed or differs, 2 for wrong options."""
    # Imported here, as the tests use other modules of this package without the rest.
    from controller_client.demo.options import parse
    from controller_client.demo.run import run

    return run(parse(argv))
