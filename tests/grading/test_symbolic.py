"""The symbolic rules: the answers they find in real texts, and what a careful reader says of pairs of answers."""

import doctest
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tables import tab_separated, table

from lema.grading import algebra, extraction, notation, symbolic
from lema.grading.official import last_box

HERE = Path(__file__).parent


PAIRS = tab_separated(HERE / "symbolic_pairs.tsv")


def verdict(found, gold, task="math"):
    """Right or wrong, by the fast rules and then SymPy's: what the workers do, in this process."""
    if found is None:
        return False
    decided = symbolic.quick(found, gold, task)
    return symbolic.equivalent(found, gold) if decided is None else decided


@pytest.fixture(scope="module")
def latex_golds(data_dir):
    lines = (data_dir / "math/test.jsonl").read_text(encoding="utf-8").splitlines()
    boxes = [re.sub(r"\\boxed +(\w+)", r"\\boxed{\1}", json.loads(line)["solution"]) for line in lines]
    return [last_box(text.replace("\\fbox{", "\\boxed{")) for text in boxes]


@pytest.mark.parametrize(("truth", "prediction", "gold"), PAIRS, ids=[f"{pair[1]} is {pair[2]}" for pair in PAIRS])
def test_a_pair_is_judged_as_a_careful_reader_judges_it(truth, prediction, gold):
    assert verdict(prediction, gold) == {"yes": True, "no": False}[truth]


def test_the_table_of_pairs_has_both_truths_in_number():
    assert len(PAIRS) >= 300
    assert min(sum(pair[0] == truth for pair in PAIRS) for truth in ("yes", "no")) >= 100


def test_fast_and_slow_rules_never_disagree():
    for _, prediction, gold in PAIRS:
        decided = symbolic.quick(prediction, gold, "math")
        assert decided is None or decided == symbolic.equivalent(prediction, gold), (prediction, gold)


@pytest.mark.parametrize("module", [extraction, notation, symbolic, algebra], ids=lambda module: module.__name__)
def test_the_documented_instances_hold(module):
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted


@pytest.mark.parametrize(("text", "task", "answer"), table(__file__, "the last answer is found in any usual form"))
def test_the_last_answer_is_found_in_any_usual_form(text, task, answer):
    assert symbolic.extract(text, task) == answer


@pytest.mark.parametrize(("text", "answer"), table(__file__, "a candidate is named by its text or by its letter"))
def test_a_candidate_is_named_by_its_text_or_by_its_letter(text, answer):
    candidates = ["bank", "river bank", "city"]
    assert symbolic.extract(text, "csqa", candidates) == answer
    if answer:
        assert symbolic.quick(answer, answer.title(), "csqa") is True
        assert symbolic.quick(answer, "mall", "csqa") is False


def test_every_gold_answer_is_right_against_itself(latex_golds, data_dir):
    rows = map(json.loads, (data_dir / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines())
    numbers = [row["answer"].split("####")[1].strip() for row in rows]
    assert len(latex_golds) == 5000
    assert len(numbers) == 1319
    assert [gold for gold in latex_golds if symbolic.quick(gold, gold, "math") is not True] == []
    assert [gold for gold in numbers if symbolic.quick(gold, gold, "gsm8k") is not True] == []


def test_a_thousands_separator_is_optional(latex_golds):
    separated = [gold for gold in latex_golds if re.search(r"\d *(?:, *\\!|\{,\}) *\d{3}|^\\?\$?\d+,\d{3}$", gold)]
    assert len(separated) >= 50
    for gold in separated:
        assert symbolic.quick(re.sub(r", *\\! *|\{,\}|,", "", gold), gold, "math") is True, gold


def test_boxed_answers_of_a_chat_model_are_found(outputs):
    boxed = [row for row in outputs if row["source"] == "gpt-3.5-turbo-re2" and row["task"] == "gsm8k"]
    boxed = [row for row in boxed if re.search(r"\\boxed\{[^{}]*\d[^{}]*\}[^0-9]*$", row["text"])]
    assert len(boxed) > 500
    for row in boxed:
        box = re.findall(r"\\boxed\{([^{}]*)\}", row["text"])[-1]
        found = symbolic.extract(row["text"], "gsm8k")
        assert found
        assert found in box.replace("\\$", "").replace("$", ""), row["id"]


def test_each_disagreement_with_a_published_verdict_is_known_and_explained(outputs):
    known = {(row[0], row[1]): (row[2], row[3] or None) for row in tab_separated(HERE / "source_disagreements.tsv")}
    differing = {}
    for row in outputs:
        if row.get("source_correct") is None:
            continue
        found = symbolic.extract(row["text"], row["task"], row.get("candidates", ()))
        right = verdict(found, row["gold"], row["task"])
        if right != row["source_correct"]:
            differing[row["source"], row["id"]] = ("right" if right else "wrong", found)
    assert differing == known


HOSTILE = {
    "brackets": "(" * 999,
    "nested tuples": "(1," * 300,
    "nested fractions": "\\frac{1}{" * 10_000,
    "braces": "{" * 10_000,
    "boxes": "\\boxed{" * 20_000,
    "digits": "1" * 1_000_000,
    "digits and a letter": "1" * 1_000_000 + "x",
    "a list": "1," * 500,
    "newlines": "\n" * 1_000_000,
    "phrases": "The answer is " * 20_000,
    "answers": "answer " * 100_000,
    "open formulas": "The answer is " + "\\(" * 20_000,
    "dollars": "$" * 100_000,
    "signs": "\\pm1" * 240,
    "equations": "a=b," * 240,
    "units": "5 " + "ab " * 330 + "7",
    "NUL": "\0" * 1000,
    "a lone surrogate": "The answer is \ud800.",
    "right to left": "The answer is \u202e5\u202c.",
    "power tower": "9^{9^{9^{9}}}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_extraction_and_the_fast_rules_are_quick_on_any_input(text):
    start = time.perf_counter()
    for task in ("math", "gsm8k", "csqa"):
        symbolic.extract(text, task, ["bank", "city"])
        symbolic.quick(text, "5", task)
        symbolic.quick(text, text[:900], task)
    assert time.perf_counter() - start < 3


def test_what_a_model_wrote_is_never_run():
    code = """
import sys
from lema.grading import symbolic
symbolic.equivalent("x", "y+x")
seen = []
def hook(event, arguments):
    if event in ("compile", "exec", "import", "open") and "pwned" in repr(arguments):
        seen.append(event)
sys.addaudithook(hook)
for text in ("__import__('pwned')", "pwned(1)", "exec('pwned')", "{pwned}", "%(pwned)s", "pwned.x", "1 if pwned else 2",
             r"\\\\text{pwned}+1", "/pwned", "lambda: pwned", r"\\\\operatorname{pwned}(1)", "pwned+1", "p*w*n*e*d"):
    for task in ("math", "gsm8k"):
        found = symbolic.extract("The answer is " + text, task) or text
        symbolic.quick(found, "x+pwned", task)
        symbolic.equivalent(found, "x+pwned")
assert not seen, seen
"""
    subprocess.run([sys.executable, "-c", code.replace("\\\\\\\\", "\\\\")], check=True, timeout=60)


def test_importing_the_rules_leaves_sympy_alone():
    code = "import sys; import lema.grading.symbolic; assert not {'sympy', 'math_verify'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
