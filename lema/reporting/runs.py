"""What runs left on disk: each run's state, summaries, costs and verdicts.

A run's folder has `run.json` and links to its artifacts, each with `record.json`. Of a run that was made elsewhere it
has `imported.json`, with the same less all texts; what has a score from here goes before that. Nothing in a folder
makes these functions raise: a run that cannot be used has a `trouble`, which says why, and the report names it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from lema.artifacts.links import IMPORTED, STOPPED as STOPPED, follow, read
from lema.artifacts.records import contents, foreseen, is_whole, used
from lema.reporting import arms
from lema.reporting.verdicts import Verdicts
from lema.types import SCORE_VERSION, SampledScore, Score, UserError, rules_version

# What may be raised by a record that is not as we wrote it.
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
_LEARNT = {"learnt", "learnt_untuned"}  # the steps that no score depends on
_OF_TEST = "test_data", "evaluate", "evaluate_untuned"  # the steps that each test of a model has of its own
_same = cache(tuple)  # one object for equal ids: a grid of 150 runs has those of two test sets, not of 150


@dataclass(frozen=True)
class Run:
    """One run: its identity, and what each of its steps left."""

    folder: Path
    name: str
    config: dict[str, Any]
    setting: str | None  # the key that the arms of one comparison share; None until the data are read
    overrides: list[str]
    state: str  # "finished", "stopped after mix", "running", or the error it failed with
    records: dict[str, dict[str, Any]] = field(default_factory=dict)  # step -> record.json, in the order of the steps
    wandb: dict[str, str] = field(default_factory=dict)  # step -> its W&B run's id, for the steps that this run made
    # Of a run that is read as one of a further test: step -> its link, where the two have different names
    links: dict[str, str] = field(default_factory=dict)
    trouble: str | None = None  # why its score cannot be used
    planned: dict[str, float] = field(default_factory=dict)  # link of a step -> its hours, as `do=plan` said
    # Of an imported run: link of a step -> file -> its rows, without texts
    imported: dict[str, dict[str, list[dict[str, Any]]]] | None = None

    @property
    def key(self) -> str:
        """What tells it from all others in one runs folder."""
        return f"{self.folder.name} {self.config['task']['name']}" if self.links else self.folder.name

    def at(self, step: str) -> Path:
        """The folder of a step's artifact."""
        return follow(self.folder / self.links.get(step, step))

    @property
    def arm(self) -> str:
        """The name of its mix; one that is not as the file of that name is another arm: `lema (mix.without=step)`."""
        return arms.named(self.config["mix"], self.overrides)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @cached_property
    def tuned(self) -> "Evaluation":
        """Of the model that it trained."""
        return Evaluation(self, "evaluate")

    @cached_property
    def untuned(self) -> "Evaluation | None":
        """Of its backbone; None where that was not asked."""
        return Evaluation(self, "evaluate_untuned") if "evaluate_untuned" in self.records else None

    @property
    def score(self) -> Score:
        return self.tuned.score

    @property
    def answered(self) -> str:
        """What answered: `vllm 0.32.0, NVIDIA H100`; empty where an earlier lema did not note it."""
        return ", ".join((self.score.answered or {}).values())

    @property
    def chosen(self) -> str:
        """How its checkpoint was chosen: `last`, `best on dev`; `…: optimistic` on the split of its score."""
        selection, split = self.score.selection, self.score.split
        on = split if selection == "paper" else selection
        return "last" if selection == "last" else f"best on {on}" + (": optimistic" if on == split else "")

    def rows(self, step: str, file: str, changed: bool = False) -> list[dict[str, Any]]:
        """The rows of a step's file. Raises `OSError` or one of `DAMAGE`, also of a file that was `changed` since."""
        if self.imported is not None:
            return self.imported[self.links.get(step, step)][file]
        data = read(self.at(step) / file)
        if not changed and hashlib.sha256(data).hexdigest() != self.records[step]["files"][file]:
            raise ValueError(f"{file} was changed")
        return [json.loads(line) for line in data.splitlines()]

    def having(self, step: str, file: str, *fields: str) -> list[dict[str, Any]]:
        """The rows of a step's file, if each has these fields; none when the file is missing or damaged."""
        try:
            rows = self.rows(step, file, changed=True)
            return rows if all(field in row for row in rows for field in fields) else []
        except (OSError, *DAMAGE):
            return []

    @property
    def asked_in(self) -> tuple[str, str]:
        """The step and the file that have the problems that it was evaluated on."""
        own_test = "test_data" in self.records and self.score.split == "test"
        return "test_data" if own_test else "data", f"{self.score.split}.jsonl"

    @cached_property
    def levels(self) -> dict[str, str]:
        """Problem id -> level, for the problems that have a level."""
        return {row["id"]: row["level"] for row in self.having(*self.asked_in, "id") if row.get("level")}

    def curve(self) -> list[tuple[int, float]]:
        """(step, training loss); empty when the file is missing or damaged."""
        rows = self.having("train", "metrics.jsonl", "step", "loss")
        try:
            return [(int(row["step"]), float(row["loss"])) for row in rows]
        except DAMAGE:
            return []

    @cached_property
    def own_steps(self) -> list[str]:
        """Training, and the steps that are made from it. The others may be shared with other runs."""
        return self.made_from("train")

    def made_from(self, first: str) -> list[str]:
        """A step, and those that are made from it; none where there is no such step."""
        made: dict[str, str] = {}  # digest of the artifact -> step
        for step, record in self.records.items():
            if step == first or made.keys() & used(record["recipe"]["inputs"]):
                made[contents(record)] = step
        return list(made.values())

    @property
    def hours(self) -> float:
        """The hours that its own steps took."""
        return sum(self.records[step]["made"]["seconds"] for step in self.own_steps) / 3600

    @property
    def planned_hours(self) -> float | None:
        """What a plan said of these hours; None where it did not speak of all these steps."""
        links = [self.links.get(step, step) for step in self.own_steps]
        return sum(self.planned[link] for link in links) if self.planned.keys() >= {*links} else None

    @property
    def trained(self) -> dict[str, Any]:
        """The summary of its training; empty where there is none."""
        return self.records.get("train", {}).get("summary", {})

    @property
    def device(self) -> str:
        """The device that trained it; empty where the record has none."""
        return self.records.get("train", {}).get("made", {}).get("device", "")

    @property
    def gpus(self) -> int:
        """The number of GPUs that trained it."""
        return self.records.get("train", {}).get("made", {}).get("gpus", 0) * self.trained.get("ranks", 1)

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version, of the packages that made its answers."""
        return self.records["evaluate"]["made"].get("versions", {})

    @cached_property
    def digests(self) -> dict[str, str]:
        """Step -> the digest of its artifact."""
        return {step: contents(record) for step, record in self.records.items()}

    @property
    def usd(self) -> float:
        """The cost of all paid requests that it depends on; other runs may depend on the same requests."""
        return sum(record["summary"].get("usd", 0.0) for record in self.records.values())


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to a split: greedy ones, and samples where there are any."""

    run: Run
    step: str

    @cached_property
    def score(self) -> Score:
        return Score(**self.run.records[self.step]["summary"])

    @cached_property
    def sampled(self) -> SampledScore | None:
        """The score of its samples; None where there are none."""
        return SampledScore(**self.score.sampled) if self.score.sampled else None

    @cached_property
    def verdicts(self) -> Verdicts | None:
        """None when the predictions are missing or damaged: then the score counts, but is paired with no other."""
        return self._verdicts("predictions.jsonl", bool)

    @cached_property
    def sampled_verdicts(self) -> Verdicts | None:
        """Of its samples; None also where there are none."""
        return self._verdicts("sampled.jsonl", float) if self.sampled else None

    def _verdicts(self, file: str, kind: type) -> Verdicts | None:
        try:
            rows = self.run.rows(self.step, file)
            ids = tuple(row["problem_id"] for row in rows)
            correct, symbolic = (
                np.array([row[rule] / row["samples"] if kind is float else row[rule] for row in rows], dtype=kind)
                for rule in ("correct", "symbolic")
            )
        except (OSError, *DAMAGE):
            return None
        return Verdicts(_same(ids), correct, symbolic)


