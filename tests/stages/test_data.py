"""The data of a task that is tested on its own questions: which of them its training data have is counted."""

import json
from pathlib import Path

from small import summary

from lema import pipeline


def test_test_questions_that_are_training_questions_are_counted_as_leakage_is(make_config, tmp_path: Path) -> None:
    asked = ["Tom has 5 apples. How many has he?", "Ann's 1,250 pens cost $3. What do they cost?", "What is 4 + 4?"]
    rows = {
        "gsm8k/train": [{"question": each, "answer": "x\n#### 5"} for each in asked],
        "gsm8k/test": [{"question": "How many?", "answer": "x\n#### 5"}],
        "svamp/test": [
            {"Body": body, "Question": question, "Answer": 5}
            for body, question in (
                ("Tom has 5 apples.", "How many has he?"),
                ("tom has 5  apples", "how many has he ?"),
                ("Ann’s 1250 pens cost 3.", "What do they cost?"),
                ("What is", "4 + 5?"),
            )
        ],
    }
    for name, lines in rows.items():
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    overrides = ["task=svamp", f"task.dataset.path={tmp_path / 'svamp'}", "task.num_dev=0", "only=data", "tracker=none"]
    overrides += [f"task.train_dataset.path={tmp_path / 'gsm8k'}", f"runs_dir={tmp_path / 'runs'}"]
    pipeline.run(make_config(*overrides), overrides)
    [own] = (tmp_path / "runs/data").glob("svamp*")
    assert summary(own) == {"test": 4, "questions_in_training": 3}
