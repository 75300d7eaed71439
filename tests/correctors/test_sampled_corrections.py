"""The reference corrector on the tiny backbone's own mistakes: real wrong solutions, not injected ones."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lema import pipeline
from lema.config import Config
from lema.prompts.formats import split_steps

SUM = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


@pytest.mark.full
def test_a_thousand_sampled_mistakes_are_corrected_step_by_step(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    overrides = ["task.num_train=2700", "until=correct", "tracker=none", f"runs_dir={tmp_path}"]
    pipeline.run(make_config(*overrides), overrides)
    [wrong_file], [corrections_file] = (
        tmp_path.glob("sample/*/wrong.jsonl"),
        tmp_path.glob("correct/*/corrections.jsonl"),
    )
    wrong = {(row["problem_id"], row["sample"]): row["text"] for row in map(json.loads, wrong_file.open())}
    corrections = [json.loads(line) for line in corrections_file.open()]
    assert len(corrections) >= 1000
    for row in corrections:
        kept = row["wrong_steps"][: row["incorrect_step"] - 1]
        assert kept == split_steps(wrong[row["problem_id"], row["sample"]])[: len(kept)]
        for left, operator, right, result in SUM.findall(" ".join(row["correct_steps"])):
            assert int(result) == (int(left) + int(right) if operator == "+" else int(left) - int(right)), row
        assert row["accepted"], row
