"""Finding the s5cmd program, and how it is started."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping

from agent.config.model import StorageConfig
from agent.errors import EngineUnavailableError

MINIMUM_VERSION = (2, 2)
"""The first version with ``cp --raw`` in ``run`` and temporary names for downloads."""

VERSION_SECONDS = 20.0
"""How long ``s5cmd version`` may take, on a machine under full load."""

INTERNAL_RETRIES = 2
"""s5cmd's own retries of one request; the longer ones are the engine's, which knows how long a store may be gone."""

_CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
)  # fmt: skip


def find_s5cmd(path: str = "") -> tuple[str, str]:
    """Returns the path and the version ("2.3.0") of the s5cmd to use.

    Args:
        path: the configured program; empty to look beside this Python, then on PATH.

    Raises:
        EngineUnavailableError: there is none, it does not run, or it is older than 2.2.
    """
    found = path or shutil.which("s5cmd", path=os.path.dirname(sys.executable)) or shutil.which("s5cmd")
    if not found:
        raise EngineUnavailableError("s5cmd was found neither beside this Python nor on PATH")
    program = _behind_script(os.path.abspath(found))
    return program, _version(program)


def command_line(program: str, endpoint_url: str, workers: int) -> list[str]:
    """Returns the arguments of a long-lived s5cmd that ends with the thread that starts it; no secret is among them."""
    launcher = os.path.join(os.path.dirname(__file__), "with_parent.py")
    arguments = [sys.executable, "-I", "-S", launcher, str(os.getpid()), program, "--json"]
    arguments += ["--retry-count", str(INTERNAL_RETRIES), "--numworkers", str(workers)]
    if endpoint_url:
        arguments += ["--endpoint-url", endpoint_url]
    return [*arguments, "run"]


def environment(storage: StorageConfig, region: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of s5cmd: the inherited one without what would redirect it, and with the credentials."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name != "S3_ENDPOINT_URL" and not name.startswith("AWS_ENDPOINT_URL")
    }
    if storage.credentials or storage.profile:
        for name in _CREDENTIAL_VARIABLES:
            kept.pop(name, None)
    if storage.credentials:
        kept["AWS_ACCESS_KEY_ID"] = storage.credentials.access_key_id
        kept["AWS_SECRET_ACCESS_KEY"] = storage.credentials.secret_access_key
        if storage.credentials.session_token:
            kept["AWS_SESSION_TOKEN"] = storage.credentials.session_token
    elif storage.profile:
        kept["AWS_PROFILE"] = storage.profile
    if region:
        kept["AWS_REGION"] = region
    return kept


def _behind_script(path: str) -> str:
    """Returns the program that a Python package's start script runs: killing the script would leave that running."""
    try:
        with open(path, "rb") as file:
            is_script = file.read(2) == b"#!"
    except OSError as error:
        raise EngineUnavailableError(f"s5cmd cannot be run from {path}: {error.strerror}") from error
    if is_script:
        prefix = glob.escape(os.path.dirname(os.path.dirname(path)))
        for found in glob.glob(os.path.join(prefix, "lib*", "python*", "*-packages", "s5cmd", "bin", "s5cmd")):
            return found
    return path


def _version(program: str) -> str:
    try:
        answer = subprocess.run(
            [program, "version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineUnavailableError(f"{program} does not run: {error}") from error
    text = answer.stdout.decode("utf-8", "replace").strip()
    match = re.match(r"v?(\d+)\.(\d+)(?:\.\d+)?", text)
    if not match:
        raise EngineUnavailableError(f"{program} is not s5cmd: its version is {text[:80]!r}")
    if (int(match.group(1)), int(match.group(2))) < MINIMUM_VERSION:
        raise EngineUnavailableError(f"{program} is version {text[:80]}, but 2.2 or newer is needed")
    return match.group(0).removeprefix("v")
