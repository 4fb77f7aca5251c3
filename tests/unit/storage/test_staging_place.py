"""What a staging folder lies on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.storage.staging_place import StagingPlace, staging_place

MOUNTS = """\
22 1 252:1 / / rw,relatime - ext4 /dev/vda rw
23 22 0:20 / /run rw,nosuid - tmpfs tmpfs rw,size=800k,mode=755
24 23 0:21 / /run/huge rw shared:5 - tmpfs tmpfs rw,size=800k,huge=within_size
25 23 0:22 / /run/all rw - tmpfs tmpfs rw,huge=always,size=8k
26 23 0:23 / /run/asked rw - tmpfs tmpfs rw,huge=advise
27 23 0:24 / /run/a\\040space rw - ramfs none rw
28 23 0:25 / /run/twice rw - tmpfs tmpfs rw
29 28 0:26 / /run/twice rw - tmpfs tmpfs rw,huge=always
"""
USUAL = "always within_size advise [never] deny force\n"


@pytest.mark.parametrize(
    ("folder", "policy", "place"),
    [
        ("/run/gpusnap/staging", USUAL, StagingPlace("tmpfs", False, True)),
        ("/run/huge", USUAL, StagingPlace("tmpfs", True, True)),
        ("/run/huge/staging", USUAL, StagingPlace("tmpfs", True, True)),
        ("/run/huge-not/staging", USUAL, StagingPlace("tmpfs", False, True)),
        ("/run/all", USUAL, StagingPlace("tmpfs", True, True)),
        ("/run/asked", USUAL, StagingPlace("tmpfs", False, True)),
        ("/run/twice/x", USUAL, StagingPlace("tmpfs", True, True)),
        ("/run/a space/x", USUAL, StagingPlace("ramfs", False, True)),
        ("/var/staging", USUAL, StagingPlace("ext4", False, True)),
        ("/run/huge", USUAL.replace("[never] deny", "never [deny]"), StagingPlace("tmpfs", False, False)),
        ("/run", USUAL.replace("[never] deny force", "never deny [force]"), StagingPlace("tmpfs", True, True)),
        ("/var", USUAL.replace("[never] deny force", "never deny [force]"), StagingPlace("ext4", False, True)),
        ("/run/huge", "", StagingPlace("tmpfs", False, False)),
    ],
)
def test_what_a_folder_lies_on(tmp_path: Path, folder: str, policy: str, place: StagingPlace) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    if policy:
        (tmp_path / "policy").write_text(policy)
    assert staging_place(folder, tmp_path / "mounts", tmp_path / "policy") == place


def test_advice_is_given_only_where_it_helps() -> None:
    assert StagingPlace("tmpfs", True, True).text == "tmpfs with huge pages"
    assert StagingPlace("tmpfs", False, False).text == "tmpfs without huge pages"
    assert "huge=within_size" in StagingPlace("tmpfs", False, True).text
    assert StagingPlace("ext4", False, True).text == "ext4; a folder on tmpfs costs s5cmd less"
    assert StagingPlace("", False, True).text.startswith("unknown file system; ")


@pytest.fixture
def huge_folder(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with huge pages, where the machine lets one be mounted."""
    folder = tmp_path / "huge"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "huge=within_size,size=16M", "gpusnap-test", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs with huge pages: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_this_machine_s_mounts_are_understood(huge_folder: Path) -> None:
    os.symlink(huge_folder, huge_folder.with_name("link"))
    place = staging_place(f"{huge_folder.with_name('link')}/staging/not-made-yet")
    assert place.file_system == "tmpfs"
    assert place.has_huge_pages is place.can_have_huge_pages


def test_kernels_that_tell_nothing(tmp_path: Path) -> None:
    assert staging_place("/run", tmp_path / "none", tmp_path / "none") == StagingPlace("", False, False)
