"""What the report says of the mistakes that models make, where runs were asked about them."""

from pathlib import Path
from typing import Any

import pytest
from simulated import made, published, record, tiny


def learnt(wrong: dict[str, int], right: int, same: int) -> dict[str, Any]:
    """Of 100 dev questions and 50 corrected ones."""
    corrected = {"questions": 50, "right": right, "same": same, "another": 50 - right - same}
    return {"dev": {"questions": 100, "wrong": sum(wrong.values()), "kinds": wrong}, "corrected": corrected}


def asked(root: Path, mix: str, seed: int, *told: dict[str, Any]) -> Path:
    """A run, and what was learnt by it, and what its untuned backbone knew."""
    folder = tiny(root, mix, seed, 150)
    selected = {"select": made(folder / "select")}
    for step, facts, inputs in zip(("learnt", "learnt_untuned"), told, (selected, {}), strict=False):
        (folder / step).mkdir()
        record(folder / step, "evaluate", facts, inputs)
    return folder


def test_kinds_and_corrected_mistakes_are_means_over_seeds(tmp_path: Path) -> None:
    base = learnt({"wrong result": 40, "missing step": 8}, 1, 45)
    asked(tmp_path, "lema", 1, learnt({"wrong result": 16, "extra step": 2}, 40, 4), base)
    last = asked(tmp_path, "lema", 2, learnt({"wrong result": 20}, 30, 10), base)
    asked(tmp_path, "cot", 1, learnt({"wrong result": 30, "missing step": 3}, 20, 25), base)
    asked(tmp_path, "cot_random", 1)
    text, numbers = published(tmp_path)
    section = text.partition("## arithmetic: what was learnt")[2].partition("\n## ")[0]
    head, _, *lines = [line for line in section.splitlines() if line.startswith("|")]
    assert head == (
        "| backbone | arm | seeds | dev wrong, % | wrong result | missing step | extra step | corrected questions | "
        "right now, % | same mistake, % | another, % |"
    )
    assert lines == [
        "| tiny | untuned | – | 48.0 | 40.0 | 8.0 | 0.0 | 50 | 2.0 | 90.0 | 8.0 |",
        "| tiny | cot | 1 | 33.0 | 30.0 | 3.0 | 0.0 | 50 | 40.0 | 50.0 | 10.0 |",
        "| tiny | lema | 2 | 19.0 | 18.0 | 0.0 | 1.0 | 50 | 70.0 | 14.0 | 16.0 |",
    ]
    found = {row["arm"]: row for row in numbers["learnt"]}
    assert found.keys() == {"untuned", "cot", "lema"}
    assert found["lema"]["kinds"] == pytest.approx({"wrong result": 0.18, "extra step": 0.01})
    # What an earlier model had learnt is not told of this one, whose score counts as before.
    record(last / "learnt", "evaluate", learnt({}, 50, 0), {"select": "of an earlier training"})
    text, _ = published(tmp_path)
    assert "| tiny | lema | 1 | 18.0 | 16.0 | 0.0 | 2.0 | 50 | 80.0 | 8.0 | 12.0 |" in text
    assert "Not compared" not in text


def test_without_it_the_report_says_nothing_of_it(tmp_path: Path) -> None:
    asked(tmp_path, "lema", 1)
    text, numbers = published(tmp_path)
    assert "learnt" not in text
    assert "learnt" not in numbers
