"""Marks on entries of a manifest."""

from __future__ import annotations

from agent.repository.manifest_reader import Location
from agent.restore.marks import Marks


def test_marks_of_sections() -> None:
    marks = Marks([3, 0, 2])
    for section, position in ((0, 0), (0, 2), (2, 1)):
        marks.add(section, position)
    assert [marks.of_section(number) for number in range(3)] == [[0, 2], [], [1]]


def test_a_run_is_unmarked_across_sections() -> None:
    marks = Marks([3, 0, 2])
    for section, position in ((0, 1), (0, 2), (2, 0), (2, 1)):
        marks.add(section, position)
    marks.discard(Location(0, 1), [1, 2])
    assert [marks.of_section(number) for number in range(3)] == [[1], [], [1]]


def test_a_run_that_begins_in_a_later_section_is_unmarked() -> None:
    marks = Marks([2, 3])
    for section, position in ((0, 1), (1, 1), (1, 2)):
        marks.add(section, position)
    marks.discard(Location(1, 0), [1])
    assert [marks.of_section(number) for number in range(2)] == [[1], [2]]
