"""A million recorded solutions: sampled, graded, deduplicated and corrected in a stream.

pytest -n 0 -m full -s tests/benchmarks/test_recorded_scale.py
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from questions import QUESTIONS, solutions
from small import ROOT


def run(folder: Path, number: int) -> tuple[float, float, dict]:
    """Processor seconds, the most memory in MB, and what was counted."""
    file = folder / f"{number}.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in solutions(number))
    runs = folder / f"runs-{number}"
    command = [sys.executable, str(ROOT / "run.py"), "sampler=recorded", f"sampler.file={file}"]
    command += ["until=correct", f"task.num_train={QUESTIONS}", "task.num_test=10", f"runs_dir={runs}", "tracker=none"]
    command += ["backbone.tiny.steps=1", "backbone.tiny.corpus_size=50"]
    subprocess.run([*command, "until=base"], check=True, stdout=subprocess.DEVNULL)  # the same for both
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    seconds = used.ru_utime + used.ru_stime
    [record] = runs.glob("correct/*/record.json")
    wall, memory = time.monotonic() - start, used.ru_maxrss / 1024
    print(f"{number:,} solutions: {seconds:.0f} s of processor, {wall:.0f} s in all, {memory:.0f} MB")
    return seconds, memory, json.loads(record.read_text())["summary"]


@pytest.mark.full
def test_a_million_solutions_take_ten_times_as_long_as_a_tenth_of_them_and_little_memory(tmp_path: Path) -> None:
    tenth, _, _ = run(tmp_path, 100_000)
    whole, memory, counts = run(tmp_path, 1_000_000)
    print(f"ratio {whole / tenth:.2f}; {counts['corrections']:,} corrections, {counts['accepted']:,} accepted")
    assert whole <= 11 * tenth
    assert memory < 1500
    assert counts["corrections"] > 500_000
