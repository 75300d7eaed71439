"""How many real texts a second the official rules grade on one core: pytest -n 0 -m full -s tests/benchmarks."""

import gzip
import json
import time

import pytest

from lema.grading import grade

# The floors, in gradings a second.
FLOORS = {"gsm8k": 50_000, "svamp": 50_000, "math": 50_000, "csqa": 2_000}


@pytest.mark.full
@pytest.mark.parametrize("task", FLOORS)
def test_official_gradings_a_second(task, data_dir):
    with gzip.open(data_dir / "grading/model_outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["task"] == task]
    items = [(row["text"], row["gold"], task, "official", row.get("candidates", ())) for row in rows]
    speeds = []
    for _ in range(5):
        began = time.process_time()  # what one core does, whoever else is on the machine
        for item in items:
            grade(*item)
        speeds.append(len(items) / (time.process_time() - began))
    print(f"\n{task}: {max(speeds):,.0f} official gradings a second ({len(items)} real texts, best of 5)")
    assert max(speeds) >= FLOORS[task]
