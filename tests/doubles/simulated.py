"""Folders of runs as the suite leaves them, with answers drawn at random: for the report, which reads nothing else."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import numpy as np

from lema.artifacts import contents
from lema.grading import several
from lema.identity import digest
from lema.reporting import report
from lema.types import SCORE_VERSION

CONFIG: dict[str, Any] = {
    "seed": 1,
    "limit": None,
    "selection": "dev",
    "task": {"name": "gsm8k", "real": True, "grader": "gsm8k"},
    "backbone": {"name": "llama2", "size": "7b"},
    "sampler": {"name": "open"},
    "corrector": {"name": "gpt4"},
    "rationales": {"name": "none"},
    "mix": {"name": "lema"},
    "train": {"method": "qlora", "learning_rate": 2e-4},
    "evaluation": {"split": "test"},
}
TEXT = 6 * "She has 3 boxes of 4 apples. 3 x 4 = 12. Then she eats 2 of them. 12 - 2 = 10. "
VERSIONS = {"python": "3.11.7", "lema": "0.1.0", "torch": "2.13.0", "transformers": "5.24.0"}


def record(folder: Path, stage: str, summary: dict[str, Any], inputs: dict[str, Any], **changes: Any) -> str:
    """Write an artifact's `record.json` for the files in its folder; returns its digest."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*"))
        if path.name != "record.json"
    }
    recipe = {"stage": stage, "version": SCORE_VERSION if "evaluate" in stage else 1, "config": {}, "inputs": inputs}
    made = {"seconds": 1800.0, "at": "2026-11-26T12:00:00+0000", "device": "NVIDIA A100", "gpus": 1}
    facts = {"recipe": recipe, "files": files, "summary": summary, "made": made | {"versions": VERSIONS}}
    facts |= changes
    (folder / "record.json").write_text(json.dumps(facts))
    return digest([facts["recipe"], facts["files"]])


def score(correct: np.ndarray, **changes: Any) -> dict[str, Any]:
    facts = {
        "task": "gsm8k",
        "backbone": "llama2",
        "mix": "lema",
        "seed": 1,
        "step": 50,
        "selection": "dev",
        "split": "test",
        "limit": None,
        "num_problems": len(correct),
        "num_unanswered": 0,
        "num_truncated": 0,
        "num_correct": int(correct.sum()),
        "accuracy": float(correct.mean()),
        "accuracy_symbolic": float(correct.mean()),
        "disagreements": [],
        "model": "m",
        "correctors": [],
    }
    return facts | changes


def sampled(samples: np.ndarray) -> dict[str, Any]:
    """The score of samples, a row of verdicts a problem; `low` and the numbers behind it are not read again."""
    number = samples.shape[1]
    facts = {"samples": number, "temperature": 0.7, "seed": 0, "num_unanswered": 0, "num_truncated": 0}
    facts |= {"low": 0.0, "high": 1.0, "accuracy": float(samples.mean()), "accuracy_symbolic": float(samples.mean())}
    pass_at = {str(k): fmean(several.pass_at(k, number, int(row.sum())) for row in samples) for k in (1, number)}
    majority = fmean(several.majority((str(right), right) for right in row.tolist()) for row in samples)
    return facts | {"pass_at": pass_at, "majority": majority}


