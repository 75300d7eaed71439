"""Rationales of a strong model: asked evenly, kept when right, beside the data set's own in the mix."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from openai_server import OpenAIServer
from small import SMALL, load, rows, summary

from lema import pipeline
from lema.config import Config


def test_they_are_asked_evenly_and_kept_when_right_once_each(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*SMALL, "rationales=gpt4", "rationales.requests=72", "mix=cot", "budget_usd=5", "until=mix"]
    overrides += [f"runs_dir={tmp_path}"]
    answers = {each.question: each.answer for each in load(make_config(*SMALL).task)["train"]}
    asked: Counter[str] = Counter()

    def reply(prompt: str) -> str:
        question = prompt.rpartition("Question: ")[2].partition("\nAnswer: ")[0]
        asked[question] += 1
        said = answers[question] if asked[question] < 3 else "999"
        return f"Way {asked[question]}: it is {said}. The answer is {said}."

    with OpenAIServer(reply=reply) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        pipeline.run(make_config(*overrides), overrides)
        again = [*overrides, "seed=2"]
        pipeline.run(make_config(*again), again)
    assert sorted(asked.values()) == [2] * 24 + [3] * 8, "72 over 32 questions; another seed asks nothing"
    [made], [examples] = tmp_path.glob("rationales/*"), tmp_path.glob("mix/*/examples.jsonl")
    counts = summary(made)
    assert (counts["asked"], counts["correct"], counts["kept"], counts["failed"]) == (72, 64, 64, 0)
    assert counts["models"] == ["gpt-6.2-sol"]
    sources = Counter(row["source"] for row in rows(examples))
    assert sources == {"cot": 16, "rationale": 32}, "two for each of the 16 CoT questions"
    first = next(row for row in rows(examples) if row["source"] == "rationale")
    answer = answers[first["prompt"].partition("Question: ")[2].partition("\nAnswer: ")[0]]
    assert first["completion"].endswith(f": it is {answer}. The answer is {answer}.")
    assert first["completion"].count("The answer is") == 1


def test_no_more_of_one_question_than_the_config_says(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*SMALL, "rationales=gpt4", "rationales.most=1", "mix=cot", "budget_usd=5", "until=rationales"]
    with OpenAIServer(reply=lambda prompt: "No.") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        pipeline.run(make_config(*overrides, f"runs_dir={tmp_path}"), overrides)
    assert len(server.requests) == 32
