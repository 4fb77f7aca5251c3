"""What a snapshot leaves out: gitignore patterns and presets for caches. Pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.errors import InvalidRequestError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

CACHE_PATTERNS = (
    "__pycache__/",
    "**/.cache/pip/",
    "**/.cache/uv/",
    "**/.cache/conda/",
    "**/.conda/pkgs/",
    "**/miniconda3/pkgs/",
    "**/miniforge3/pkgs/",
    "**/mambaforge/pkgs/",
    "**/anaconda3/pkgs/",
    "**/conda/pkgs/",
    "**/.cache/huggingface/hub/",
    "**/huggingface/hub/",
)
"""Folders that pip, uv, conda, Python and the Hugging Face hub fill again by themselves."""

CACHE_TAG_NAME = b"CACHEDIR.TAG"
CACHE_TAG_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""The first bytes of a CACHEDIR.TAG (bford.info/cachedir): what lies beside it is a cache."""


class Filter:
    """Decides which paths a snapshot keeps.

    Raises:
        InvalidRequestError: a pattern is malformed; the message names it.
    """

    def __init__(self, exclude: Sequence[str] = (), include: Sequence[str] = (), exclude_caches: bool = False) -> None:
        excluded = [*(CACHE_PATTERNS if exclude_caches else ()), *exclude]
        self._exclude = _spec("exclude", excluded) if excluded else None
        self._include = _spec("include", include) if include else None
        self.skips_tagged_caches = exclude_caches

    @property
    def selects(self) -> bool:
        """Whether only included files are kept, so that a directory is kept for what it holds."""
        return self._include is not None

    @property
    def leaves_out(self) -> bool:
        """Whether there is any pattern at all."""
        return self._exclude is not None or self._include is not None

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Says whether an entry, with all below it, is left out."""
        return self._exclude is not None and self._exclude.match_file(_text(path, is_directory))

    def includes(self, path: bytes, is_directory: bool) -> bool:
        """Says whether an entry matches an include pattern; always, when there is none."""
        return self._include is None or self._include.match_file(_text(path, is_directory))

    def keeps(self, path: bytes, is_directory: bool) -> bool:
        """Says whether the patterns keep an entry; a directory also for what may be below it."""
        return not self.excludes(path, is_directory) and (is_directory or self.includes(path, is_directory))


def _text(path: bytes, is_directory: bool) -> str:
    return os.fsdecode(path) + ("/" if is_directory else "")


def check_pattern(which: str, pattern: str) -> None:
    """Makes sure that a pattern has a meaning; the library ignores silently what has none.

    Raises:
        InvalidRequestError: it is malformed; the message names it.
    """
    try:
        parsed = _parse([pattern]).patterns
    except ValueError as error:
        raise _malformed(which, pattern) from error
    says_nothing = not pattern.strip() or pattern.startswith("#")
    if not says_nothing and any(item.include is None for item in parsed):
        raise _malformed(which, pattern)


def _malformed(which: str, pattern: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the {which} pattern {pattern[:100]!r} is not valid gitignore syntax",
        hint="see `man gitignore` for the syntax of patterns",
    )


def _spec(which: str, patterns: Sequence[str]) -> GitIgnoreSpec:
    for pattern in patterns:
        check_pattern(which, pattern)
    return _parse(patterns)


def _parse(patterns: Sequence[str]) -> GitIgnoreSpec:
    # Most snapshots have no pattern, and the library takes a while to load.
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(patterns)
