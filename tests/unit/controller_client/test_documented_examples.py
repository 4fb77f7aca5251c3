"""The examples in docstrings of pure modules are true. (Those that need an agent run in tests/integration.)"""

import doctest
import importlib

import pytest

MODULES = ("address", "diff", "names", "times", "cli.columns", "cli.units")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"controller_client.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
