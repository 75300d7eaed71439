"""A file of lines from which an attempt goes on: a line is whole or not there, whatever was done to the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from lema.artifacts import lines
from lema.artifacts.lines import Lines

VALUES: list[Any] = [[0, "The answer is 7.", "stop", 6], [1, "two\nlines ☃\u2028", "length", 3], [2, "", "stop", 1]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with Lines(tmp_path / "sample.jsonl") as kept:
        kept.add(*VALUES)
    return kept.path


def test_what_was_added_is_read_again_and_more_is_added(file: Path) -> None:
    assert list(Lines(file)) == VALUES
    with Lines(file) as kept:
        kept.add([3])
        kept.add()
        kept.add([4])
    assert list(Lines(file)) == [*VALUES, [3], [4]]
    assert not list(Lines(file.with_name("another.jsonl")))


def test_a_file_that_ends_at_any_byte_has_the_lines_before_and_can_be_added_to(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        found = list(Lines(file))
        assert found == VALUES[: len(found)]
        with Lines(file) as kept:
            kept.add(["next"])
        assert list(Lines(file)) == [*found, ["next"]]


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("7.", "8."), lambda text: text.replace('"stop", 6', '"length", 6')]
)
def test_a_line_that_was_changed_is_not_there_and_said(file: Path, change: Any, caplog) -> None:
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    assert list(Lines(file)) == VALUES[1:]
    assert "1 lines are damaged, and made again" in caplog.text


def test_lines_of_another_file_are_not_taken(file: Path) -> None:
    assert not list(Lines(file.rename(file.with_name("select.jsonl"))))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"7", json.dumps([[1], 2]).encode(), b"[" * 10**5])
def test_what_is_no_line_of_ours_is_not_taken(file: Path, content: bytes) -> None:
    file.write_bytes(content + file.read_bytes())
    assert list(Lines(file)) == VALUES


def test_what_waits_is_written_after_some_seconds_and_when_it_ends_in_an_error(tmp_path: Path, monkeypatch) -> None:
    kept = Lines(tmp_path / "sample.jsonl")

    def add(value: int, seconds: float) -> list[Any]:
        monkeypatch.setattr(lines, "SECONDS", seconds)
        kept.add([value])
        return list(Lines(kept.path))

    def work() -> None:
        with kept:
            assert add(0, 60.0) == [[0]], "the first at once"
            assert add(1, 60.0) == [[0]]
            assert add(2, 0.0) == [[0], [1], [2]]
            assert add(3, 60.0) == [[0], [1], [2]]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(Lines(kept.path)) == [[0], [1], [2], [3]]
