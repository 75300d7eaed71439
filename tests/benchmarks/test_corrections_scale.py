"""20,000 corrections in a bad hour, through the whole stage: each is accepted, or rejected with its reason.

pytest -n 0 -m full -s tests/benchmarks/test_corrections_scale.py
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asking_load import BAD_HOUR, stats
from questions import solutions
from small import ROOT

from lema.data.arithmetic import make_problems


@pytest.mark.full
def test_20000_corrections_end_accepted_or_with_a_reason(tmp_path: Path) -> None:
    file, problems = tmp_path / "recorded.jsonl", tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in solutions(24_000)))
    problems.write_text("".join(json.dumps(vars(each)) + "\n" for each in make_problems(0, 5_000, 10)[0]))
    command = [
        *(sys.executable, str(ROOT / "tests/doubles/openai_server.py"), str(problems), "--latency", "0.5", "--spread"),
        "0.5",
    ]
    with subprocess.Popen([*command, "--faults", json.dumps(BAD_HOUR)], stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().rpartition("=")[2].strip() if server.stdout else ""
        environment = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "test", "NO_PROXY": "127.0.0.1"}
        run = [sys.executable, str(ROOT / "run.py"), "sampler=recorded", f"sampler.file={file}"]
        run += ["task.num_train=5000", "task.num_test=10", f"runs_dir={tmp_path / 'runs'}", "tracker=none"]
        run += ["backbone.tiny.steps=1", "backbone.tiny.corpus_size=50", "until=correct"]
        try:
            subprocess.run([*run, "until=base"], check=True, env=environment, stdout=subprocess.DEVNULL)
            subprocess.run([*run, "until=sample"], check=True, env=environment, stdout=subprocess.DEVNULL)
            start, log = time.monotonic(), (tmp_path / "log").open("w")
            paid = [*run, "corrector=gpt4", "corrector.max_concurrent_requests=256", "budget_usd=1000"]
            process = subprocess.Popen(paid, env=environment, stdout=log)
            _, status, used = os.wait4(process.pid, 0)
            seconds, bill = time.monotonic() - start, stats(url)
        finally:
            server.kill()
    print((tmp_path / "log").read_text())
    assert status == 0
    [record] = (tmp_path / "runs").glob("correct/*/record.json")
    counts = json.loads(record.read_text())["summary"]
    print(f"{seconds:.0f} s in all, {used.ru_maxrss / 1024:.0f} MB; {bill}")
    assert counts["corrections"] >= 20_000
    assert counts["accepted"] + sum(counts["rejected"].values()) == counts["corrections"]
    assert set(counts["rejected"]) <= {"empty", "refusal", "cut off by length"}
    assert bill["arrived_twice"] == 0
    assert bill["usd"] <= counts["usd"] + 1e-9
    assert used.ru_maxrss / 1024 < 500
