"""The corrections of a cell: who is asked how often, what is counted, and what a reply must keep to."""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from openai_server import OpenAIServer, ReferenceReply
from small import SMALL, load, record, rows, summary
from tables import table

from lema import pipeline
from lema.config import Config
from lema.correctors.checking import Item
from lema.correctors.model import correct_all
from lema.types import Completion, Correction, Engine, Problem, Prompt, Solution

GOOD = " Step 1.\nExplanation: 2 + 3 is 5.\nCorrect Solution:\n{\nStep 1: 2 + 3 = 5.\nStep 2: The answer is 5.\n}"
PATH = ["2 + 3 = 6.", "The answer is 6."]


def item(name: str, level: str | None = None) -> tuple[Problem, Solution, list[str]]:
    solution = Solution(name, "m", 0, " ".join(PATH), "6", correct=False, symbolic=False, truncated=False)
    return Problem(name, f"{name}: what is 2 + 3?", "2 + 3 = 5.", "5", level), solution, PATH


@pytest.mark.parametrize(("text", "ended", "reason"), table(__file__, "replies and their reasons"))
def test_every_reply_is_accepted_or_rejected_with_its_reason(text: str | None, ended: str, reason: str | None) -> None:
    [correction] = corrected([item("a")], Corrector(lambda prompt: Completion(text, ended, "c")))
    assert (correction.reason, correction.accepted, correction.corrector) == (reason, reason is None, "c")


class Corrector:
    """An engine that says what `reply` says to each prompt."""

    def __init__(self, reply: Callable[[Prompt], Completion]) -> None:
        self.reply, self.costs, self.rounds = reply, {}, list[list[Prompt]]()
        self.about = {"engine": "double"}

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        self.rounds.append(list(prompts))
        return [self.reply(prompt) for prompt in prompts]


def corrected(items: list[Item], engine: Engine, shown: str = "Shown.", tries: int = 1) -> list[Correction]:
    return correct_all(items, shown, tries, "gsm8k", engine, Path("resume"))


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_the_corrector_sees_demonstrations_question_and_wrong_path_but_never_the_gold_answer(ending: str) -> None:
    problem, solution, path = item("a")
    gold = dataclasses.replace(problem, answer="the-gold-answer", solution="the-gold-solution")
    corrector = Corrector(lambda prompt: Completion(GOOD, "stop", "c"))
    corrected([(gold, solution, path)], corrector, f"Correct thís.\r\n\n\nQuestion: q{ending}")
    assert [[prompt.text for prompt in prompts] for prompts in corrector.rounds] == [
        [
            "Correct thís.\r\n\n\nQuestion: q\n\nQuestion: a: what is 2 + 3?\nOriginal Solution:\n{\n"
            "Step 1: 2 + 3 = 6.\nStep 2: The answer is 6.\n}\nIncorrect Step:"
        ]
    ]


def test_a_flawless_corrector_is_accepted() -> None:
    items = [item(name) for name in "ab"]
    reply = ReferenceReply(problem for problem, _, _ in items)
    for correction in corrected(items, Corrector(lambda prompt: Completion(reply(prompt.text), "stop", "c"))):
        assert (correction.incorrect_step, correction.accepted) == (1, True)
        assert correction.correct_steps == ["2 + 3 = 5.", "The answer is 5."]


def test_a_further_try_is_asked_only_of_what_was_rejected() -> None:
    def reply(prompt: Prompt) -> Completion:
        good = "a:" in prompt.text or ("b:" in prompt.text and prompt.attempt == 1)
        return Completion(GOOD if good else "No.", "stop", "c")

    corrector = Corrector(reply)
    corrections = corrected([item("a"), item("b"), item("c")], corrector, tries=3)
    assert [[prompt.attempt for prompt in prompts] for prompts in corrector.rounds] == [[0, 0, 0], [1, 1], [2]]
    assert [correction.accepted for correction in corrections] == [True, True, False]


