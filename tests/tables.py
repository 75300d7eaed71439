"""Long tables of plain values stand beside their tests: `test_x.rows` beside `test_x.py`."""

import json
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

import pytest


def table(test: str, name: str, **texts: str) -> list[Any]:
    """The rows below the line `# name` of `test`'s file of rows, each in JSON; a `$T` in them is `texts["T"]`.

    A row of several values is a tuple.
    """
    lines = Path(test).with_suffix(".rows").read_text(encoding="utf-8").split("\n")
    start = lines.index(f"# {name}") + 1
    end = next((at for at in range(start, len(lines)) if lines[at].startswith("# ")), len(lines))
    quoted = {key: json.dumps(text)[1:-1] for key, text in texts.items()}
    rows = (Template(line).safe_substitute(quoted) if texts else line for line in lines[start:end])
    found = (json.loads(row) for row in rows if row)
    return [tuple(each) if isinstance(each, list) else each for each in found]


def tab_separated(file: Path) -> list[list[str]]:
    """The rows of a file whose cells stand between tabs; a line that begins with `# ` is a comment, ⏎ a new line."""
    lines = (line for line in file.read_text(encoding="utf-8").split("\n") if line and not line.startswith("# "))
    return [line.replace("⏎", "\n").split("\t") for line in lines]


def some(cases: Iterable[Any], every: int, *marks: pytest.MarkDecorator) -> list[Any]:
    """Every so manieth case with these marks, beginning with the first; the others wait for the full run."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), marks=[pytest.mark.full] if number % every else marks
        )
        for number, case in enumerate(cases)
    ]
