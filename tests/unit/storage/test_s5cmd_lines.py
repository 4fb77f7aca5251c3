"""The lines of s5cmd; the samples are what s5cmd 2.3.0 wrote."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import GpusnapError
from agent.storage.failure import FailureKind, to_error
from agent.storage.s5cmd_lines import (
    TEXT_LIMIT,
    Answer,
    Parts,
    Remark,
    classify,
    download_line,
    download_parts,
    parse_line,
    tokens_in,
    upload_line,
)

MIB = 1 << 20
TOKEN = "gpusnap-0123456789abcdef"
PRINTABLE = st.text(st.characters(exclude_categories=["Cc", "Cs"]))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "NoSuchKey: The specified key does not exist. status code: 404, request id: 18E, host id:",
            "object not found",
        ),
        ("NotFound: Not Found status code: 404, request id: 18E, host id:", "object not found"),
        ("NoSuchBucket: The specified bucket does not exist status code: 404, request id: 1", "bucket not found"),
        ("InvalidBucketName: The specified bucket is not valid. status code: 400", "bucket not found"),
        ("MultipartUpload: upload failed caused by: NoSuchBucket: gone status code: 404", "bucket not found"),
        ("AuthorizationHeaderMalformed: the region 'x' is wrong status code: 400", "bucket not found"),
        ("AccessDenied: Access Denied status code: 403, request id: 1", "access denied"),
        ("Forbidden: Forbidden status code: 403, request id: 1", "access denied"),
        ("SomethingNew: no status code: 403, request id: 1", "access denied"),
        ("SignatureDoesNotMatch: The request signature we calculated does not match status code: 403", "access denied"),
        ("InvalidAccessKeyId: The access key ID you provided does not exist status code: 403", "access denied"),
        ("ExpiredToken: The provided token has expired. status code: 400", "access denied"),
        ("NoCredentialProviders: no valid providers in chain. Deprecated.", "access denied"),
        ("SlowDown: Please reduce your request rate. status code: 503, request id: 1", "unavailable"),
        ("InternalError: We encountered an internal error. status code: 500", "unavailable"),
        (
            'RequestError: send request failed caused by: Get "http://h/k": dial tcp: connection refused',
            "unavailable",
        ),
        ("RequestError: send request failed caused by: Put: read: connection reset by peer", "unavailable"),
        ("something that nobody has ever seen", "unavailable"),
        ("write /run/staging/gpusnap-01: no space left on device", "no space"),
        ("open /run/staging/gpusnap-01: permission denied", "local"),
        ("given object /run/staging/gpusnap-01 not found", "local"),
    ],
)
def test_error_texts_are_told_apart(text: str, kind: str) -> None:
    failure = classify(text)
    assert failure.kind is FailureKind(kind)
    error = to_error(failure, "s3://bucket", "chunks/key")
    assert error.retryable is (kind in ("unavailable", "no space"))
    assert "s3://bucket" in error.message
    assert "chunks/key" in error.message


def test_a_success_is_matched() -> None:
    line = (
        f'{{"operation":"cp","success":true,"source":"/run/{TOKEN}","destination":"s3://b/f0",'
        '"object":{"type":"file","size":70000000}}'
    )
    assert parse_line(line.encode()) == Answer((TOKEN,), None)


def test_an_error_is_matched() -> None:
    text = "NoSuchKey: The specified key does not exist. status code: 404, request id: 1, host id:"
    line = json.dumps({"operation": "cp", "command": f"cp s3://b/k /run/{TOKEN}", "error": text})
    answer = parse_line(line.encode())
    assert isinstance(answer, Answer)
    assert answer.tokens == (TOKEN,)
    assert answer.failure is not None
    assert answer.failure.code == "NoSuchKey"


def test_names_in_the_prefix_do_not_hide_the_file() -> None:
    other = "gpusnap-fedcba9876543210"
    line = json.dumps({"operation": "cp", "command": f"cp /run/{other}/{TOKEN} s3://b/{other}/k", "error": "x"})
    answer = parse_line(line.encode())
    assert isinstance(answer, Answer)
    assert TOKEN in answer.tokens


@given(st.binary())
@example(b"")
@example(b"null")
@example(b"[]")
@example(b'{"error": 5}')
@example(b'{"success": true}')
@example(b'{"operation":"run","command":"run","error":"\\"x\\" command (line: 7) not found"}')
@example(b"Incorrect Usage: flag provided but not defined: -badflag")
@example(b'{"a":' + b"[" * 60_000)
@example(b"panic: runtime error\n\ngoroutine 1 [running]:")
@example(b'{"error": "' + b"x" * 5000 + b'", "command": "cp gpusnap-0123456789abcdef"}')
def test_no_line_is_too_strange(line: bytes) -> None:
    answer = parse_line(line)
    if isinstance(answer, Remark):
        assert len(answer.text) <= TEXT_LIMIT
    elif answer.failure:
        assert isinstance(to_error(answer.failure, "s3://b", "k"), GpusnapError)
        assert len(answer.failure.text) <= TEXT_LIMIT


@given(st.text())
def test_no_error_text_is_too_strange(text: str) -> None:
    line = json.dumps({"operation": "cp", "command": f"cp {TOKEN} s3://b/k", "error": text}).encode()
    answer = parse_line(line)
    if text:
        assert isinstance(answer, Answer)
        assert answer.failure is not None
        assert isinstance(to_error(answer.failure, "s3://b", "k"), GpusnapError)
    else:
        assert isinstance(answer, Remark)


@given(PRINTABLE, PRINTABLE, st.sampled_from(["", "us-east-1"]))
def test_commands_are_one_line_that_a_shell_would_read_back(folder: str, key: str, region: str) -> None:
    path, url = f"/{folder}/{TOKEN}", f"s3://bucket/{key}"
    up, down = upload_line(path, url, region), download_line(url, path, region, Parts(3, 9))
    for line, wanted in ((up, [path, url]), (down, [url, path])):
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        words = shlex.split(line.decode())
        assert words[:2] == ["cp", "--raw"]
        assert words[-2:] == wanted
        assert (region in words) is bool(region)
    assert b" --concurrency 3 --part-size 9 " in down
    assert TOKEN in tokens_in(up.decode())


@pytest.mark.parametrize(
    ("size", "room", "connections", "parts"),
    [
        (64 * MIB + 95, 384 * MIB, 64, Parts(8, 9)),  # weights, which LZ4 makes a little larger
        (64 * MIB, 384 * MIB, 64, Parts(8, 8)),
        (64 * MIB, 192 * MIB, 32, Parts(8, 8)),  # half of all, while `auto` compares
        (24 * MIB, 384 * MIB, 64, Parts(3, 8)),
        (24 * MIB - 1, 384 * MIB, 64, Parts(1, 24)),
        (1, 384 * MIB, 64, Parts(1, 8)),
        (0, 384 * MIB, 64, Parts(1, 8)),
        (64 * MIB, 1024 * MIB, 64, Parts(4, 16)),
        (64 * MIB, 4096 * MIB, 64, Parts(1, 64)),
        (64 * MIB, 384 * MIB, 16, Parts(1, 64)),
        (64 * MIB, 160 * MIB, 1, Parts(1, 64)),
        (64 * MIB, 384 * MIB, 1024, Parts(8, 8)),
        (1024 * MIB, 32 * MIB, 4, Parts(4, 256)),
    ],
)
def test_an_object_comes_in_as_few_parts_as_keep_all_connections_busy(
    size: int, room: int, connections: int, parts: Parts
) -> None:
    assert download_parts(size, room, connections) == parts
