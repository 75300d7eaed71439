"""A step's result in its W&B run: an artifact with its small files, its summary, and a table of its answers.

Weights (13 GB) and the texts of data sets are not uploaded; `record.json` has the SHA-256 of each file.
"""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact
from lema.identity import portable
from lema.types import Solution

_TABLE_ROWS = 200  # more texts make a browser slow (wandb/wandb#3070); `predictions.jsonl` has all of them
COLUMNS: list[Any] = ["problem_id", "text", "answer", "correct", "symbolic"]
_MAX_NAME = 128  # W&B's limit for the name of an artifact


def log_result(run: Any, step: str, artifact: Artifact, inputs: Iterable[Artifact]) -> None:
    """Log a step's result to its `wandb.Run`, with the artifacts that it was made from as the run's inputs."""
    import wandb

    for each in inputs:
        use(run, each)
    run.log_artifact(packed(artifact))
    if artifact.shown.type == "predictions":
        answers = islice(artifact.stream("predictions.jsonl", Solution), _TABLE_ROWS)
        rows: list[Any] = [[getattr(each, column) for column in COLUMNS] for each in answers]
        run.log({"predictions": wandb.Table(columns=COLUMNS, data=rows)})  # W&B compares the tables of runs by this key
    run.summary.update({f"{step}/{name}": value for name, value in portable(artifact.summary).items()})


def use(run: Any, artifact: Artifact) -> None:
    """Log an artifact as the input of a run, and to W&B where it is missing there."""
    # `run.use_artifact` does so too, but fails offline, and online it waits without a timeout.
    run._log_artifact(packed(artifact), is_user_created=True, use_after_commit=True)


def packed(artifact: Artifact) -> Any:
    """An artifact as W&B's. Its name has the key of its recipe, so equal names have equal contents."""
    import wandb

    stage, (label, _, key) = artifact.path.parent.name, artifact.path.name.rpartition("-")
    name = f"{stage}-{label}"[: _MAX_NAME - len(key) - 1] + f"-{key}"
    made = wandb.Artifact(name, artifact.shown.type, metadata={"stage": stage, "digest": artifact.digest})
    for file in ("record.json", *artifact.shown.files):  # they never change, so W&B needs no copy
        made.add_file(here(artifact.path / file), name=file, policy="immutable", skip_cache=True)
    return made


def here(path: Path) -> str:
    """A path below the working directory as a relative one, which `wandb sync` finds and which names no user."""
    path = path.absolute()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
