"""A task: where its problems come from, how answers are compared, how much is trained on."""

from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Optional

from omegaconf import OmegaConf

from lema.config import allowed
from lema.config.allowed import Count, CountOr0, Made, Name, Seed
from lema.config.choices import AnswerForm, Grader, Split

CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass(kw_only=True)
class DatasetConfig:
    """Where rows come from and how they are read: a local folder of `SPLIT.jsonl` (or `.xml`) files, or the Hub."""

    path: Optional[allowed.Path] = None  # folder; null loads hub_id
    hub_id: str
    revision: str
    subsets: list[str]
    splits: dict[str, str]  # ours -> the folder's: {train: train, test: test}
    hub_splits: dict[str, str]  # ours -> the Hub's
    train_rows: Optional[Count] = None  # as published: for estimates before the data are there
    question: list[str]  # fields joined by a space; fields are found whatever their case
    candidates: Optional[str] = None  # field of the choices
    solution: Optional[str] = None  # field of the reference rationale; null where there is none
    answer: str  # field of the gold answer
    answer_form: AnswerForm
    level: Optional[str] = None
    subject: Optional[str] = None


@dataclass(kw_only=True)
class TrainDatasetConfig(DatasetConfig):
    """The data set of another task, which a task without one of its own is trained on."""

    name: Name
    grader: Grader


@dataclass(kw_only=True)
class TaskConfig:
    """A task: where its problems come from, how answers are compared, how much is trained on."""

    name: Name
    real: bool  # a published data set; false when made here
    grader: Grader
    seed: Seed  # of the dev cut, of made problems, and of every draw of the mix
    num_dev: CountOr0  # training questions held out as dev
    max_cot: Optional[Count] = None  # CoT examples; null is all. The other questions are the pool of the extras
    max_extra: Optional[Count] = None  # corrections (and their controls); null is all
    rationales: CountOr0  # further CoT solutions that rationales=gpt4 asks for
    max_source_tokens: Count
    max_target_tokens: Count
    dataset: Optional[DatasetConfig] = None  # null: word problems made by `lema.data.arithmetic`, in these numbers
    train_dataset: Optional[TrainDatasetConfig] = None  # train and dev come from here; null: from `dataset` too
    num_train: Optional[Made] = None
    num_test: Optional[Made] = None

    @property
    def trained(self) -> "TaskConfig | TrainDatasetConfig":
        """Whose `name` and `grader` the training problems have."""
        return self.train_dataset or self

    @property
    def trained_dataset(self) -> Optional[DatasetConfig]:
        """Where the training problems come from; None when they are made here."""
        return self.train_dataset or self.dataset

    def grader_of(self, split: Split) -> Grader:
        """Whose rules compare the answers of a split: a dev question is the training data's."""
        return self.grader if split is Split.test else self.trained.grader


def further_tests(task: TaskConfig) -> dict[str, TaskConfig]:
    """By name the other tasks whose test the models of a task can be asked, each with all else as `task` has it.

    further_tests(gsm8k)["svamp"] is what `task=svamp` composes to: SVAMP's test and GSM8K's training questions. Its
    rows lie in the folder `svamp` beside GSM8K's, or on the Hub where those do.
    """
    trained, found = task.trained_dataset, dict[str, TaskConfig]()
    for own in known_tasks():
        if trained is None or own.name == task.name or own.trained.name != task.trained.name:
            continue
        values = {each.name: getattr(trained, each.name) for each in fields(DatasetConfig)}
        rows: Any = {"dataset": DatasetConfig(**values), "train_dataset": None}
        if own.train_dataset and own.dataset:
            beside = trained.path and str(Path(trained.path).parent / own.name)
            training = TrainDatasetConfig(**values, name=task.trained.name, grader=task.trained.grader)
            rows = {"dataset": replace(own.dataset, path=beside), "train_dataset": training}
        found[own.name] = replace(task, name=own.name, real=own.real, grader=own.grader, **rows)
    return found


@cache
def known_tasks() -> list[TaskConfig]:
    """The tasks of conf/task that have a data set."""
    tasks: list[Any] = [OmegaConf.to_object(read_task(file)) for file in sorted((CONF / "task").glob("[!.]*.yaml"))]
    return [each for each in tasks if each.dataset]


def read_task(file: Path) -> Any:
    """The task of a file, with the data sets that its defaults list names (`dataset@train_dataset: gsm8k`)."""
    content: Any = OmegaConf.load(file)
    named = {key: name for entry in content.pop("defaults", []) if entry != "_self_" for key, name in entry.items()}
    parts = [
        {key.partition("@")[2]: OmegaConf.load(file.parent / "dataset" / f"{name}.yaml")} for key, name in named.items()
    ]
    return OmegaConf.merge(OmegaConf.structured(TaskConfig), *parts, content)
