"""Layouts of recorded rows: what a model wrote is read, and a gold text, a prompt or a judge's text never is."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tables import table

from lema.data import leakage, recorded
from lema.types import Problem, UserError

Q = "Ben has 6 jars and buys 5 more. How many jars does he have now?"
T, U, GOLD = "6 + 5 = 12. The answer is 12.", "6 * 5 = 30. The answer is 30.", "Ben has 6+5=<<6+5=11>>11 jars.\n#### 11"
BEN = Problem("gsm8k-train-0", Q, GOLD.partition("\n")[0], "11")
OTHER = Problem("gsm8k-train-1", "Mia eats 2 of 9 figs. How many are left?", "She has 9-2=<<9-2=7>>7.", "7")
TEST = Problem("gsm8k-test-0", "Zoe folds 14 cranes a day for a week and gives 9 away. How many has she?", "", "89")
JUDGE = f"Question: {Q}\nSolution: {U}\nIs the solution right? Answer yes or no."


def read(folder: Path, row: dict[str, Any]) -> list[tuple[str, str | None]] | str:
    """The texts that are read, with their model, or why none is."""
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    tests = leakage.TestQuestions([TEST])
    try:
        found = list(recorded.read(str(folder / "rows.jsonl"), [BEN, OTHER], tests, "key", Counter()))
    except UserError as error:
        return str(error)
    assert {problem.id for problem, _, _ in found} == {BEN.id}
    return [(text, model) for _, text, model in found]


TEXTS = {"Q": Q, "T": T, "U": U, "GOLD": GOLD, "JUDGE": JUDGE}
READ: dict[str, tuple[dict[str, Any], list[str]]] = {
    key: (row, found) for key, row, found in table(__file__, "read", **TEXTS)
}
for _field in (
    "generation generations completion completions response responses output outputs output_text generated_text"
    " generated_solution generated_response model_output model_response model_solution model_completion"
    " model_generation model_answer llm_output llm_response prediction predictions predict pred_solution"
    " predicted_solution resp gen raw_output raw_response full_output full_response assistant_response"
    " deepseek_solution qwen_solution gpt4_solution gpt-4o_response claude_response llama3_8b_output"
    " deepseek_r1_solution qwen2.5_math_7b_instruct_output rollouts samples attempts replies answers content"
    " result text model_text model_reply response_text completion_text text_output generated final_output"
    " student_solution candidate_solution gpt4 pred continuation decoded_output generated_answer"
).split():
    READ[f"solution is gold, {_field}"] = ({"problem": Q, "solution": GOLD, "answer": "11", _field: T}, [T])
    READ[f"a list in {_field}"] = ({"problem": Q, "answer": GOLD, _field: [T, U]}, [T, U])

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    key: (row, found) for key, row, found in table(__file__, "refused", **TEXTS)
}


@pytest.mark.parametrize("name", READ)
def test_what_a_model_wrote_is_read(tmp_path: Path, name: str) -> None:
    row, texts = READ[name]
    model = "Qwen2-7B" if name == "ProcessBench" else None
    assert read(tmp_path, row) == [(text, model) for text in texts]


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_model_certainly_wrote_is_refused(tmp_path: Path, name: str) -> None:
    row, said = REFUSED[name]
    message = read(tmp_path, row)
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        *("Ben  has 6 + 5 = 11 jars.\n\n#### 11", "Ben has $6+5=11$ jars.\n\\boxed{11}"),
        *("ben has 6+5=11 jars.\nTherefore, the final answer is \\boxed{11}.", f"Let's think step by step.\n{GOLD}"),
        *(f"<think>\n\n</think>\nAnswer: {GOLD}<|im_end|>", f"```\n{GOLD}\n```"),
        f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{GOLD}<|im_end|>",
    ],
)
def test_the_reference_solution_is_known_in_any_dress(tmp_path: Path, text: str) -> None:
    assert "the reference solution itself: 1" in read(tmp_path, {"question": Q, "text": text})


@pytest.mark.parametrize("text", ["Ben has 6+5=11 jars, so 11-1=10.\n#### 10", "First: Ben has 6+5=11 jars. #### 11"])
def test_more_than_the_reference_solution_is_a_models(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, {"question": Q, "text": text}) == [(text, None)]


@pytest.mark.parametrize("source", ["gsm8k", "synthetic_math", "GPT-4 generated", "Qwen2.5-7B"])
def test_a_source_is_no_model(tmp_path: Path, source: str) -> None:
    assert read(tmp_path, {"question": Q, "generation": T, "source": source}) == [(T, None)]


@pytest.mark.parametrize("field", ["model", "model_name", "generator", "Model", "model_id"])
def test_a_model_is_named_by_fields_that_name_nothing_else(tmp_path: Path, field: str) -> None:
    assert read(tmp_path, {"question": Q, "generation": T, "source": "gsm8k", field: "m"}) == [(T, "m")]


@pytest.mark.parametrize(
    "field", ["generation", "resps", "steps", "question", "prompt", "messages", "arguments", "doc"]
)
@pytest.mark.parametrize("ends", ["[]", "{}"])
def test_a_value_of_any_depth_is_refused_in_one_line(tmp_path: Path, field: str, ends: str) -> None:
    opens, closes = ("[", "]") if ends == "[]" else ('{"message": ', "}")
    for depth in (50, 300, 450, 900):
        value = f"{opens * depth}3{closes * depth}"
        row = {"question": Q} if field in ("generation", "resps", "steps", "messages") else {"generation": T}
        (tmp_path / "rows.jsonl").write_text(f'{json.dumps(row)[:-1]}, "{field}": {value}}}')
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            list(recorded.read(str(tmp_path / "rows.jsonl"), [BEN], leakage.TestQuestions([TEST]), "key", Counter()))
