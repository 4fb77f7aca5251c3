"""The log's lines, as a child writes them to a real stderr."""

from __future__ import annotations

import os
import re
import subprocess
import sys

SCRIPT = """
import logging, os
from agent.daemon.log import set_up_log
set_up_log("info", os.environ)
log = logging.getLogger("x")
log.debug("hidden")
log.info("one\\ntwo")
log.warning("careful")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
"""


def lines(through_journal: bool) -> list[str]:
    read, write = os.pipe()
    try:
        facts = os.fstat(write)
        stream = f"{facts.st_dev}:{facts.st_ino}" if through_journal else "1:1"
        environ = {**os.environ, "JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, "-c", SCRIPT], stderr=write, env=environ, check=True, timeout=60)
    finally:
        os.close(write)
    with open(read, encoding="utf-8") as file:
        return file.read().splitlines()


def test_the_journal_gets_a_priority_on_each_line() -> None:
    found = lines(through_journal=True)
    assert found[:3] == ["<6>one", "<6>two", "<4>careful"]
    assert found[3] == "<3>broken"
    assert all(line.startswith("<3>") for line in found[3:])
    assert "ZeroDivisionError" in found[-1]


def test_a_terminal_gets_the_time() -> None:
    found = lines(through_journal=False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d info: one", found[0])
    assert any(line.endswith("warning: careful") for line in found)
    assert not any("hidden" in line for line in found)
