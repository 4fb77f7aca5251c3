"""Whether a restored tree is what was saved."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from controller_client.demo.compare import Fingerprint, differences, fingerprint


class Verdict(msgspec.Struct, frozen=True):
    """Entries that are missing, added or of other content, and those that differ in metadata alone."""

    content: int
    metadata: int

    @property
    def text(self) -> str:
        """The same in words."""
        if self.content:
            return f"{self.content:,} entries differ"
        return f"content equal, metadata of {self.metadata:,} not" if self.metadata else "equal"


class Verifier:
    """Compares trees with originals, which are read once."""

    def __init__(self) -> None:
        self._originals: dict[Path, Fingerprint] = {}

    def verdict(self, original: Path, restored: Path) -> Verdict:
        """Compares every byte and all metadata."""
        if original not in self._originals:
            self._originals[original] = fingerprint(os.fsencode(original))
        return compared(self._originals[original], fingerprint(os.fsencode(restored)))


def compared(was: Fingerprint, now: Fingerprint) -> Verdict:
    """Counts the entries of two trees that differ."""
    lost = {path for path in was.keys() | now.keys() if _content(was, path) != _content(now, path)}
    same = was.keys() - lost
    metadata = sum(bool(differences({path: was[path]}, {path: now[path]})) for path in same)
    return Verdict(len(lost), metadata)


def _content(tree: Fingerprint, path: bytes) -> tuple[str, bytes, bytes, str] | None:
    facts = tree.get(path)
    return (facts.kind, facts.digest, facts.target, facts.problem) if facts else None
