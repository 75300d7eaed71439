"""Who makes the mistakes: several models, each an artifact of its own; a server, a file, the backbone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer, prompt_tokens
from small import SMALL, load, record, rows, summary
from tables import some

from lema import pipeline
from lema.config import Config
from lema.data import tasks
from lema.types import Problem, UserError

RECORDED = "+sampler/model@sampler.models.recorded=recorded"


@pytest.fixture
def problems(make_config: Callable[..., Config]) -> dict[str, list[Problem]]:
    """Those of the small cell."""
    return load(make_config(*SMALL).task)


@pytest.fixture
def run(run: Callable[..., dict[str, Path]]) -> Callable[..., dict[str, Path]]:
    return lambda *overrides: run("until=correct", *overrides)


def test_a_model_more_samples_only_that_one(run, problems, tmp_path: Path) -> None:
    first = run()
    file = record(
        tmp_path / "more.jsonl", {"question": problems["train"][0].question, "generation": "The answer is 999."}
    )
    second = run(RECORDED, f"sampler.models.recorded.recorded={file}")
    assert second["sample_self"] == first["sample_self"]
    assert summary(second["sample_recorded"])["wrong_paths"] == 1
    corrections = rows(second["correct"] / "corrections.jsonl")
    assert len(corrections) == summary(first["correct"])["corrections"] + 1
    assert {row["model"] for row in corrections} == {"tiny", "recorded"}
    by_model = summary(second["correct"])["by_model"]
    assert by_model["recorded"] == {"accepted": 1}


def test_recorded_solutions_are_graded_and_each_wrong_text_is_corrected_once(run, problems, tmp_path: Path) -> None:
    train, held_out = problems["train"], problems["dev"][0]
    lines: list[dict[str, Any]] = [
        {"question": train[0].question, "generation": "The answer is 999.", "model": "a"},
        {"question": train[0].question, "generation": " The answer is 999.\n", "model": "b"},
        {"question": train[0].question, "generation": f"The answer is {train[0].answer}.", "model": "a"},
        {"problem_id": train[1].id, "text": "The answer is 999."},
        {"question": held_out.question, "generation": "The answer is 999."},
        {"question": "How many moons has Mars?", "generation": "The answer is 999."},
    ]
    file = record(tmp_path / "recorded.jsonl.gz", *lines)
    made = run("sampler=recorded", f"sampler.file={file}", "sampler.keep_unanswered=false")
    counts = summary(made["sample_recorded"])
    assert (counts["solutions"], counts["correct"], counts["wrong_paths"], counts["repeated"]) == (4, 1, 2, 1)
    assert counts["question of no problem"] == counts["question that is not trained on"] == 1
    assert counts["models"] == ["a", "b", "recorded"]
    assert [row["sample"] for row in rows(made["sample_recorded"] / "solutions.jsonl")] == [0, 1, 2, 0]
    corrections = rows(made["correct"] / "corrections.jsonl")
    assert [(row["problem_id"], row["model"]) for row in corrections] == [(train[0].id, "a"), (train[1].id, "recorded")]
    assert all(row["accepted"] for row in corrections)


def test_a_gold_solution_is_no_mistake(run, problems, tmp_path: Path) -> None:
    first, second = problems["train"][:2]
    gold = {"problem": first.question, "solution": first.solution, "answer": first.answer}
    file = record(tmp_path / "gold.jsonl", {**gold, "foo": "The answer is 999."})
    with pytest.raises(UserError, match=r"gold\.jsonl line 1: none of its fields 'problem, solution, answer, foo' is"):
        run("sampler=recorded", f"sampler.file={file}")
    assert not list((tmp_path / "runs").glob("sample/*/record.json")), "nothing of the file is used"
    record(
        file,
        {**gold, "completions": ["The answer is 999.", ""], "source": "gsm8k"},
        {"question": second.question, "output": f"{second.solution}\n#### {second.answer}"},
    )
    made = run("sampler=recorded", f"sampler.file={file}")
    counts = summary(made["sample_recorded"])
    assert (counts["solutions"], counts["wrong_paths"], counts["empty solution"]) == (1, 1, 1)
    assert (counts["the reference solution itself"], counts["models"]) == (1, ["recorded"])


def test_a_wrong_text_of_two_models_is_corrected_once(run, problems, tmp_path: Path) -> None:
    for name in ("one", "two"):
        record(tmp_path / f"{name}.jsonl", {"question": problems["train"][0].question, "text": "The answer is 999."})
    made = run(
        "sampler=recorded",
        f"sampler.file={tmp_path / 'one.jsonl'}",
        "+sampler/model@sampler.models.two=recorded",
        f"sampler.models.two.recorded={tmp_path / 'two.jsonl'}",
    )
    assert [row["model"] for row in rows(made["correct"] / "corrections.jsonl")] == ["recorded"]


def test_recorded_solutions_of_test_questions_are_refused_as_a_whole(run, problems, tmp_path: Path) -> None:
    test = problems["test"][3]
    lines = [{"question": each.question, "text": "The answer is 999."} for each in (problems["train"][0], test)]
    file = record(tmp_path / "leak.jsonl", *lines)
    with pytest.raises(UserError, match=rf"leak\.jsonl line 2: .* is the test question {test.id} ") as raised:
        run("sampler=recorded", f"sampler.file={file}")
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "runs").glob("sample/*/record.json")), "nothing of the file is used"


def test_a_file_that_is_not_there_is_told_before_anything_is_made(run, tmp_path: Path) -> None:
    missing = ("sampler=recorded", "sampler.file=nowhere.jsonl")
    with pytest.raises(UserError, match=r"recorded: sampler\.file=nowhere\.jsonl: no such file"):
        run(*missing)
    assert not list((tmp_path / "runs").glob("*/*/record.json"))
    run(*missing, "mix=cot", "until=mix")  # which needs no mistakes


def test_the_remedy_for_a_server_that_is_away_is_spelled_as_the_command_takes_it(run, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-tests")
    server = ("sampler=server", "sampler.model=m", "sampler.base_url=http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"no connection: .*: check it, or sampler\.base_url"):
        run(*server)


@pytest.mark.parametrize("name", some(["svamp", "csqa", "math"], 3))
def test_test_questions_of_every_known_task_are_refused(data_dir: Path, make_config, tmp_path: Path, name: str) -> None:
    folders = [f"task={name}", f"task.dataset.path={data_dir / name}"]
    folders += [f"task.train_dataset.path={data_dir / 'gsm8k'}"] if name == "svamp" else []
    task = make_config(*folders).task
    [other] = tasks.load_test(tasks.tested_on(task), 1)
    question = other.question.upper().replace(",", "")
    file = record(tmp_path / "leak.jsonl", {"question": question, "text": "The answer is 999."})
    arguments = ["task=gsm8k", f"task.dataset.path={data_dir / 'gsm8k'}", "limit=3", "sampler=recorded", "tracker=none"]
    arguments += [f"sampler.file={file}", "until=correct", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(UserError, match=rf"leak\.jsonl line 1: .* is the test question {other.id} .*\(equal\)"):
        pipeline.run(make_config(*arguments, "backbone.tiny.steps=1", "backbone.tiny.corpus_size=50"), arguments)


def test_the_recorded_solutions_of_test_questions_here_are_refused(data_dir: Path, make_config, tmp_path: Path) -> None:
    arguments = ["task=gsm8k", f"task.dataset.path={data_dir / 'gsm8k'}", "limit=3", "sampler=recorded", "tracker=none"]
    arguments += [f"sampler.file={data_dir / 'grading/model_outputs.jsonl.gz'}", "until=sample"]
    arguments += [f"runs_dir={tmp_path}", "backbone.tiny.steps=1", "backbone.tiny.corpus_size=50"]
    with pytest.raises(UserError, match="has the id of the test question gsm8k-test-0"):
        pipeline.run(make_config(*arguments), arguments)


def test_a_server_samples_from_worked_solutions_and_what_failed_is_asked_again_alone(
    run, problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(body: dict) -> str:
        broken = problems["train"][2].question in body["messages"][0]["content"] and len(server.requests) <= 80
        return "refusal" if broken else "ok"

    with OpenAIServer(
        reply=lambda prompt: f"So 5 + 5 = 999. The answer is 999.{len(server.requests)}", faults=fault, model="m"
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        arguments = (*("sampler=server", "sampler.model=m", "sampler.samples=2", "sampler.max_new_tokens=50"),)
        made = run(*arguments)
        asked = len(server.requests)
        assert asked == 2 * len(problems["train"]) <= 80
        assert {body["temperature"] for body in server.requests} == {0.7}
        prompt = server.requests[0]["messages"][0]["content"]
        assert prompt.count("\nAnswer: Let's think step by step.\n") == 5, "four worked solutions, then the question"
        counts = summary(made["sample_server"])
        assert (counts["solutions"], counts["failed"], counts["requests"]) == (asked - 2, 2, asked)
        assert counts["models"] == ["m"]
        server.requests.extend([{}] * (81 - asked))
        again = run(*arguments, "retry_failed=true")
        assert len(server.requests) == 83
        assert summary(again["sample_server"])["failed"] == 0
        assert {row["problem_id"] for row in rows(again["sample_server"] / "wrong.jsonl")} == {
            p.id for p in problems["train"]
        }
        assert run(*arguments, "retry_failed=true") == again
        assert len(server.requests) == 83


def test_the_backbone_can_be_sampled_from_worked_solutions(run, tmp_path: Path) -> None:
    file = tmp_path / "shown.txt"
    file.write_text(
        "Solve.\n\nQuestion: What is 1 + 1?\nAnswer: Let's think step by step.\n1 + 1 = 2. The answer is 2.\n"
    )
    first = run("until=sample")
    second = run("until=sample", "sampler.models.self.prompt=few_shot", f"sampler.demonstrations={file}")
    assert first["sample_self"] != second["sample_self"]
    texts = [row["text"] for row in rows(second["sample_self"] / "solutions.jsonl")]
    assert not [text for text in texts if "\nQuestion:" in text]


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ("sampler.demonstrations", "evaluation.untuned_prompt=few_shot"),
        ("rationales.demonstrations", "rationales=gpt4"),
        ("corrector.prompt", "corrector=gpt4"),
    ],
)
def test_ones_own_worked_examples_with_a_test_question_are_refused_as_soon_as_the_data_are_read(
    run, tmp_path: Path, problems, setting: str, chosen: str
) -> None:
    file, shown = tmp_path / "shown.txt", "Solve.\n\nQuestion: {}\nAnswer: Let's think step by step.\n1 + 1 = 2.\n"
    test, arguments = problems["test"][3], [chosen, f"{setting}={file}", "until=base"]
    file.write_text(shown.format(test.question))
    with pytest.raises(UserError) as refused:
        run(*arguments)
    assert str(refused.value).startswith(f"{setting}={file}: holds the test question {test.id} '{test.question[:20]}")
    assert str(refused.value).endswith("(equal); remove that example")
    assert [record.parts[-3] for record in (tmp_path / "runs").glob("*/*/record.json")] == ["data"]
    file.write_text(shown.format(problems["train"][3].question))
    assert {"data", "base"} <= run(*arguments).keys()


def test_prompts_beyond_the_servers_context_are_counted_and_when_all_are_the_run_ends_with_the_reason(
    run, problems, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [
        *("sampler=server", "sampler.model=m", "sampler.samples=1", "sampler.max_new_tokens=20"),
    ]
    arguments.append("sampler.models.server.prompt=lema")
    with OpenAIServer(reply=lambda prompt: "The answer is 999.", max_model_len=25, model="m") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        with pytest.raises(
            UserError, match=r"none of \d+ requests was answered \(prompt too long: HTTP 400: This model's"
        ):
            run(*arguments)
        sent = len(server.requests)
        server.max_model_len = (
            min(map(prompt_tokens, server.requests)) + max(map(prompt_tokens, server.requests))
        ) // 2
        counts = summary(run(*arguments, "retry_failed=true")["sample_server"])
        monkeypatch.setenv("LEMA_SWEEP_BEGAN", "2026-01-01T00:00:00+0000")
        run(*arguments, "retry_failed=true")  # as the next cell of a sweep
    assert len(server.requests) == 2 * sent == 2 * len(problems["train"])
    assert counts["failed"] > 0
    assert counts["solutions"] == len(problems["train"]) - counts["failed"] > 0
    assert f"{counts['failed']} of {len(problems['train'])} requests have no answer: prompt too long" in caplog.text
