"""The report of a whole grid: 5 backbones x 2 tasks x 3 arms x 5 seeds with the real problem counts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated import run

PROBLEMS = {"gsm8k": 1319, "math": 5000}
BACKBONES = [("llama2", "7b"), ("codellama", "34b"), ("mistral", "7b"), ("wizardmath", "7b"), ("metamath", "13b")]
ARMS = {"cot": 0.0, "cot_matched": 0.05, "lema": 0.12}  # logits
SEEDS = (1, 2, 3, 4, 5)
STEPS = 2000  # of training: the paper's
CODE = """
import resource, sys, time
from pathlib import Path
from lema.reporting import report
start = time.monotonic()
report.write_report(Path(sys.argv[1]))
print("seconds", time.monotonic() - start, "kilobytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def grid(root: Path) -> None:
    """Answers by a logistic model: a problem's difficulty, an arm's gain, and a shift of each training."""
    rng = np.random.default_rng(0)
    levels = [f"Level {number}" for number in (1, 2, 3, 4, 5)]
    for task, problems in PROBLEMS.items():
        difficulty = rng.normal(0.2 if task == "gsm8k" else -1.8, 1.5, problems)
        if task == "math":
            difficulty -= 0.6 * (np.arange(problems) % 5 - 2)
        for skill, (name, size) in enumerate(BACKBONES):
            first = None
            for arm, gain in ARMS.items():
                for seed in SEEDS:
                    shift = difficulty + 0.4 * skill + gain + rng.normal(0, 0.1)
                    right = rng.random(problems) < 1 / (1 + np.exp(-shift))
                    facts = {"name": task, "real": True, "grader": task}
                    place = {"task": facts, "backbone": {"name": name, "size": size}, "setting": f"{task} {name}"}
                    place |= {"levels": levels if task == "math" else None, "curve": STEPS, "like": first}
                    place["untuned"] = rng.random(problems) < 0.15
                    made = run(root, arm, seed, right, **place)
                    first = first or made


@pytest.mark.slow
def test_a_whole_grid_is_reported_in_seconds(tmp_path: Path) -> None:
    grid(tmp_path)
    ran = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    measured = re.search(r"seconds ([\d.]+) kilobytes (\d+)", ran.stdout)
    assert measured
    seconds, gigabytes = float(measured[1]), int(measured[2]) / 1e6
    print(f"\n150 runs reported in {seconds:.1f} s and {gigabytes:.2f} GB")
    assert seconds < 30
    assert gigabytes < 2
    found = json.loads((tmp_path / "reports" / "all" / "report.json").read_text())
    assert len(found["arms"]) == 5 * 2 * 4
    assert len(found["differences"]) == 5 * 2 * 2
    assert len(list((tmp_path / "reports" / "all").glob("*.png"))) == 7