def read_runs(root: Path, folders: Iterable[Path] | None = None) -> list[Run]:
    """The runs below a runs folder, finished or not, by name; or those of the given folders, started or not.

    Each is followed by one more for each further test that it was asked: as a run of that task would be read.
    """
    if folders is None:
        folders = sorted({file.parent for name in ("run.json", IMPORTED) for file in root.glob(f"cells/*/{name}")})
    runs, planned = list[Run](), foreseen(sorted(root.glob("reports/*/plan.json")))
    for folder in folders:
        found = _read(folder / "run.json")
        found = _read(folder / IMPORTED) if found[0].trouble and (folder / IMPORTED).is_file() else found
        runs += [replace(each, planned=planned.get(folder.name, {})) for each in found]
    return runs


def _read(file: Path) -> list[Run]:
    folder, state = file.parent, "unreadable"
    try:
        facts = json.loads(read(file))
        if file.name != IMPORTED:
            return as_runs(folder, facts, _records(folder))
        if not is_whole(facts):
            raise ValueError(file)
        return as_runs(folder, facts["run"], facts["records"], facts["rows"])
    except FileNotFoundError:
        state, why = "not started", "it was not started; run its command"
    except (OSError, *DAMAGE):
        remedy = "import it again" if file.name == IMPORTED else "run its command again"
        why = f"its {file.name} cannot be read; delete the folder, or {remedy}"
    except UserError as error:
        why = str(error)
    return [Run(folder, folder.name, {}, None, [], state, trouble=why)]