def evaluation(
    folder: Path,
    task: str,
    correct: np.ndarray,
    inputs: dict[str, Any],
    samples: np.ndarray | None = None,
    **changes: Any,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if samples is not None:
        changes["sampled"] = sampled(samples)
        with (folder / "sampled.jsonl").open("w") as file:
            for number, right in enumerate(samples.sum(axis=1).tolist()):
                row = {"problem_id": f"{task}-test-{number}", "samples": samples.shape[1], "correct": right}
                file.write(json.dumps(row | {"symbolic": right, "majority": 0.0}) + "\n")
    with (folder / "predictions.jsonl").open("w") as file:
        for number, right in enumerate(correct.tolist()):
            row = {"problem_id": f"{task}-test-{number}", "model": "m", "sample": 0, "text": TEXT, "answer": "10"}
            file.write(json.dumps(row | {"correct": right, "symbolic": right, "truncated": False}) + "\n")
    record(folder, "evaluate", score(correct, **changes), inputs)


def data(folder: Path, task: str, problems: int, levels: Sequence[str] | None) -> None:
    folder.mkdir(parents=True)
    with (folder / "test.jsonl").open("w") as file:
        for number in range(problems):
            row: dict[str, Any] = {"id": f"{task}-test-{number}", "question": "How many?", "answer": "10"}
            file.write(json.dumps(row | {"level": levels[number % len(levels)] if levels else None}) + "\n")
    record(folder, "data", {"train": 10, "test": problems, "questions_in_test": 0}, {})


def run(
    root: Path,
    mix: str,
    seed: int,
    correct: Sequence[bool] | np.ndarray,
    *,
    setting: str = "a",
    untuned: np.ndarray | None = None,
    like: Path | None = None,
    levels: Sequence[str] | None = None,
    curve: int = 20,
    state: str = "finished",
    overrides: Sequence[str] = (),
    score: dict[str, Any] | None = None,
    samples: np.ndarray | None = None,
    parts: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> Path:
    """One run's folder; `changes` are parts of its config, `parts` of its mix, `score` of its score.

    `samples` are its verdicts on samples.

    Its data and untuned answers are those of the run `like`, if one is named, by links as the suite makes them.
    """
    config = copy.deepcopy(CONFIG) | {"seed": seed, "mix": {"name": mix, **parts}} | changes
    task, backbone = config["task"]["name"], config["backbone"]
    name = f"{task}-{backbone['name']}-{backbone['size']}-{mix}-seed{seed}"
    folder = root / "cells" / f"{name}-{digest([config, setting])}"
    for step in ("mix", "train", "select"):
        (folder / step).mkdir(parents=True)
    correct = np.asarray(correct, dtype=bool)
    if like:
        for step in ("data", "evaluate_untuned"):
            (folder / step).symlink_to(f"../{like.name}/{step}")
    else:
        data(folder / "data", task, len(correct), levels)
        evaluation(folder / "evaluate_untuned", task, correct & False if untuned is None else untuned, {})
    mixed = record(folder / "mix", "mix", {"repeated_random_cot": 0}, {})
    with (folder / "train" / "metrics.jsonl").open("w") as file:
        for step in range(1, curve + 1):
            file.write(json.dumps({"step": step, "loss": 0.4 + len(mix) / 40 + 1 / (step + 3), "epoch": 1.0}) + "\n")
    sizes = {"examples": 300, "tokens": 21_000, "target_tokens": 9_000, "steps": 57, "truncated": 0}
    trained = record(folder / "train", "train", sizes, {"mix": mixed})
    selected = record(folder / "select", "select", {"step": 50}, {"train": trained})
    evaluation(folder / "evaluate", task, correct, {"select": selected}, samples, **(score or {}))
    command = [f"backbone={backbone['name']}", f"task={task}", f"mix={mix}", f"seed={seed}", "tracker=none", *overrides]
    facts = {"name": name, "key": "k", "state": state, "setting": setting, "overrides": command, "config": config}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def differences(
    rng: np.random.Generator, seeds: int, problems: int, effect: float, seed_sd: float, problem_sd: float
) -> np.ndarray:
    """What one arm has right and another not, less the reverse (shape: seeds x problems), drawn anew with both.

    The difference of a seed and a problem is `effect`, a normal part of the seed and ±`problem_sd` of the problem; two
    models differ on 35 % of the problems, as SmolLM2-135M's did (208 of 600, at 30 % right).
    """
    shift = rng.normal(0, seed_sd, (seeds, 1)) + rng.choice([-problem_sd, problem_sd], (1, problems))
    more, drawn = np.clip(effect + shift, -0.35, 0.35), rng.random((seeds, problems))
    return np.where(drawn < (0.35 + more) / 2, 1.0, np.where(drawn < 0.35, -1.0, 0.0))


def answers(problems: int, right: int) -> np.ndarray:
    """So many problems, the first ones right."""
    return np.arange(problems) < right


TINY: dict[str, Any] = {
    "task": {"name": "arithmetic", "real": False, "grader": "arithmetic"},
    "backbone": {"name": "tiny", "size": None},
    "sampler": {"name": "self"},
    "corrector": {"name": "reference"},
    "train": {"method": "full", "learning_rate": 0.001},
}


@contextmanager
def changing(file: Path) -> Iterator[dict[str, Any]]:
    """`with changing(folder / "run.json") as facts:` what is done to them there is written back."""
    facts = json.loads(file.read_text())
    yield facts
    file.write_text(json.dumps(facts))


def made(folder: Path) -> str:
    """The digest of the artifact in a folder."""
    return contents(json.loads((folder / "record.json").read_text()))


def tiny(root: Path, mix: str, seed: int, right: int, **changes: Any) -> Path:
    """A run of the tiny backbone with so many of 200 problems right."""
    return run(root, mix, seed, answers(200, right), **(TINY | changes))


def published(root: Path) -> tuple[str, dict[str, Any]]:
    """The report on all runs: its text and its numbers."""
    folder, *_ = report.write_report(root)
    return (folder / "report.md").read_text(), json.loads((folder / "report.json").read_text())
