"""How fast answers are graded by the symbolic rules, beside math-verify in the same run on the same rows."""

import gzip
import json
import subprocess
import sys
import time

import pytest

from lema.grading import symbolic

pytestmark = pytest.mark.full

PLAIN = [("1,080", "1080"), ("18", "18"), ("3.50", "3.5"), ("-5", "5"), ("$70,000", "70000")]

# Each side starts in a process of its own, so that no cache is warm; importing SymPy is not counted on either side.
OURS = """
from lema.grading import algebra, symbolic
def judge(text, gold):
    found = symbolic.extract(text, "math")
    verdict = found is not None and symbolic.quick(found, gold, "math")
    return symbolic.equivalent(found, gold) if verdict is None else verdict
"""
THEIRS = """
import logging; logging.disable(logging.CRITICAL)
from math_verify import parse, verify
def judge(text, gold):
    return verify(parse(gold), parse(text))
"""
TIMED = """
import json, sys, time
rows = json.load(sys.stdin)
start = time.perf_counter()
right = sum(judge(text, gold) for text, gold in rows)
print(json.dumps([time.perf_counter() - start, right]))
"""


def timed(judge, rows):
    done = subprocess.run(
        [sys.executable, "-c", judge + TIMED], input=json.dumps(rows), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_plain_numbers_take_a_twenty_thousandth_of_a_second():
    start = time.perf_counter()
    for _ in range(4000):
        for found, gold in PLAIN:
            symbolic.quick(found, gold, "gsm8k")
    assert len(PLAIN) * 4000 / (time.perf_counter() - start) >= 20_000


def test_real_latex_answers_are_three_times_as_fast_as_math_verify(data_dir):
    pytest.importorskip("math_verify")
    with gzip.open(data_dir / "grading/model_outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [(row["text"], row["gold"]) for row in map(json.loads, lines) if row["task"] == "math"]
    assert len(rows) == 1000
    (ours, right), (theirs, their_right) = timed(OURS, rows), timed(THEIRS, rows)
    print(f"ours {ours:.1f} s ({right} right), math-verify {theirs:.1f} s ({their_right} right): {theirs / ours:.1f}x")
    assert theirs / ours >= 3
