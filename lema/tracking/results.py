"""What a step's W&B run shows of its result: an artifact with its small files, its summary, a table of answers.

Weights (13 GB) and the texts of data sets stay here; `record.json` has the SHA-256 of each.
"""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact
from lema.identity import portable
from lema.types import Solution

TYPES = {
    "data": "dataset",
    "base": "model",
    "sample": "solutions",
    "correct": "corrections",
    "rationales": "solutions",
    "mix": "mix",
    "train": "model",
    "select": "selection",
    "merge": "model",
    "evaluate": "predictions",
}
FILES = {
    "correct": ["corrections.jsonl"],
    "rationales": ["rationales.jsonl"],
    "train": ["metrics.jsonl"],
    "select": ["accuracies.jsonl"],
    "merge": ["agreement.json"],
    "evaluate": ["predictions.jsonl", "score.json"],
}
TABLE_ROWS = 200  # a browser is slow with more texts (wandb/wandb#3070), and `predictions.jsonl` has all of them
COLUMNS: list[Any] = ["problem_id", "text", "answer", "correct", "symbolic"]
MAX_NAME = 128  # W&B's limit for the name of an artifact


def publish(run: Any, step: str, artifact: Artifact, inputs: Iterable[Artifact]) -> None:
    """Log a step's result to its `wandb.Run`, and the artifacts it was made from as what the run used."""
    import wandb

    for each in inputs:
        use(run, each)
    run.log_artifact(packed(artifact))
    if artifact.path.parent.name == "evaluate":
        answers = islice(artifact.stream("predictions.jsonl", Solution), TABLE_ROWS)
        rows: list[Any] = [[getattr(each, column) for column in COLUMNS] for each in answers]
        run.log({"predictions": wandb.Table(columns=COLUMNS, data=rows)})  # one key: W&B compares tables by it
    run.summary.update({f"{step}/{name}": value for name, value in portable(artifact.summary).items()})


def use(run: Any, artifact: Artifact) -> None:
    """Link an artifact to the run that used it; one that W&B does not have yet is logged as nobody's output.

    `run.use_artifact` does that too, but not offline, and online it waits without an end.
    """
    run._log_artifact(packed(artifact), is_user_created=True, use_after_commit=True)


def packed(artifact: Artifact) -> Any:
    """An artifact as W&B's: its name says what it was made from, so equal names have equal contents."""
    import wandb

    stage, (label, _, key) = artifact.path.parent.name, artifact.path.name.rpartition("-")
    name = f"{stage}-{label}"[: MAX_NAME - len(key) - 1] + f"-{key}"
    made = wandb.Artifact(name, TYPES[stage], metadata={"stage": stage, "digest": artifact.digest})
    for file in ["record.json", *FILES.get(stage, [])]:  # they are never changed, so no copy is kept
        made.add_file(here(artifact.path / file), name=file, policy="immutable", skip_cache=True)
    return made


def here(path: Path) -> str:
    """A path seen from the working directory, when it lies below: W&B uploads the path of each file too.

    So `wandb sync` finds the files from the same directory, on another machine too, and no user's name is told.
    """
    path = path.absolute()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
