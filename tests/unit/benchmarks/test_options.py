"""The options of the benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.options import ENGINES, TOOLS, read_options
from tests.benchmarks.stores import StoreKind
from tests.benchmarks.workspace import Size


def test_by_default_everything_is_measured(tmp_path: Path) -> None:
    options = read_options(["--cache", str(tmp_path)])
    assert (options.tools, options.all_tools, options.engines) == (TOOLS, True, ENGINES)
    assert options.engines[0] == "auto", "what users have"
    assert options.stores == (StoreKind.SEAWEED, StoreKind.NGINX)
    assert (options.size, options.rounds, options.small_files, options.cores) == (Size.FULL, 3, True, ())
    assert (options.folder, options.json, options.workspace) == (tmp_path, None, None)
    assert options.link.is_unlimited
    assert not read_options(["--size", "quick"]).small_files


@pytest.mark.parametrize(
    ("given", "ways"),
    [
        ([], (False, True)),
        (["--tls"], (True,)),
        (["--tls", "on"], (True,)),
        (["--tls", "off"], (False,)),
        (["--tls", "both"], (False, True)),
    ],
)
def test_http_and_https(given: list[str], ways: tuple[bool, ...]) -> None:
    assert read_options(given).tls == ways


def test_cores_are_numbers_in_order() -> None:
    assert read_options(["--cores", "16,2,2"]).cores == (2, 16)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--cores", "2,many"], "'2,many' is no list of numbers of cores"),
        (["--cores", "0"], "'0' is no list"),
        (["--tools", "gpusnap,borg"], "'borg' is none of gpusnap, restic"),
        (["--store", "minio"], "'minio' is none of"),
        (["--rounds", "0"], "'0' is not a number of rounds"),
        (["--bandwidth", "-1"], "'-1' is no bandwidth"),
        (["--tls", "maybe"], "invalid choice"),
        (["--workspace", "/nowhere"], "/nowhere: not a directory"),
    ],
)
def test_what_makes_no_sense_is_refused(given: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(given)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