def test_success_and_reasons_are_counted_by_model_and_level_beside_the_papers(
    data_dir: Path, make_config: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.loads(line) for line in (data_dir / "math/train.jsonl").open()][:40]
    file = record(
        tmp_path / "wrong.jsonl", *({"problem": row["problem"], "text": "The answer is 999."} for row in lines)
    )
    arguments = ["task=math", f"task.dataset.path={data_dir / 'math'}", "sampler=recorded", "tracker=none", "limit=60"]
    arguments += [f"sampler.file={file}", "sampler.models.recorded.paper_success=0.375"]
    arguments += [
        *(f"runs_dir={tmp_path / 'runs'}", "backbone.tiny.steps=1", "backbone.tiny.corpus_size=50", "until=correct"),
    ]
    with caplog.at_level(logging.INFO):
        pipeline.run(make_config(*arguments), arguments)
    [made] = (tmp_path / "runs/correct").iterdir()
    counts = summary(made)
    assert counts["by_model"]["recorded"] == {"accepted": counts["accepted"]}
    assert sum(sum(row.values()) for row in counts["by_level"].values()) == counts["corrections"]
    assert all(level.startswith("Level ") for level in counts["by_level"])
    [line] = [
        entry.getMessage()
        for entry in caplog.records
        if " recorded " in entry.getMessage() and "37.5" in entry.getMessage()
    ]
    assert "100.0" in line


@pytest.mark.slow
def test_the_engine_runs_on_real_questions_with_the_tiny_backbones_mistakes(
    data_dir: Path, make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["task=gsm8k", f"task.dataset.path={data_dir / 'gsm8k'}", "limit=60", "corrector=gpt4", "budget_usd=20"]
    overrides += ["rationales=gpt4", "tracker=none", f"runs_dir={tmp_path}", "until=mix", "backbone.tiny.steps=60"]
    problems = load(make_config(*overrides).task)["train"]
    solutions = {
        problem.question: f"{' '.join(problem.solution.split())} The answer is {problem.answer}."
        for problem in problems
    }
    correct = ReferenceReply(problems)

    def reply(prompt: str) -> str:
        if "Original Solution:" in prompt.rpartition("Question: ")[2]:
            return correct(prompt)
        return solutions[prompt.rpartition("Question: ")[2].partition("\nAnswer: ")[0]]

    with OpenAIServer(reply=reply, latency=0.01, model="gpt-6.2-sol") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        pipeline.run(make_config(*overrides), overrides)
        [corrections], [rationales] = tmp_path.glob("correct/*"), tmp_path.glob("rationales/*")
        counts = summary(corrections)
        assert counts["accepted"] == counts["corrections"] > 30
        assert summary(rationales)["kept"] == 60, "the same text five times a question is kept once"
        assert summary(rationales)["asked"] == 300
        assert server.usd <= counts["usd"] + summary(rationales)["usd"] + 1e-9
    [examples] = tmp_path.glob("mix/*/examples.jsonl")
    sources = {row["source"] for row in rows(examples)}
    assert sources == {"cot", "rationale", "correction"}
    [rationale] = [
        row for row in rows(examples) if row["source"] == "rationale" and row["problem_id"] == "gsm8k-train-0"
    ]
    assert rationale["completion"].endswith(" The answer is 72.")
    assert rationale["completion"].count("The answer is") == 1


def test_a_model_that_is_loaded_here_corrects(make_config: Callable[..., Config], tmp_path: Path) -> None:
    shown = tmp_path / "shown.txt"
    shown.write_text("Correct them.\n")
    overrides = [*SMALL, f"runs_dir={tmp_path / 'runs'}", "until=correct"]
    pipeline.run(make_config(*overrides), overrides)
    [base] = (tmp_path / "runs/base").iterdir()
    overrides += [
        *("corrector=local", f"corrector.weights.path={base}", "corrector.weights.precision=fp32", "corrector.tries=2"),
        *("corrector.weights.name=own", "corrector.weights.parameters=null"),
    ]
    overrides += [f"corrector.prompt={shown}", "corrector.max_completion_tokens=8"]
    pipeline.run(make_config(*overrides), overrides)
    [made] = (tmp_path / "runs/correct").glob("*-local-*")
    counts = summary(made)
    assert (
        counts["corrections"] == counts["rejected"]["unparsable"] + counts["rejected"].get("cut off by length", 0) > 0
    )
    assert counts["correctors"] == ["own"]
