"""gpusnap-agent: saves workspaces to object storage and brings them back."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gpusnap")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"
