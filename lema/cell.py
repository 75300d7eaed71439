"""A cell of the experiment while it runs: its config, where its artifacts are, what it has made so far."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact, Store
from lema.config import Config, digest, identity
from lema.models.weights import Weights, weights
from lema.tracking import Tracker
from lema.types import Problem


@dataclass
class Cell:
    """One backbone, task, mix and seed. Stages read `artifacts` of earlier steps by the step's name."""

    config: Config
    store: Store
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return identity(self.config)

    @cached_property
    def tracker(self) -> Tracker:
        return Tracker(self.config, self.name, self.key)

    @property
    def key(self) -> str:
        """Stable id of this cell: the same command has the same key on every machine."""
        return digest(self.identity)

    @property
    def task_label(self) -> str:
        limit = self.config.limit
        return self.config.task.name + (f"-limit{limit}" if limit else "")

    @property
    def backbone_label(self) -> str:
        return self.config.backbone.name + (f"-{self.config.backbone.size}" if self.config.backbone.size else "")

    @property
    def name(self) -> str:
        """Readable: `arithmetic-tiny-lema-seed1`."""
        return f"{self.task_label}-{self.backbone_label}-{self.config.mix.name}-seed{self.config.seed}"

    @property
    def folder(self) -> Path:
        """The run's directory: a pure function of the config."""
        return self.store.root / "cells" / f"{self.name}-{self.key}"

    @property
    def setting(self) -> str:
        """What the arms of one comparison share: everything but mix and seed, data by content."""
        shared = {name: value for name, value in self.identity.items() if name not in ("mix", "seed", "task")}
        task = {name: value for name, value in self.identity["task"].items() if name != "dataset"}
        return digest({**shared, "task": task, "data": self.artifacts["data"].digest})

    @property
    def builds_base(self) -> bool:
        """Whether the project makes this backbone's base itself."""
        return self.config.backbone.tiny is not None and self.config.backbone.path is None

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

    def problems(self, *splits: str) -> list[Problem]:
        """The problems of the given splits, in order."""
        return [problem for split in splits for problem in self.artifacts["data"].rows(f"{split}.jsonl", Problem)]

    def plain(self, part: Any) -> dict[str, Any]:
        """A config section as plain values, as recipes record it."""
        return json.loads(json.dumps(asdict(part)))
