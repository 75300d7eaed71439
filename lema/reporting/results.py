"""What runs left on disk: each run's state, summaries, costs and verdicts, with everything amiss said in words.

A run's folder has `run.json` and links to its artifacts, each with `record.json`. Nothing here raises because of what
is in a folder: a run that cannot be used has a `trouble` that says why, and is named in the report.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lema.artifacts import is_whole
from lema.artifacts.links import follow
from lema.identity import digest, without_paths
from lema.types import SCORE_VERSION

STOPPED = "stopped after"  # the beginning of the state of a run that was asked not to go further
# Steps that belong to one run alone; the others are shared with the runs that need the same.
OWN_STEPS = ("train", "select", "merge", "evaluate")
# Of each, the input that must be what lies beside it: else a later step is of an earlier state of the run.
CHAIN = (("train", "mix"), ("select", "train"), ("merge", "train"), ("evaluate", "select"), ("evaluate", "merge"))

# What reading records that are not as we wrote them may raise.
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Verdicts:
    """The answers of one model to one split, as arrays of booleans in the order of `ids`."""

    ids: tuple[str, ...]
    correct: np.ndarray
    symbolic: np.ndarray

    def by_id(self) -> dict[str, bool]:
        return dict(zip(self.ids, self.correct.tolist(), strict=True))


@dataclass(frozen=True)
class Run:
    """One run: its identity, and what each of its steps left."""

    folder: Path
    name: str
    config: dict[str, Any]
    setting: str | None  # what the arms of one comparison share; None until the data are read
    overrides: list[str]
    state: str  # "finished", "stopped after mix", "running", or what it failed with
    records: dict[str, dict[str, Any]] = field(default_factory=dict)  # step -> record.json
    wandb: dict[str, str] = field(default_factory=dict)  # step -> the id of its W&B run, where this run made it
    trouble: str | None = None  # why its score cannot be used

    @property
    def arm(self) -> str:
        """Its mix; one that the command line changed is another arm: `lema (mix.without=step)`."""
        changed = [item for item in self.overrides if item.startswith("mix.")]
        return self.config["mix"]["name"] + (f" ({', '.join(changed)})" if changed else "")

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def shared_overrides(self) -> list[str]:
        """The command line's overrides that another arm or seed of this setting needs too."""
        own = ("mix", "seed", "sweeps", "do", "until", "only", "tracker", "tracker.group", "hydra.mode", "runs_dir")
        return [item for item in self.overrides if item.split("=")[0] not in own and not item.startswith("mix.")]

    def summaries(self, step: str) -> list[dict[str, Any]]:
        """The summary of a step; of `sample` those of all its models."""
        names = [name for name in self.records if name.startswith("sample_")] if step == "sample" else [step]
        return [self.records[name]["summary"] for name in names if name in self.records]

    @property
    def score(self) -> dict[str, Any]:
        return self.records["evaluate"]["summary"]

    @property
    def accuracy(self) -> float:
        return self.score["accuracy"]

    @cached_property
    def verdicts(self) -> Verdicts | None:
        """None when the predictions are gone or damaged: the score still stands, but pairs with no other."""
        return self._verdicts("evaluate")

    @cached_property
    def untuned_verdicts(self) -> Verdicts | None:
        return self._verdicts("evaluate_untuned")

    def _verdicts(self, step: str) -> Verdicts | None:
        try:
            data = (follow(self.folder / step) / "predictions.jsonl").read_bytes()
            if hashlib.sha256(data).hexdigest() != self.records[step]["files"]["predictions.jsonl"]:
                return None
            rows = [json.loads(line) for line in data.splitlines()]
            ids = tuple(row["problem_id"] for row in rows)
            correct, symbolic = (np.array([row[rule] for row in rows], dtype=bool) for rule in ("correct", "symbolic"))
        except (OSError, *DAMAGE):
            return None
        return Verdicts(_same(ids), correct, symbolic)

    def asked(self) -> list[dict[str, Any]]:
        """The problems that it was evaluated on; none when they are gone."""
        step = "test_data" if "test_data" in self.records and self.score["split"] == "test" else "data"
        return _rows(follow(self.folder / step) / f"{self.score['split']}.jsonl", "id", "question", "answer")

    def predictions(self) -> list[dict[str, Any]]:
        """Its answers, in full; none when they are gone."""
        return _rows(follow(self.folder / "evaluate") / "predictions.jsonl", "problem_id", "text")

    @cached_property
    def levels(self) -> dict[str, str]:
        """The level of each problem that has one, by id."""
        return {row["id"]: row["level"] for row in self.asked() if row.get("level")}

    def curve(self) -> list[tuple[int, float]]:
        """The training loss by step; empty when there is none to read."""
        rows = _rows(follow(self.folder / "train") / "metrics.jsonl", "step", "loss")
        try:
            return [(int(row["step"]), float(row["loss"])) for row in rows]
        except DAMAGE:
            return []

    def hours(self, steps: Iterable[str] = OWN_STEPS) -> float:
        """The hours its own steps took, on whatever device."""
        return sum(self.records[step]["made"]["seconds"] for step in steps if step in self.records) / 3600

    @property
    def device(self) -> str:
        """What trained it, where that is recorded."""
        return self.records.get("train", {}).get("made", {}).get("device", "")

    @property
    def gpus(self) -> int:
        """How many trained it."""
        return self.records.get("train", {}).get("made", {}).get("gpus", 0)

    @property
    def versions(self) -> dict[str, str]:
        """The packages that made its answers."""
        return self.records["evaluate"]["made"].get("versions", {})

    @property
    def digests(self) -> dict[str, str]:
        """What each of its artifacts contains, in 12 hex digits."""
        whole = {step: each for step, each in self.records.items() if {"recipe", "files"} <= each.keys()}
        return {step: contents(record) for step, record in whole.items()}

    @property
    def usd(self) -> float:
        """What all paid requests that it stands on cost; other runs may stand on the same."""
        return sum(record["summary"].get("usd", 0.0) for record in self.records.values())


