"""The agent's log: lines on stderr, with priorities where the journal reads them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up_log(level: str, environ: Mapping[str, str]) -> None:
    """Sends the log to stderr.

    Args:
        level: a key of ``LEVELS``.
        environ: the process's environment; JOURNAL_STREAM in it says that systemd's journal reads stderr.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalFormatter() if _journal_reads(environ) else _PlainFormatter())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    for talkative in ("botocore", "urllib3", "asyncio"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def _journal_reads(environ: Mapping[str, str]) -> bool:
    """Returns whether stderr is the very stream that JOURNAL_STREAM names, as device:inode."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{stderr.st_dev}:{stderr.st_ino}"


class _PlainFormatter(logging.Formatter):
    """``2026-11-23 11:05:12 warning: text``."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {record.levelname.lower()}: {text}"


class _JournalFormatter(logging.Formatter):
    """A syslog priority before each line; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        if record.levelno < logging.INFO:
            priority = 7
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())
