"""Layouts of recorded rows: what a model wrote is read, and a gold text, a prompt or a judge's text never is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lema.data import leakage, recorded
from lema.types import Problem, UserError

Q = "Ben has 6 jars and buys 5 more. How many jars does he have now?"
T, U, GOLD = "6 + 5 = 12. The answer is 12.", "6 * 5 = 30. The answer is 30.", "Ben has 6+5=<<6+5=11>>11 jars.\n#### 11"
BEN = Problem("gsm8k-train-0", Q, GOLD.partition("\n")[0], "11")
OTHER = Problem("gsm8k-train-1", "Mia eats 2 of 9 figs. How many are left?", "She has 9-2=<<9-2=7>>7.", "7")
TEST = Problem("gsm8k-test-0", "Zoe folds 14 cranes a day for a week and gives 9 away. How many has she?", "", "89")
USER, TOLD = {"role": "user", "content": Q}, {"role": "assistant", "content": T}
HUMAN, GPT = {"from": "human", "value": Q}, {"from": "gpt", "value": T}
SYSTEM = {"role": "system", "content": "You are a helpful tutor."}
PART = {"type": "text", "text": T}
BODY = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": TOLD}], "usage": {"t": 9}}
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


READ: dict[str, tuple[dict[str, Any], list[str]]] = {
    # lm-evaluation-harness, --log_samples
    "lm-eval": (
        {
            "doc_id": 0,
            "doc": {"question": Q, "answer": GOLD},
            "target": GOLD,
            "resps": [[T]],
            "arguments": {"gen_args_0": {"arg_0": f"Question: {Q}\nAnswer:", "arg_1": {"until": ["\n"]}}},
            "filtered_resps": ["12"],
            "filter": "strict-match",
            "exact_match": 0.0,
        },
        [T],
    ),
    "lm-eval, older": (
        {
            "doc_id": 0,
            "doc": {"question": Q, "answer": GOLD},
            "target": "11",
            "resps": [[T]],
            "arguments": [[f"Question: {Q}\nAnswer:", {"until": ["\n"]}]],
            "filtered_resps": ["12"],
        },
        [T],
    ),
    "lm-eval, no doc": (
        {"arguments": [[f"Question: {Q}\nAnswer:", {"until": ["\n"]}]], "resps": [[T]], "target": GOLD},
        [T],
    ),
    "lm-eval, repeats": ({"doc": {"problem": Q, "solution": GOLD}, "target": "11", "resps": [[T, U]]}, [T, U]),
    "lm-eval, flat": ({"question": Q, "resps": [[T]], "generation": T, "filtered_resps": ["12"]}, [T]),
    # OpenMathInstruct 1 and 2, NeMo-Skills
    "OpenMathInstruct-1": (
        {
            "question": Q,
            "generated_solution": T,
            "expected_answer": "11",
            "predicted_answer": "12",
            "error_message": "<not_executed>",
            "is_correct": False,
            "dataset": "gsm8k",
        },
        [T],
    ),
    "OpenMathInstruct-2": (
        {"problem": Q, "generated_solution": T, "expected_answer": "11", "problem_source": "gsm8k"},
        [T],
    ),
    "NeMo-Skills": (
        {
            "problem": Q,
            "reference_solution": GOLD,
            "expected_answer": "11",
            "generation": T,
            "predicted_answer": "12",
            "judgement": "Judgement: No",
            "num_generated_tokens": 17,
        },
        [T],
    ),
    "NeMo-Skills, majority": (
        {"problem": Q, "generation": T, "majority_votes": 3, "_full_generation": f"<think>{T}"},
        [T],
    ),
    # dart-math, MetaMath, WizardMath, Alpaca
    "dart-math": (
        {"dataset": "gsm8k/train", "id": 0, "query": Q, "ref_ans": "11", "resp": T, "ans": "12", "correct": False},
        [T],
    ),
    "MetaMath": ({"type": "GSM_AnsAug", "query": Q, "original_question": Q, "response": T}, [T]),
    "Alpaca": ({"instruction": Q, "input": "", "output": T}, [T]),
    "alpaca_eval": ({"instruction": Q, "output": T, "dataset": "gsm8k"}, [T]),
    # Qwen2.5-Math's evaluation, ToRA
    "Qwen2.5-Math": (
        {
            "idx": 0,
            "question": Q,
            "gt_cot": GOLD,
            "gt": "11",
            "solution": GOLD,
            "answer": GOLD,
            "code": [T, U],
            "pred": ["12", "30"],
            "report": [None, None],
            "score": [False, False],
        },
        [T, U],
    ),
    "Qwen2.5-Math, cut off": ({"question": Q, "solution": GOLD, "code": ["", T], "pred": ["", "12"]}, [T]),
    # OpenR1, OpenThoughts, DeepMath, s1K, search-and-learn
    "OpenR1": (
        {
            "problem": Q,
            "solution": GOLD,
            "answer": "11",
            "source": "olympiads",
            "generations": [T, U],
            "correctness_math_verify": [False, False],
            "finish_reasons": None,
            "is_reasoning_complete": [True],
            "messages": [USER, {"role": "assistant", "content": GOLD}],
        },
        [T, U],
    ),
    "OpenThoughts": (
        {"system": "x", "conversations": [{"from": "user", "value": Q}, {"from": "assistant", "value": T}]},
        [T],
    ),
    "OpenThoughts, metadata": (
        {
            "problem": Q,
            "deepseek_reasoning": "Hm.",
            "deepseek_solution": T,
            "ground_truth_solution": GOLD,
            "domain": "math",
            "source": "numina",
        },
        [T],
    ),
    "DeepMath": ({"question": Q, "final_answer": "11", "r1_solution_1": T, "r1_solution_2": U}, [T, U]),
    "s1K": ({"question": Q, "solution": GOLD, "attempt": T, "cot_type": "math", "source_type": "gsm8k"}, [T]),
    "s1K-1.1": ({"question": Q, "solution": GOLD, "deepseek_attempt": T, "deepseek_thinking_trajectory": "Hm."}, [T]),
    "search-and-learn": (
        {
            "problem": Q,
            "solution": GOLD,
            "answer": "11",
            "completions": [T, U],
            "pred": U,
            "scores": [[0.1], [0.2]],
            "agg_scores": [0.1, 0.2],
            "pred_maj@1": "\\boxed{12}",
        },
        [T, U],
    ),
    # verl, TRL, OpenRLHF, SWIFT, LLaMA-Factory
    "verl": (
        {
            "data_source": "openai/gsm8k",
            "prompt": [USER],
            "responses": [T, U],
            "reward_model": {"style": "rule", "ground_truth": "11"},
            "extra_info": {"answer": GOLD, "question": Q, "split": "train", "index": 0},
        },
        [T, U],
    ),
    "verl, system": (
        {
            "prompt": [
                SYSTEM,
                {"role": "user", "content": f'{Q} Let\'s think step by step and output the final answer after "####".'},
            ],
            "responses": [T],
        },
        [T],
    ),
    "TRL": ({"prompt": [USER], "completion": [TOLD], "ground_truth": "11"}, [T]),
    "TRL, GRPO": ({"prompt": [SYSTEM, USER], "completions": [[TOLD], [{"role": "assistant", "content": U}]]}, [T, U]),
    "OpenRLHF": ({"input": Q, "output": T, "reward": 0.0}, [T]),
    "SWIFT": ({"response": T, "labels": GOLD, "logprobs": None, "messages": [USER, TOLD]}, [T]),
    "SWIFT, query": ({"query": Q, "response": T, "label": GOLD, "history": []}, [T]),
    "LLaMA-Factory": (
        {"prompt": f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n", "predict": T, "label": GOLD},
        [T],
    ),
    # Alpaca-like data sets whose gold is `output`, with predictions beside it
    "gold output": ({"instruction": Q, "output": GOLD, "generation": T}, [T]),
    "gold response": ({"question": Q, "response": GOLD, "model_output": T}, [T]),
    "extracted": ({"question": Q, "response": T, "prediction": "12", "answer": GOLD}, [T]),
    "extracted by the model's name": ({"question": Q, "output": T, "model_answer": "12"}, [T]),
    # step lists
    "ProcessBench": (
        {
            "id": "gsm8k-7",
            "generator": "Qwen2-7B",
            "problem": Q,
            "steps": T.split(". ", 1),
            "label": 0,
            "final_answer_correct": False,
        },
        ["6 + 5 = 12\nThe answer is 12."],
    ),
    "MR-GSM8K": (
        {
            "uuid": "u",
            "question": Q,
            "ground_truth_solution": GOLD,
            "ground_truth_answer": 11,
            "model_output_steps": ["6 + 5 = 12.", "The answer is 12."],
            "model_output_solution_first_error_step": 1,
            "model_output_solution_first_error_reason": "6 + 5 is 11.",
        },
        ["6 + 5 = 12.\nThe answer is 12."],
    ),
    "PRM800K": (
        {
            "labeler": "x",
            "question": {
                "problem": Q,
                "ground_truth_solution": GOLD,
                "ground_truth_answer": "11",
                "pre_generated_steps": ["6 + 5 = 12.", "The answer is 12."],
                "pre_generated_answer": "12",
            },
            "label": {"steps": [], "finish_reason": "found_error"},
        },
        ["6 + 5 = 12.\nThe answer is 12."],
    ),
    # replies of servers
    "OpenAI batch": (
        {
            "id": "batch_1",
            "custom_id": BEN.id,
            "response": {"status_code": 200, "request_id": "r", "body": BODY},
            "error": None,
        },
        [T],
    ),
    "OpenAI batch, n=2": (
        {
            "custom_id": BEN.id,
            "response": {
                "status_code": 200,
                "body": {
                    "choices": [
                        {"index": 0, "message": TOLD},
                        {"index": 1, "message": {"role": "assistant", "content": U}},
                    ]
                },
            },
        },
        [T, U],
    ),
    "responses API": (
        {
            "custom_id": BEN.id,
            "response": {
                "status_code": 200,
                "body": {
                    "output": [
                        {"type": "reasoning", "summary": []},
                        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": T}]},
                    ],
                    "text": {"format": {"type": "text"}},
                },
            },
        },
        [T],
    ),
    "Anthropic batch": (
        {
            "custom_id": BEN.id,
            "result": {
                "type": "succeeded",
                "message": {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "Hm."}, PART],
                },
            },
        },
        [T],
    ),
    "vLLM, offline": (
        {
            "request_id": "0",
            "prompt": f"Q: {Q}\nA:",
            "outputs": [{"index": 0, "text": T, "token_ids": [1, 2], "finish_reason": "stop"}, {"index": 1, "text": U}],
        },
        [T, U],
    ),
    "completions API": ({"prompt": Q, "choices": [{"index": 0, "text": T, "finish_reason": "stop"}]}, [T]),
    "chat API": ({"question": Q, "choices": [{"index": 0, "message": TOLD, "finish_reason": "stop"}]}, [T]),
    "chat API without its end": ({"question": Q, "choices": [{"message": TOLD}]}, [T]),
    "generations with their verdicts": ({"problem": Q, "generations": [{"generation": T, "score": 0}]}, [T]),
    "response with a body": ({"question": Q, "response": {"choices": [{"message": TOLD}]}}, [T]),
    "Gemini": (
        {"question": Q, "response": {"candidates": [{"content": {"parts": [{"text": T}], "role": "model"}}]}},
        [T],
    ),
    # conversations
    "ShareGPT": ({"id": "0", "conversations": [HUMAN, GPT]}, [T]),
    "messages": ({"messages": [SYSTEM, USER, TOLD]}, [T]),
    "messages, parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": Q}]},
                {"role": "assistant", "content": [PART]},
            ]
        },
        [T],
    ),
    "messages, worked example first": (
        {"messages": [{"role": "user", "content": OTHER.question}, {"role": "assistant", "content": "7."}, USER, TOLD]},
        [T],
    ),
    "simple-evals": (
        {
            "score": 0.0,
            "convo": [
                {
                    "role": "user",
                    "content": f"{Q}\n\nRemember to put your answer on its own "
                    'line after "Answer:", and you do not need to use a \\boxed command.',
                },
                TOLD,
            ],
        },
        [T],
    ),
    "question and messages": ({"question": Q, "answer": GOLD, "messages": [SYSTEM, USER, TOLD]}, [T]),
    "prompt as messages": ({"messages": [SYSTEM, USER], "solution": GOLD, "generation": T}, [T]),
    # lists
    "lists of lists": ({"problem": Q, "samples": [[T], [U]]}, [T, U]),
    "lists of messages": ({"problem": Q, "responses": [{"content": T}, {"text": U}]}, [T, U]),
    "null among texts": ({"problem": Q, "generations": [None, T]}, [T]),
    "numbered": ({"problem": Q, "response_1": T, "response_2": U}, [T, U]),
    # the prompt before the text
    "return_full_text": ({"prompt": f"Q: {Q}\nA:", "generated_text": f"Q: {Q}\nA: {T}"}, [T]),
    "chat markup and all": (
        {"question": Q, "text": f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{T}"},
        [T],
    ),
    "FLAN": ({"inputs": Q, "targets": GOLD, "prediction": T}, [T]),
    "pipeline": ({"question": Q, "output": [{"generated_text": f"Question: {Q}\nAnswer: {T}"}]}, [T]),
    "names in another case": ({"Question": Q, "Model Output": T, "Reference": GOLD}, [T]),
    "camel case": ({"question": Q, "modelOutput": T, "groundTruth": GOLD}, [T]),
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
    "GSM8K itself": ({"question": Q, "answer": GOLD}, "none of its fields 'question, answer' is certainly"),
    "MATH itself": (
        {"problem": Q, "level": "Level 1", "type": "Algebra", "solution": T},
        "rename the one that is to gen",
    ),
    "MATH-500": (
        {"problem": Q, "solution": T, "answer": "11", "subject": "Algebra", "level": 1, "unique_id": "u"},
        "none of its fields",
    ),
    "NuminaMath": ({"problem": Q, "solution": T, "source": "cn_k12"}, "none of its fields"),
    "unknown fields": ({"question": Q, "solution": GOLD, "foo": T, "bar": U}, "'question, solution, foo, bar'"),
    "names with escapes": ({"question": Q, "\x1b[2J\n": T}, "'question, [2J' is certainly"),
    "a model's name alone": ({"question": Q, "solution": GOLD, "model": "m", "foo": T}, "none of its fields"),
    "thoughts alone": ({"question": Q, "answer": GOLD, "deepseek_reasoning_trace": "Hm."}, "none of its fields"),
    "preferences": ({"prompt": Q, "chosen": T, "rejected": U}, "'prompt, chosen, rejected'"),
    "references": (
        {
            "question": Q,
            "reference_solution": T,
            "gold_response": T,
            "target": T,
            "expected_output": T,
            "ground_truth_completion": T,
        },
        "none of its fields",
    ),
    "a judge's": (
        {
            "question": Q,
            "solution": GOLD,
            "judge_response": "No.",
            "critique": "Step 1 is wrong.",
            "reward_model_output": "0.1",
            "grader_output": "No.",
        },
        "none of its fields",
    ),
    "solutions of unknown origin": ({"problem": Q, "solution": GOLD, "solutions": [T, U]}, "none of its fields"),
    "rationales": (
        {"question": Q, "rationale": T, "cot": T, "chain_of_thought": T, "answer": "11"},
        "none of its fields",
    ),
    "two": ({"question": Q, "response": T, "output": U}, "'response, output' can each be a model's"),
    "two models'": ({"question": Q, "qwen_solution": T, "deepseek_solution": U}, "'qwen_solution, deepseek_solution'"),
    "prediction against output": ({"instruction": Q, "output": U, "prediction": T}, "'output, prediction' can each"),
    "a judge beside a model": ({"question": Q, "model_answer": T, "response": "No, step 1 is wrong."}, "can each be"),
    "blank beside gold": ({"question": Q, "solution": GOLD, "code": [""]}, "empty solution: 1"),
    "null beside gold": ({"question": Q, "output": U, "generation": None}, "empty solution: 1"),
    "gold as generation": ({"question": Q, "generation": GOLD}, "the reference solution itself: 1"),
    "gold as output": (
        {"instruction": Q, "output": "Ben has 6+5=11 jars.\nThe answer is 11."},
        "the reference solution",
    ),
    "gold in messages": (
        {"messages": [USER, {"role": "assistant", "content": GOLD}]},
        "the reference solution itself: 1",
    ),
    "the prompt alone": ({"prompt": f"Q: {Q}\nA:", "generated_text": f"Q: {Q}\nA:"}, "empty solution: 1"),
    "the question again": ({"question": Q, "text": f"Question: {Q}\nAnswer:"}, "empty solution: 1"),
    "answers of a data set": ({"question": Q, "answers": ["11", "eleven"]}, "none of its fields"),
    "answers by SQuAD": ({"question": Q, "answers": {"text": ["11"]}}, "none of its fields"),
    "steps of a data set": ({"question": Q, "answer": "11", "steps": ["Add 6 and 5."]}, "none of its fields"),
    "another task": ({"instruction": "Translate this to German.", "input": Q, "output": "Ben hat."}, "something else"),
    "a judge's prompt, the answer first": (
        {"question": Q, "prompt": f"A student says: {U}\nGrade it. The question is: {Q}", "response": "No: it is 11."},
        "something else",
    ),
    "a judge's prompt": ({"prompt": JUDGE, "completion": "No."}, "question of no problem: 1"),
    "a judge's prompt beside the question": ({"question": Q, "prompt": JUDGE, "completion": "No."}, "holds an answer"),
    "a judge's conversation": ({"messages": [{"role": "user", "content": JUDGE}, TOLD]}, "question of no problem: 1"),
    "a judge's conversation beside the question": (
        {"question": Q, "messages": [{"role": "user", "content": JUDGE}, TOLD]},
        "does not end in an answer",
    ),
    "a second turn": (
        {"question": Q, "messages": [USER, TOLD, {"role": "user", "content": "Is that right?"}, TOLD]},
        "does not end in an answer",
    ),
    "a conversation without an answer": ({"messages": [SYSTEM, USER]}, "none of its fields 'messages'"),
    "likelihoods": (
        {"doc": {"question": Q}, "resps": [[["-3.5", "False"]], [["-1.5", "True"]]]},
        "field 'resps': must be text, not the likelihood of a candidate",
    ),
    "numbers": ({"doc": {"question": Q}, "resps": [[[-3.5, False]]]}, "field 'resps': must be text, not float"),
    "candidates": (
        {"question": Q, "choices": {"label": ["A"], "text": ["bank"]}, "answerKey": "A"},
        "none of its fields",
    ),
    "candidates as texts": ({"question": Q, "choices": ["bank", "mall"], "answerKey": "A"}, "none of its fields"),
    "a failed request": (
        {"custom_id": BEN.id, "response": {"status_code": 400, "body": {"error": {"message": "x"}}}},
        "empty solution: 1",
    ),
    "no reply": ({"custom_id": BEN.id, "response": None, "error": {"code": "expired"}}, "empty solution: 1"),
    "Math-Shepherd": ({"input": f"{Q} Step 1: 6 + 5 = 12. ки", "label": f"{Q} Step 1: 6 + 5 = 12. -"}, "no problem: 1"),
    "a rewritten question": (
        {"prompt": f"Rewrite the following question.\n\n{Q}", "completion": "Al has."},
        "no problem",
    ),
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
        "Ben  has 6 + 5 = 11 jars.\n\n#### 11",
        "Ben has $6+5=11$ jars.\n\\boxed{11}",
        "ben has 6+5=11 jars.\nTherefore, the final answer is \\boxed{11}.",
        f"Let's think step by step.\n{GOLD}",
        f"<think>\n\n</think>\nAnswer: {GOLD}<|im_end|>",
        f"```\n{GOLD}\n```",
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
