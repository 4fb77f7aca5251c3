"""gpusnap-agent: saves workspaces to object storage and brings them back."""

import functools


@functools.cache
def version() -> str:
    """Returns the version of gpusnap."""
    # Not at the top: it takes longer to import than all that a worker process needs besides.
    from importlib import metadata

    try:
        return metadata.version("gpusnap")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0.0.0"
