"""Errors as statuses."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2

from agent.errors import WorkspaceBusyError, classes, describe
from agent.rpc.errors import CODES, TEXT_BYTES, code_of, status_of


def test_every_class_has_its_own_line_in_the_table() -> None:
    assert set(CODES) == set(classes().values())
    assert {cls.reason: code_of(cls.reason) for cls in CODES} == {cls.reason: code for cls, code in CODES.items()}


def test_an_unknown_reason_is_a_defect() -> None:
    assert code_of("NO_SUCH_REASON") is grpc.StatusCode.INTERNAL


def test_a_status_says_everything() -> None:
    status = status_of(describe(WorkspaceBusyError("/w is held", metadata={"operation": "snapshot-1"})))
    assert (status.code, status.message) == (grpc.StatusCode.ABORTED.value[0], "/w is held")
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("gpusnap", "WORKSPACE_BUSY")
    hint = WorkspaceBusyError.default_hint
    assert dict(info.metadata) == {"operation": "snapshot-1", "hint": hint, "retryable": "true"}


def test_a_status_fits_into_metadata_whatever_the_texts() -> None:
    error = WorkspaceBusyError("\udcff" + "é" * 5000, hint="h" * 9000, metadata={"operation": "o" * 9000})
    status = status_of(describe(error))
    assert status.message.startswith("\\udcff")
    assert len(status.SerializeToString()) < 4 * TEXT_BYTES
