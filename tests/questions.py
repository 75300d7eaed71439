"""Questions, what stands around them, and recorded solutions of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from lema.data.arithmetic import make_problems
from lema.prompts.formats import COT_PROMPTS
from lema.types import Problem

FENCE = (
    "Tom builds a fence of 16 boards around his garden, and each board costs $1,250 while a bag of the nails that he "
    "needs costs a tenth of that. How much do Tom's boards and 3 bags of nails cost?"
)
SUFFIXES = [
    "Please reason step by step, and put your final answer within \\boxed{}.",
    'Let\'s think step by step and output the final answer after "####".',
    "Let's think step by step.",
    "Let’s think step by step.",
    "Think step by step. Put your final answer after ####.",
    "Think carefully, then give the final answer as a single number.",
    "Please put your final answer in \\boxed{}. Do not write anything else behind it.",
    "Present the answer in LaTeX format: \\boxed{Your answer}",
    'Remember to put your answer on its own line after "Answer:", and you do not need to use a \\boxed command.',
    "Answer with a number only.",
    "Return your final response within \\boxed{}. Only include the number.",
    'Show your work, then end with "The answer is X."',
    "Your final answer should be in the form of a number, in the last line.",
    "Give me the answer in JSON format.",
    "Make sure to put the answer (and only answer) inside \\boxed{}.",
    "Enclose the reasoning in <think> </think> and the answer in <answer> </answer> tags.",
    "/no_think",
    "Answer:",
    "Solution:",
    "A:",
]
PREFIXES = [
    "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.",
    "Solve the following math problem step by step.",
    "Solve the following math problem efficiently and clearly. The last line of your response should be of the "
    "following format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is so' (without quotes) where "
    "ANSWER is just the final number or expression that solves the problem. Think step by step before answering.",
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$ANSWER (without quotes) where $ANSWER is the answer to the problem.",
    "Please answer the question below.",
    "Answer the following question.",
    "You are a helpful assistant. Reason step by step.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    'Given the following problem, reason and give a final answer to the problem.\nYour response should end with "The '
    'final answer is [answer]" where [answer] is the response to the problem.',
    "Here is a math problem:",
]
WRAPS = [
    "Question: {q}\nAnswer:",
    "Question: {q}\nAnswer: Let's think step by step.",
    "Question: {q}\nLet's think step by step\nAnswer:",
    "Q: {q}\nA:",
    "Q: {q}\nA: Let's think step by step.\n",
    "Problem:\n{q}\n\nSolution:\n",
    "Problem: {q}\nSolution:",
    "### Problem:\n{q}\n\n### Solution:\n",
    "**Question:** {q}\n\n**Answer:**",
    "# Question\n\nQuestion 1: {q}\n# Answer\n\nAnswer:",
    "<question>{q}</question>\n",
    "### Instruction:\n{q}\n\n### Response:",
    "### Instruction:\nSolve this.\n\n### Input:\n{q}\n\n### Response:\n",
    "Human: {q}\n\nAssistant:",
    "USER: {q} ASSISTANT:",
    "A chat between a curious user and an artificial intelligence assistant. USER: {q} ASSISTANT:",
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
    "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. The "
    "reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {q} Assistant: <think>",
    "[INST] {q} [/INST]",
    "<s>[INST] <<SYS>>\nYou are kind.\n<</SYS>>\n\n{q} [/INST]",
    "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "<|im_start|>system<|im_sep|>x<|im_end|><|im_start|>user<|im_sep|>{q}<|im_end|><|im_start|>assistant<|im_sep|>",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: 2023<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<bos><start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n",
    "<|system|>\nBe kind.</s>\n<|user|>\n{q}</s>\n<|assistant|>\n",
    "<|user|>\n{q}<|end|>\n<|assistant|>\n",
    "<｜begin▁of▁sentence｜><｜User｜>{q}<｜Assistant｜><think>\n",
    "<|start|>system<|message|>You are ChatGPT.<|end|><|start|>user<|message|>{q}<|end|><|start|>assistant",
    "user\n{q}\nassistant\n",
    "system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\nuser\n{q}\nassistant\n",
    "user\n\n{q}\nmodel\n",
    "Question: Al has 2 pens. How many pens has he?\nAnswer: He has 2.\n#### 2\n\nQuestion: {q}\nAnswer:",
    "Q: Al has 2 pens. How many pens has he?\nA: The answer is 2.\n\nQ: {q}\nA:",
    "Al has 2 pens. How many pens has he?\nHe has 2.\n\n{q}\n",
    "Problem:\nAl has 2 pens.\n\nSolution:\n\\boxed{2}\n\nProblem:\n{q}\n\nSolution:",
    "{q}\n",
    *COT_PROMPTS.values(),
]
WRAPS = [wrap if "{question}" not in wrap else wrap.replace("{question}", "{q}") for wrap in WRAPS]


def problems(questions: list[str], name: str = "some-test") -> list[Problem]:
    return [Problem(f"{name}-{number}", question, "", "1") for number, question in enumerate(questions)]


def questions(data: Path, task: str, split: str) -> list[Problem]:
    """The questions of a data set as the tasks read them."""
    with (data / task / f"{split}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    fields = {"gsm8k": ["question"], "math": ["problem"], "svamp": ["Body", "Question"], "csqa": ["question"]}[task]
    texts = [" ".join(row[field]["stem"] if task == "csqa" else row[field] for field in fields) for row in rows]
    return problems([text.strip() for text in texts], f"{task}-{split}")


def all_tests(data: Path) -> list[Problem]:
    splits = {"gsm8k": "test", "math": "test", "svamp": "test", "csqa": "dev"}
    return [problem for task, split in splits.items() for problem in questions(data, task, split)]


QUESTIONS = 5_000


def solutions(number: int) -> Iterator[dict[str, str]]:
    """Of the training questions in turn, with mistakes of all kinds; a tenth are right, a tenth are said twice."""
    train, _ = make_problems(0, QUESTIONS, 10)
    rng, last = random.Random(0), ""
    for index in range(number):
        problem = train[index % QUESTIONS]
        steps = [line.partition(" = <<")[0] + f" = {rng.randrange(100)}." for line in problem.solution.splitlines()]
        answer = problem.answer if rng.random() < 0.1 else str(rng.randrange(100))
        last = last if rng.random() < 0.1 and index % QUESTIONS else f"{' '.join(steps)} The answer is {answer}."
        yield {"question": problem.question, "generation": last, "model": f"model-{rng.randrange(3)}"}