def as_runs(
    folder: Path, facts: dict[str, Any], records: dict[str, dict[str, Any]], rows: dict[str, Any] | None = None
) -> list[Run]:
    """The run, and one for each further test, that run.json and records tell of; `rows` of an imported one."""
    tests = dict(facts.get("tests") or {})
    run = Run(
        folder=folder,
        name=str(facts["name"]),
        config=facts["config"],
        setting=facts["setting"] and str(facts["setting"]),
        overrides=[str(item) for item in facts["overrides"]],
        state=str(facts.get("state", "finished")),
        records=_own(records, tuple(tests)),
        wandb=facts.get("wandb", {}),
        imported=rows,
    )
    further = [_of_further(run, test, about, records) for test, about in tests.items() if f"{test}evaluate" in records]
    return [replace(each, trouble=_trouble(each)) for each in (run, *further)]


def _own(records: dict[str, dict[str, Any]], tests: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The steps that are about no further test; without what an earlier model had learnt, as no score depends on it."""
    own = {step: record for step, record in records.items() if not step.startswith(tests)}
    present = {contents(record) for record in own.values()} if own.keys() & _LEARNT else set[str]()
    return {step: own[step] for step in own if step not in _LEARNT or not _earlier(step, own, present)}


def _of_further(run: Run, test: str, about: dict[str, Any], records: dict[str, dict[str, Any]]) -> Run:
    """A run as one of a further test, which begins the names of its own steps: `svamp_`."""
    links = {step.removeprefix(test): step for step in records if step.startswith(test)}
    shared = {step: each for step, each in run.records.items() if step not in _OF_TEST}
    return replace(
        run,
        name=f"{run.name} asked {about['task']['name']}",
        config=run.config | {"task": about["task"]},
        setting=about["setting"] and str(about["setting"]),
        records=shared | {step: records[link] for step, link in links.items()},
        wandb=run.wandb | {step: run.wandb[link] for step, link in links.items() if link in run.wandb},
        links=links,
    )


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    """The steps whose artifacts are there, each after those that it was made from; `UserError` names a damaged one."""
    records: dict[str, dict[str, Any]] = {}
    made: dict[str, str] = {}  # the digest of an artifact -> its step
    for step in sorted(folder.iterdir()):
        try:
            if (file := follow(step) / "record.json").exists():
                records[step.name] = record = json.loads(read(file))
                made[contents(record)] = step.name
        except (OSError, *DAMAGE):
            remedy = f"delete what {step.name} links to and run its command again"
            raise UserError(f"its {step.name}/record.json cannot be read; {remedy}") from None
    inputs = {step: used(record["recipe"]["inputs"]) & made.keys() for step, record in records.items()}
    before = {step: {made[each] for each in digests} for step, digests in inputs.items()}
    return {step: records[step] for step in TopologicalSorter(before).static_order()}


def _trouble(run: Run) -> str | None:
    """Why a run's score cannot be used; None when it can."""
    if changed := [step for step, record in run.records.items() if not is_whole(record)]:
        remedy = f"delete what {changed[0]} links to and run its command again"
        return f"its {changed[0]}/record.json was changed after it was made; {remedy}"
    if "evaluate" not in run.records:
        reached = f"after {list(run.records)[-1]}" if run.records else "before its first step was done"
        if (link := run.folder / "evaluate").is_symlink() or link.is_file():
            return "its evaluation was removed; run its command again"
        if run.state == "running":
            return f"it was not finished: it stopped without a word (killed?) or still runs, {reached}"
        asked = run.state.startswith(STOPPED)
        return f"it ended {reached}, as asked" if asked else f"it failed {reached}: {run.state}"
    made = run.records["evaluate"]["recipe"]
    if made["version"] != (now := SCORE_VERSION + rules_version(made["config"].get("grader"))):
        return f"its score is of version {made['version']} of the evaluation, now {now}; run its command again"
    for step in sorted({"evaluate", "evaluate_untuned"} & run.records.keys()):
        try:
            _ = Evaluation(run, step).sampled
        except TypeError:
            remedy = f"delete what {step} links to and run its command again"
            return f"its {step}/record.json has not the fields of a score; {remedy}"
    present = set(run.digests.values())
    for step in run.records:
        if name := _earlier(step, run.records, present):
            return f"its {step} was made from an earlier {name}; run its command again"
    return None


def _earlier(step: str, records: dict[str, dict[str, Any]], present: set[str]) -> str | None:
    """A step of which this one is made from another artifact than is `present` now."""
    inputs = records[step]["recipe"]["inputs"]
    return next((name for name, made in inputs.items() if name in records and not used(made) <= present), None)
