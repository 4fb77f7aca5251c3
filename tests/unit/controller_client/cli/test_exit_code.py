"""The exit code says how it went."""

from __future__ import annotations

import itertools

import pytest

from controller_client.cli.exit_code import ExitCode, of_completed, of_error, worst
from controller_client.errors import (
    AddressError,
    AgentUnreachableError,
    DataLossError,
    GpusnapError,
    SnapshotNotFoundError,
)
from controller_client.model import Completed, Failure, OperationResult, OperationState

BEST_TO_WORST = (ExitCode.DONE, ExitCode.WARNINGS, ExitCode.UNREACHABLE, ExitCode.FAILED, ExitCode.DATA_LOSS)


def test_the_codes_are_those_of_the_contract() -> None:
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 130, 141, 143]


@pytest.mark.parametrize("codes", list(itertools.permutations(BEST_TO_WORST, 3)))
def test_several_hosts_give_the_worst_code_in_any_order(codes: tuple[ExitCode, ...]) -> None:
    assert worst(codes) is max(codes, key=BEST_TO_WORST.index)


def test_every_code_has_a_rank() -> None:
    for code in ExitCode:
        assert worst((ExitCode.DONE, code)) is code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AddressError("x"), ExitCode.USAGE),
        (AgentUnreachableError("x"), ExitCode.UNREACHABLE),
        (DataLossError("x"), ExitCode.DATA_LOSS),
        (SnapshotNotFoundError("x"), ExitCode.FAILED),
        (GpusnapError("x"), ExitCode.FAILED),
    ],
)
def test_errors(error: GpusnapError, code: ExitCode) -> None:
    assert of_error(error) is code


@pytest.mark.parametrize(
    ("completed", "code"),
    [
        (Completed(OperationState.SUCCEEDED, result=OperationResult("id")), ExitCode.DONE),
        (Completed(OperationState.SUCCEEDED, result=OperationResult("id", warnings=1)), ExitCode.WARNINGS),
        (Completed(OperationState.FAILED, Failure("NO_SPACE", "full")), ExitCode.FAILED),
        (Completed(OperationState.FAILED, Failure("DATA_LOSS", "damaged")), ExitCode.DATA_LOSS),
        (Completed(OperationState.CANCELLED, Failure("CANCELLED", "stopped")), ExitCode.FAILED),
        (Completed(OperationState.CANCELLED), ExitCode.FAILED),
    ],
)
def test_ended_operations(completed: Completed, code: ExitCode) -> None:
    assert of_completed(completed) is code
