"""Patterns mean what they mean in a .gitignore."""

from __future__ import annotations

import pytest

from agent.errors import InvalidRequestError
from agent.snapshot.filters import Filter


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["*.log"], "a/b.log", True),
        (["*.log"], "a/b.logs", False),
        (["/top"], "top", True),
        (["/top"], "a/top", False),
        (["a/b"], "a/b", True),
        (["a/b"], "x/a/b", False),
        (["**/b"], "x/y/b", True),
        (["a/**"], "a/x/y", True),
        (["dir/"], "dir/", True),
        (["dir/"], "dir", False),
        (["*", "!keep"], "keep", False),
        (["*", "!keep"], "other", True),
        (["!keep", "*"], "keep", True),
        (["# comment"], "# comment", False),
        (["\\#name"], "#name", True),
        (["a?c"], "abc", True),
        (["[ab]c"], "bc", True),
        (["\u00fc*"], "\u00fcx", True),
        (["trailing  "], "trailing", True),
        ([""], "a", False),
    ],
)
def test_gitignore_patterns(patterns: list[str], path: str, excluded: bool) -> None:
    is_directory = path.endswith("/")
    raw = path.rstrip("/").encode()
    assert Filter(exclude=patterns).excludes(raw, is_directory) is excluded
    assert Filter(include=patterns).includes(raw, is_directory) is excluded


def test_names_that_are_no_text_are_matched_as_bytes() -> None:
    chosen = Filter(exclude=["*.log"])
    assert chosen.excludes(b"\xff\xfe.log", False)
    assert not chosen.excludes(b"\xff\xfe", False)
    assert chosen.excludes(b"a\nb.log", False)


def test_without_patterns_everything_is_kept() -> None:
    chosen = Filter()
    assert not chosen.selects
    assert not chosen.skips_tagged_caches
    assert not chosen.excludes(b"__pycache__", True)
    assert chosen.includes(b"anything", False)


@pytest.mark.parametrize("pattern", ["!", "/", "[a", "a\\"])
def test_malformed_patterns_are_named(pattern: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Filter(exclude=["good", pattern])
    assert caught.value.message == f"the exclude pattern {pattern!r} is not valid gitignore syntax"
    with pytest.raises(InvalidRequestError, match="the include pattern"):
        Filter(include=[pattern])


@pytest.mark.parametrize(
    "path",
    [
        "a/__pycache__",
        "root/.cache/pip",
        ".cache/uv",
        "x/.conda/pkgs",
        "miniconda3/pkgs",
        "opt/conda/pkgs",
        ".cache/huggingface/hub",
        "data/huggingface/hub",
    ],
)
def test_caches_that_fill_themselves_again(path: str) -> None:
    chosen = Filter(exclude_caches=True)
    assert chosen.skips_tagged_caches
    assert chosen.excludes(path.encode(), True)
    assert not chosen.excludes(path.encode(), False)
    assert not Filter().excludes(path.encode(), True)


def test_a_pattern_can_bring_a_cache_back() -> None:
    assert not Filter(exclude=["!**/huggingface/hub/"], exclude_caches=True).excludes(b".cache/huggingface/hub", True)


@pytest.mark.parametrize("path", ["pip", "hub", "pkgs", "huggingface", ".cache", "hub/huggingface"])
def test_what_only_looks_like_a_cache_is_kept(path: str) -> None:
    assert not Filter(exclude_caches=True).excludes(path.encode(), True)