def _rows(file: Path, *fields: str) -> list[dict[str, Any]]:
    """The rows of a JSON lines file that has these fields in each; none when it is gone or damaged."""
    try:
        rows = [json.loads(line) for line in file.read_bytes().splitlines()]
        return rows if all(field in row for row in rows for field in fields) else []
    except (OSError, *DAMAGE):
        return []


def contents(record: dict[str, Any]) -> str:
    """The digest of an artifact by its record, as `lema.artifacts.Artifact` has it."""
    return digest([record["recipe"], record["files"]])


@cache
def _same(ids: tuple[str, ...]) -> tuple[str, ...]:
    """One object for equal tuples: a grid of 150 runs has the ids of two test sets, not of 150."""
    return ids


def read_runs(root: Path, folders: Iterable[Path] | None = None) -> list[Run]:
    """The runs below a runs folder, or those of some folders, by name: finished ones and others, also not started."""
    found = sorted(root.glob("cells/*/run.json")) if folders is None else [each / "run.json" for each in folders]
    return [_read(file) if file.is_file() else _not_started(file.parent) for file in found]


def _not_started(folder: Path) -> Run:
    return Run(folder, folder.name, {}, None, [], "not started", trouble="it was not started; run its command")


class _Unreadable(Exception):
    """A step's record is damaged; the words are the step's name."""


def _read(file: Path) -> Run:
    folder = file.parent
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        run = Run(
            folder,
            str(facts["name"]),
            facts["config"],
            facts["setting"] and str(facts["setting"]),
            [str(item) for item in facts["overrides"]],
            str(facts.get("state", "finished")),
            dict(_records(folder, facts.get("stages", []))),
            facts.get("wandb", {}),
        )
        return Run(**{**vars(run), "trouble": _trouble(run)})
    except (OSError, *DAMAGE):
        why = "its run.json cannot be read; delete the folder, or run its command again"
    except _Unreadable as step:
        why = f"its {step}/record.json cannot be read; delete what {step} links to and run its command again"
    return Run(folder, folder.name, {}, None, [], "unreadable", trouble=why)


def _records(folder: Path, stages: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The steps whose artifacts are there, in the order of their stages; those of an older run by their names."""
    found = []
    for step in folder.iterdir():
        try:
            if (file := follow(step) / "record.json").exists():
                record = json.loads(file.read_text(encoding="utf-8"))
                stage = record["recipe"]["stage"]
                found.append((stages.index(stage) if stage in stages else len(stages), step.name, record))
        except (OSError, *DAMAGE):
            raise _Unreadable(step.name) from None
    yield from ((name, record) for _, name, record in sorted(found, key=lambda each: each[:2]))


def _trouble(run: Run) -> str | None:
    """Why a run's score cannot be used, in words; None when it can."""
    if changed := [step for step, record in run.records.items() if not is_whole(record)]:
        remedy = f"delete what {changed[0]} links to and run its command again"
        return f"its {changed[0]}/record.json was changed after it was made; {remedy}"
    if "evaluate" not in run.records:
        made = [name for name in run.records if name not in ("evaluate_untuned", "test_data")]
        reached = f"after {made[-1]}" if made else "before its first step was done"
        if (link := run.folder / "evaluate").is_symlink() or link.is_file():
            return "its evaluation was removed; run its command again"
        if run.state == "running":
            return f"it was not finished: it stopped without a word (killed?) or still runs, {reached}"
        asked = run.state.startswith(STOPPED)
        return f"it ended {reached}, as asked" if asked else f"it failed {reached}: {without_paths(run.state)}"
    record = run.records["evaluate"]
    if (version := record["recipe"]["version"]) != SCORE_VERSION:
        return f"its score is of version {version} of the evaluation, now {SCORE_VERSION}; run its command again"
    for step, name in CHAIN:
        used, made = run.records.get(step, {}).get("recipe", {}).get("inputs", {}).get(name), run.records.get(name)
        if used and made and used != contents(made):
            return f"its {step} was made from an earlier {name}; run its command again"
    return None
