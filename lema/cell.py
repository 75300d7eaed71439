"""A cell of the experiment while it runs: its config, where its artifacts are, what it has made so far."""

from dataclasses import dataclass, field, replace

from lema.artifacts import Artifact, Store
from lema.config import Config, Split, digest, identity, plain
from lema.models.weights import Weights, weights
from lema.tracking import Tracker
from lema.types import Problem


@dataclass
class Cell:
    """One backbone, task, mix and seed. Stages read `artifacts` of earlier steps by the step's name."""

    config: Config
    store: Store
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    plain = staticmethod(plain)

    def __post_init__(self) -> None:
        config, backbone, task = self.config, self.config.backbone, self.config.task
        self.identity = identity(config)
        self.key = digest(self.identity)  # the same command has the same key on every machine
        # Of the task and of what it is trained on: tasks that share training data share all that is made of it.
        self.task_label, self.train_label = (
            each.name + (f"-limit{config.limit}" if config.limit else "") for each in (task, task.trained)
        )
        self.backbone_label = backbone.name + (f"-{backbone.size}" if backbone.size else "")
        self.arm = f"{self.backbone_label}-{config.mix.name}-seed{config.seed}"
        # Readable: `arithmetic-tiny-lema-seed1`. With the key, the run's directory: a pure function of the config.
        self.name = f"{self.task_label}-{self.arm}"
        self.folder = self.store.root / "cells" / f"{self.name}-{self.key}"
        self.tracker = Tracker(config, self.name, self.key)
        self.builds_base = backbone.tiny is not None and backbone.path is None  # by the project itself

    @property
    def setting(self) -> str:
        """What the arms of one comparison share: everything but mix and seed, data by content."""
        shared = {name: value for name, value in self.identity.items() if name not in ("mix", "seed", "task")}
        task = {name: value for name, value in self.identity["task"].items() if not name.endswith("dataset")}
        return digest({**shared, "task": task, "data": self.artifacts["data"].digest, "asked": self.asked.digest})

    @property
    def asked(self) -> Artifact:
        """Where the problems of `evaluation.split` are; dev is always cut from the training problems."""
        own_test = self.config.task.train_dataset is not None and self.config.evaluation.split is Split.test
        return self.artifacts["test_data" if own_test else "data"]

    @property
    def base(self) -> Weights:
        """The untuned backbone."""
        if self.builds_base:
            made = self.artifacts["base"]
            return Weights(self.config.backbone.name, str(made.path), None, made.digest)
        return weights(self.config.backbone)

    @property
    def sampled_weights(self) -> Weights:
        """The model whose mistakes are corrected."""
        model = self.config.sampler.model
        return self.base if model is None else weights(model)

    @property
    def other(self) -> "Cell":
        """This cell with another model's mistakes: `sampler.other`'s, or of a base built here another base's."""
        config = self.config
        if config.backbone.tiny and self.builds_base:
            config = replace(config, backbone=replace(config.backbone, seed=config.backbone.tiny.other_seed))
        else:
            config = replace(config, sampler=replace(config.sampler, model=config.sampler.other))
        if config.corrector.budget_usd is not None and "correct" in self.artifacts:  # one budget for both
            left = config.corrector.budget_usd - self.artifacts["correct"].summary.get("usd", 0.0)
            config = replace(config, corrector=replace(config.corrector, budget_usd=max(0.0, left)))
        own = {"data": self.artifacts["data"]} if "data" in self.artifacts else {}
        made = {name.removeprefix("other_"): each for name, each in self.artifacts.items() if name.startswith("other_")}
        return Cell(config, self.store, own | made)

    def problems(self, *splits: str) -> list[Problem]:
        """The problems of the given splits of the training data, in order."""
        return [problem for split in splits for problem in self.artifacts["data"].rows(f"{split}.jsonl", Problem)]
