"""Arms of solutions that somebody recorded, right and wrong: real texts, each token of which is looked at."""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import load, record, rows, summary

from lema.config import Config
from lema.models.batches import encode
from lema.models.huggingface import load_tokenizer
from lema.models.weights import Weights
from lema.prompts import formats
from lema.types import Example, Problem, UserError

SMALL = [
    *("backbone.tiny.steps=2", "backbone.tiny.corpus_size=200", "task.num_dev=8", "task.max_cot=20", "until=mix"),
    *("task.max_extra=30", "tracker=none", "sampler=recorded"),
]


def solutions(problem: Problem, number: int) -> tuple[str, list[str]]:
    """A wrong solution, one of whose steps has a wrong result, and the right ones: of two questions in three, two."""
    steps = formats.reference_steps(problem.solution)
    answer = formats.ANSWER.format(answer=problem.answer)
    slip = number % len(steps)
    wrong = [
        *steps[:slip],
        re.sub(r"(\d+)(?=\D*$)", lambda found: str(int(found[1]) + 1), steps[slip]),
        *steps[slip + 1 :],
    ]
    right = [formats.cot_completion([*before, *steps, answer]) for before in ([], ["Let us see."])]
    return formats.cot_completion([*wrong, "The answer is 987654."]), right if number % 3 else []


@pytest.fixture(params=["tiny", "real"])
def made(
    request: pytest.FixtureRequest,
    run: Callable[..., dict[str, Path]],
    tmp_path: Path,
    make_config: Callable[..., Config],
) -> Callable[..., dict[str, Path]]:
    """Runs an arm up to its mix: of made questions in the tokens of tiny, or of GSM8K's in a real model's."""
    settings = ["task.num_train=70", "task.num_test=4"]
    if request.param == "real":
        data = request.getfixturevalue("data_dir")
        if not (folder := os.environ.get("LEMA_TEST_MODEL")):
            pytest.skip("LEMA_TEST_MODEL names no model")
        settings = [
            "task=gsm8k",
            f"task.dataset.path={data}/gsm8k",
            "limit=70",
            "task.num_train=null",
            "task.num_test=null",
            *(f"backbone.path={folder}", "backbone.parameters=null"),
        ]
    config = make_config(*SMALL, *settings, "sampler.file=none")
    train: list[dict[str, Any]] = []
    for number, problem in enumerate(load(config.task, config.limit)["train"]):
        wrong, right = solutions(problem, number)
        train += [{"question": problem.question, "generation": text} for text in (wrong, *right)]
    file = record(tmp_path / "solutions.jsonl", *train)
    return lambda *overrides: run(*SMALL, *settings, f"sampler.file={file}", *overrides)


def examples(folder: Path) -> list[Example]:
    return [Example(**row) for row in rows(folder / "examples.jsonl")]


def extra(folder: Path) -> list[Example]:
    return [each for each in examples(folder) if each.source != "cot"]


def test_each_token_has_the_loss_of_its_part(made, make_config) -> None:
    for overrides in (
        ["mix=inline"],
        ["mix=mistakes"],
        ["mix=lema", "mix.weights.step=0", "mix.weights.solution=0.25"],
    ):
        steps = made(*overrides)
        base = os.environ.get("LEMA_TEST_MODEL", "") if "base" not in steps else str(steps["base"])
        tokenizer, found = load_tokenizer(Weights("base", base, None, "")), examples(steps["mix"])
        limits = {"max_source_tokens": 4096, "max_target_tokens": 4096}
        encoded, counts = encode(found, tokenizer, replace(make_config().train, **limits))
        assert counts["target_tokens"] == summary(steps["mix"])["total"]["target_tokens"]
        assert counts["truncated"] == 0
        for example, row in zip(found, encoded, strict=True):
            start = len(row["input_ids"]) - len(tokenizer.encode(example.completion, add_special_tokens=False)) - 1
            ids, labels = row["input_ids"][start:], row["labels"][start:]
            given = iter(row.get("weights", [1.0] * len(ids)))
            seen = [next(given) if label != -100 else 0 for label in labels]
            assert set(row["labels"][:start]) <= {-100}
            assert all(label in (token, -100) for token, label in zip(ids, labels, strict=True))
            by_character = [
                weight for size, weight in example.weights or [(len(example.completion), 1)] for _ in range(size)
            ]
            for place, weight in enumerate(seen[:-1]):  # the part of a token is that of its last character
                text = tokenizer.decode(ids[: place + 1], clean_up_tokenization_spaces=False)
                if text.endswith("\ufffd"):  # a token that ends within a character
                    continue
                assert example.completion.startswith(text)
                assert weight == by_character[len(text) - 1], (example, text)
            assert seen[-1] == by_character[-1]


def test_own_right_solutions_of_the_failed_questions(made) -> None:
    own, lema = made("mix=own_right"), extra(made("mix=lema")["mix"])
    chosen, read = extra(own["mix"]), rows(own["sample_recorded"] / "solutions.jsonl")
    failed, right = {each.problem_id for each in lema}, [row for row in read if row["correct"]]
    assert len(chosen) == len(lema)
    assert {each.source for each in chosen} == {"own_right"}
    assert {each.problem_id for each in chosen} <= failed & {row["problem_id"] for row in right}
    texts = Counter(each.completion for each in chosen)
    assert set(texts) <= {row["text"] for row in right}
    assert max(texts.values()) - min(texts.values()) <= 1
    assert summary(own["mix"])["sources"]["own_right"]["examples"] == len(chosen)


def test_no_right_solution_is_one_line(run, tmp_path: Path, make_config) -> None:
    [problem, *_] = load(make_config(*SMALL, "task.num_train=38", "task.num_test=4", "sampler.file=none").task)["train"]
    file = record(tmp_path / "wrong.jsonl", {"question": problem.question, "generation": "The answer is 987654."})
    cell = [*SMALL, "task.num_train=38", "task.num_test=4", "task.max_cot=30", f"sampler.file={file}", "mix=own_right"]
    with pytest.raises(UserError, match=r"^mix=own_right: not one of the 1 questions .* run mix=cot_matched$"):
        run(*cell)
