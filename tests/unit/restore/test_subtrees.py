"""Which directories a pack holds whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.repository.model import Entry, EntryType, order
from agent.restore.subtrees import MAX_HEIGHT, whole_trees
from tests.support.forging import directory, file


def run_of(*paths: str) -> list[Entry]:
    """Directories end with a slash."""
    return [directory(path[:-1].encode()) if path.endswith("/") else file(path.encode()) for path in paths]


def tops(run: list[Entry]) -> list[bytes]:
    return [run[tree.start].path for tree in whole_trees(run)]


def test_the_largest_trees_that_end_within_the_run() -> None:
    run = run_of("a", "b/", "b/c/", "b/c/x", "b/d", "e/", "f")
    assert whole_trees(run) == [range(1, 5), range(5, 6)]


def test_the_directories_of_the_last_entry_may_go_on_behind_the_run() -> None:
    assert tops(run_of("a/", "a/b/", "a/b/x", "a/c/", "a/c/x")) == [b"a/b"]


def test_a_run_that_begins_within_a_directory() -> None:
    assert tops(run_of("a/x", "a/y/", "a/y/z", "b")) == [b"a/y"]


def test_names_that_begin_alike_are_not_below_each_other() -> None:
    assert whole_trees(run_of("a/", "a/x", "ab", "b")) == [range(2)]


def test_the_workspace_itself_is_never_one() -> None:
    assert tops([directory(b""), *run_of("a/", "b")]) == [b"a"]


def test_trees_that_are_too_high_are_taken_apart() -> None:
    levels = MAX_HEIGHT + 3
    run = [directory(b"/".join([b"d"] * depth)) for depth in range(1, levels + 1)]
    assert whole_trees([*run, file(b"x")]) == [range(3, levels)]


def test_the_deepest_path_tells_how_high_a_tree_is() -> None:
    deep = [directory(b"/".join([b"d"] * depth)) for depth in range(1, MAX_HEIGHT + 2)]
    assert tops([*deep, directory(b"d/e"), file(b"x")]) == [b"d/d", b"d/e"]


@given(st.lists(st.lists(st.sampled_from([b"a", b"b", b"ab"]), min_size=1, max_size=5).map(b"/".join)), st.data())
def test_trees_are_whole_and_nothing_larger_is(paths: list[bytes], data: st.DataObject) -> None:
    folders = {path[:end] for path in paths for end in range(len(path)) if path[end : end + 1] == b"/"}
    archive = [directory(path) if path in folders else file(path) for path in sorted(folders | set(paths), key=order)]
    start = data.draw(st.integers(0, len(archive)))
    run = archive[start : data.draw(st.integers(start, len(archive)))]

    trees = whole_trees(run)

    inside = {place for tree in trees for place in tree}
    assert len(inside) == sum(map(len, trees)), "no entry is in two"
    for tree in trees:
        below = [entry for entry in archive if entry.path.startswith(run[tree.start].path + b"/")]
        assert run[tree.start].type is EntryType.DIRECTORY
        assert [run[place] for place in tree[1:]] == below
    for place, entry in enumerate(run):
        is_last = run[-1].path == entry.path or run[-1].path.startswith(entry.path + b"/")
        if entry.type is EntryType.DIRECTORY and not is_last:
            assert place in inside
