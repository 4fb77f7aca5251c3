"""The JSON form loses nothing."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from controller_client.cli.json_form import fields_of, to_line
from controller_client.model import (
    Completed,
    DamagedChunk,
    Entry,
    EntryType,
    Failure,
    OperationState,
    Progress,
    Stage,
    StageProgress,
    WarningRaised,
)


@given(st.binary())
def test_a_path_can_be_told_exactly(path: bytes) -> None:
    line = to_line(path=path)
    assert "\n" not in line
    found = json.loads(line)
    raw = base64.b64decode(found["path_base64"]) if "path_base64" in found else found["path"].encode()
    assert raw == path


@given(st.lists(st.binary()).map(tuple))
def test_so_can_several(paths: tuple[bytes, ...]) -> None:
    found = json.loads(to_line(**fields_of(WarningRaised("R", "m", paths, len(paths)))))
    if "paths_base64" in found:
        assert tuple(base64.b64decode(path) for path in found["paths_base64"]) == paths
    else:
        assert tuple(path.encode() for path in found["paths"]) == paths


def test_times_enums_and_absent_values() -> None:
    entry = Entry(b"a", EntryType.HARD_LINK, 0o644, 1, 2, 3, 1_500_000_000_123_456_789, b"b")
    assert json.loads(to_line(**fields_of(entry))) == {
        "path": "a", "type": "hard_link", "mode": 420, "uid": 1, "gid": 2, "size": 3,
        "modify_time": "2017-07-14T02:40:00.123456789Z", "link_target": "b",
    }  # fmt: skip
    assert json.loads(to_line(end_time_ns=None)) == {"end_time": None}


def test_what_is_inside_is_converted_too() -> None:
    stages = (StageProgress(Stage.UPLOAD, 1, 2),)
    assert json.loads(to_line(**fields_of(Progress(stages, 1.5))))["stages"][0]["stage"] == "upload"
    failure = Failure("DATA_LOSS", "m", "h", False, (DamagedChunk("id", "gone", (b"\xff",)),))
    found = json.loads(to_line(**fields_of(Completed(OperationState.FAILED, failure))))
    assert found["error"]["damaged"][0]["paths_base64"] == ["/w=="]
    assert found["result"] is None
