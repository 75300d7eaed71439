"""Before anything is downloaded, sent or paid: all that is missing in one message, through the front door."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_a_real_cell_names_everything_it_lacks_at_once(run_cli) -> None:
    finished = run_cli("backbone=mistral", "task=math")
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    lines = [line.strip() for line in finished.stderr.splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0] for line in lines] == [
        "- dataset",
        "- model",
        "- model",
        "- GPU",
        "- GPU",
        "- key",
        "- budget",
    ]
    for name in (
        "task.dataset.path=",
        "sampler.model.path=",
        "backbone.path=",
        "OPENAI_API_KEY",
        "corrector.budget_usd=",
    ):
        assert name in finished.stderr
    assert "HF_HUB_OFFLINE is set" in finished.stderr


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["corrector=gpt4"], {"- key", "- budget"}),
        (["backbone=llama2", "experiment=no_api"], {"- model", "- GPU"}),
        (["backbone=llama2", "mix=cot"], {"- model", "- GPU"}),
    ],
)
def test_only_what_the_cell_needs_is_asked_for(run_cli, overrides: list[str], names: set[str]) -> None:
    finished = run_cli(*overrides)
    assert finished.returncode != 0
    assert {line.strip().split(":")[0] for line in finished.stderr.splitlines() if line.startswith("  - ")} == names


def test_runs_folder_that_cannot_be_written(run_cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in ([], ["sweeps=demo"]):
        finished = run_cli(*arguments, f"runs_dir={tmp_path / 'file' / 'runs'}")
        assert finished.returncode != 0
        assert "Traceback" not in finished.stderr
        assert "cannot be written" in finished.stderr
        assert "runs_dir=" in finished.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "task.dataset.path="),
        ("test.jsonl", None, "train.jsonl"),
        ("train.jsonl", "", "train.jsonl line 1"),
        ("train.jsonl", '{"question": "Q", "answer": "A #### 1"}\n{"question": "Q2", "ans', "train.jsonl line 2"),
        ("train.jsonl", '{"question": "Q", "answer": "no mark"}\n', "train.jsonl line 1, field 'answer'"),
    ],
    ids=["missing", "no file", "empty", "truncated", "no answer"],
)
def test_a_damaged_data_set_is_named_by_file_and_line(run_cli, tmp_path, name, content, message) -> None:
    folder = tmp_path / "data"
    if name:
        folder.mkdir()
        (folder / "test.jsonl").write_text('{"question": "Q", "answer": "A #### 1"}\n')
        if content is not None:
            (folder / name).write_text(content)
    finished = run_cli("task=gsm8k", f"task.dataset.path={folder}")
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    assert message in finished.stderr
