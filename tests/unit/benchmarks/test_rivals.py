"""Which of the other tools can be measured where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.options import TOOLS
from tests.benchmarks.ours import Gpusnap, engine_refusal
from tests.benchmarks.rivals import RIVALS, ChunkCopy, LocalCopy, Restic, Rival, TarPipe
from tests.benchmarks.stores import Store, StoreKind


class _Server:
    def make_bucket(self) -> str:
        return "bucket"

    def remove_bucket(self, bucket: str) -> None:
        pass


SEAWEED, NGINX = (Store(kind, _Server(), "http://127.0.0.1:1", None) for kind in (StoreKind.SEAWEED, StoreKind.NGINX))


def test_every_rival_can_be_chosen() -> None:
    assert {rival.key for rival in RIVALS} | {"gpusnap"} == set(TOOLS)


@pytest.mark.parametrize("rival", RIVALS)
def test_a_tool_whose_programs_are_missing_is_unfit_and_says_which(
    rival: type[Rival], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rival, "programs", ("none-such", "sh", "nor-this"))
    assert rival().unfit(SEAWEED) == "none-such and nor-this missing"


@pytest.mark.parametrize(
    ("rival", "reason"),
    [
        (Restic, "needs listings, which nginx has not"),
        (TarPipe, "needs multipart uploads, which nginx has not"),
        (ChunkCopy, ""),
        (LocalCopy, ""),
    ],
)
def test_a_store_that_can_do_little_is_not_for_all(
    rival: type[Rival], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rival, "programs", ("sh",))
    assert rival().unfit(NGINX) == reason
    assert rival().unfit(SEAWEED) == ""


def test_tools_tell_their_version() -> None:
    for rival in (TarPipe, ChunkCopy, LocalCopy):
        assert any(character.isdigit() for character in rival().version()), rival


def test_an_engine_that_the_configuration_refuses_is_unfit(tmp_path: Path) -> None:
    assert [engine_refusal(engine) for engine in ("auto", "stream", "s5cmd", "directory")] == [""] * 4
    tool = Gpusnap("none", [tmp_path])
    try:
        assert "'none'" in tool.unfit(SEAWEED)
        assert tool.unfit(SEAWEED) == engine_refusal("none")
    finally:
        tool.close()
