"""Small cells that tests run, and reading what a run left."""

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from lema.config import Config, Pretraining, TaskConfig, Training
from lema.data import tasks
from lema.types import Problem

ROOT = Path(__file__).resolve().parents[1]
# Everything small: an untrained base, whose every answer is a wrong path.
SMALL = [
    *("backbone.tiny.steps=4", "backbone.tiny.corpus_size=200", "task.num_train=40", "task.num_test=12"),
    *("task.num_dev=8", "task.max_cot=16", "task.max_extra=16", "sampler.keep_unanswered=true"),
    *("sampler.max_new_tokens=12", "evaluation.max_new_tokens=12", "train.max_steps=6", "train.save_steps=2"),
    "tracker=none",
]
# A cell that ends with its training.
TRAINING = [
    *("backbone.tiny.steps=4", "backbone.tiny.corpus_size=200", "backbone.tiny.max_positions=512"),
    *("task.num_train=60", "task.num_test=4", "task.num_dev=4", "task.max_cot=24", "mix=cot", "until=train"),
    *("train.epochs=null", "train.max_steps=12", "train.batch_size=8", "train.micro_batch_size=4"),
    *("train.save_steps=4", "tracker=none", "backbone.learning_rate=3e-3"),
]
ADAPTER = ["train.lora_rank=4", "train.lora_alpha=8", "train.lora_dropout=0.05"]
METHODS = {
    "full": ["train.activation_checkpointing=true"],
    "lora": ["train.method=lora", *ADAPTER],
    "qlora": ["train.method=qlora", "train.optimizer=paged_adamw_32bit", *ADAPTER],
}


def all_steps(cell: Any) -> list[Any]:
    """The steps of a cell, in order."""
    from lema import pipeline  # its libraries read what conftest.py sets

    return [step for stage in pipeline.plan(cell).values() for step in stage]


def training(config: Config) -> Training:
    """What the training of a cell is decided by."""
    return Training(config.train, config.backbone.computation, config.seed, last_only=config.selection == "last")


def pretraining(config: Config) -> Pretraining:
    """What the base of a cell is decided by, beside its problems."""
    backbone = config.backbone
    assert backbone.tiny
    return Pretraining(backbone.tiny, backbone.prompt, backbone.seed, made=config.task.dataset is None)


def load(task: TaskConfig, limit: int | None = None) -> dict[str, list[Problem]]:
    """The train, dev and test problems that a task is trained on."""
    return tasks.load(tasks.trained_on(task), limit)


def contents(runs: Path) -> dict[str, str]:
    """Hash of every artifact file; the records without their times."""
    found = {}
    for file in sorted(path for path in runs.rglob("*") if path.is_file() and not path.name.startswith(".")):
        content = file.read_bytes()
        if file.name == "record.json":
            record = json.loads(content)
            del record["made"], record["hash"]  # which stands for it too
            content = json.dumps(record).encode()
        elif {"run.json", "status.json", "reports"} & set(file.parts):  # they name the runs folder, and hours
            content = b""
        found[file.relative_to(runs).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def trained(runs: Path) -> dict[str, bytes]:
    """Every file of the one train artifact but its record, which has the time; without the place of the runs folder."""
    [folder] = (path for path in (runs / "train").iterdir() if path.is_dir())
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files.pop("record.json")
    return {name: path.read_bytes().replace(str(runs).encode(), b"RUNS") for name, path in files.items()}


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.open(encoding="utf-8")]


def summary(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "record.json").read_text(encoding="utf-8"))["summary"]


def record(file: Path, *lines: dict[str, Any]) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    return file


def token_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random token rows: prompts of 3 to 30 tokens, completions of 1 to 30."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        prompt, target = ([draw.randrange(4, 97) for _ in range(draw.randrange(low, 31))] for low in (3, 1))
        labels = [-100] * len(prompt) + target
        made.append({"id": f"row {number}", "input_ids": prompt + target, "labels": labels})
    return made


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
