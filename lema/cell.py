"""A cell of the experiment while it runs: its config, where its artifacts are, what it has made so far."""

from dataclasses import dataclass, field, replace
from typing import Any

from lema.api import estimate
from lema.api.asking import ask
from lema.api.journal import Answer
from lema.artifacts import Artifact, Store
from lema.config import ApiConfig, Ask, Config, Grader, SourceConfig, SourceKind, Split
from lema.config.compose import known_tasks
from lema.data import tasks
from lema.data.leakage import TestQuestions
from lema.identity import digest, identity, plain
from lema.models.weights import Weights, weights
from lema.prompts.demonstrations import demonstrations
from lema.prompts.formats import cot_prompt, few_shot_prompt
from lema.tracking import Tracker
from lema.types import Problem, UserError


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
        self.tracker = Tracker(config, self.store.root)
        self.builds_base = backbone.tiny is not None and backbone.path is None  # by the project itself
        sampler = config.sampler
        own = any(source.kind is SourceKind.backbone for source in sampler.models.values())
        self.sampler_label = f"{sampler.name}-{self.backbone_label}" if own else sampler.name

    @property
    def setting(self) -> str | None:
        """What the arms of one comparison share: everything but mix and seed, data by content; None before those."""
        if not {"data", "test_data"} & self.artifacts.keys() >= {"data", self._asked}:
            return None
        shared = {name: value for name, value in self.identity.items() if name not in ("mix", "seed", "task")}
        task = {name: value for name, value in self.identity["task"].items() if not name.endswith("dataset")}
        return digest({**shared, "task": task, "data": self.artifacts["data"].digest, "asked": self.asked.digest})

    @property
    def asked(self) -> Artifact:
        """Where the problems of `evaluation.split` are; dev is always cut from the training problems."""
        return self.artifacts[self._asked]

    @property
    def _asked(self) -> str:
        own_test = self.config.task.train_dataset is not None and self.config.evaluation.split is Split.test
        return "test_data" if own_test else "data"

    @property
    def base(self) -> Weights:
        """The untuned backbone."""
        if self.builds_base:
            made = self.artifacts["base"]
            return Weights(self.config.backbone.name, str(made.path), None, made.digest)
        return weights(self.config.backbone)

    def weights_of(self, source: SourceConfig) -> Weights:
        """The model of a sampler that is loaded here."""
        return weights(source.weights) if source.weights else self.base

    @property
    def corrector_weights(self) -> Weights:
        """The corrector that is loaded here."""
        assert self.config.corrector.weights
        return weights(self.config.corrector.weights)

    @property
    def other(self) -> "Cell":
        """This cell with another model's mistakes: `sampler.other`'s, or of a base built here another base's."""
        config = self.config
        if config.backbone.tiny and self.builds_base:
            config = replace(config, backbone=replace(config.backbone, seed=config.backbone.tiny.other_seed))
        elif config.sampler.other:
            config = replace(config, sampler=replace(config.sampler, models={"other": config.sampler.other}))
        made = {name.removeprefix("other_"): each for name, each in self.artifacts.items() if name.startswith("other_")}
        own = {name: each for name, each in self.artifacts.items() if not name.startswith("other_")}
        if config.budget_usd is not None:  # one budget for both
            config = replace(config, budget_usd=max(0.0, config.budget_usd - _usd(own)))
        return Cell(config, self.store, {"data": own["data"], **made} if "data" in own else made)

    def test_questions(self) -> TestQuestions:
        """Those of every known task that can be read: nothing of them is ever sampled or corrected."""
        return TestQuestions(tasks.known_tests(self.config.task, known_tasks()))

    @property
    def paper_success(self) -> dict[str, float]:
        """The paper's share of a model's mistakes that were corrected, by our models' names: MATH's."""
        models = self.config.sampler.models if self.config.task.trained.grader is Grader.math else {}
        made = {name: self.artifacts[f"sample_{name}"] for name, each in models.items() if each.paper_success}
        return {
            model: models[name].paper_success or 0.0 for name, each in made.items() for model in each.summary["models"]
        }

    def few_shot(self, source: SourceConfig) -> str | None:
        """The worked solutions that a model of the sampler sees before a question; None when it sees none."""
        if (source.prompt or (Ask.few_shot if source.api else None)) is not Ask.few_shot:
            return None
        return self._solved(self.config.sampler.demonstrations, "sampler.demonstrations")

    def sample_prompt(self, source: SourceConfig, problem: Problem) -> str:
        """What a model behind a server is asked."""
        if (shown := self.few_shot(source)) is not None:
            return few_shot_prompt(shown, problem.question, problem.candidates)
        return cot_prompt(source.prompt or "lema", problem.question, problem.candidates)

    def rationale_prompt(self, problem: Problem) -> str:
        """What the strong model of the rationales is asked."""
        shown = self._solved(self.config.rationales.demonstrations, "rationales.demonstrations")
        return few_shot_prompt(shown, problem.question, problem.candidates)

    @property
    def corrections_shown(self) -> str:
        """The instruction and worked corrections that a corrector sees first."""
        return demonstrations(
            "correct", self.config.task.trained.grader, self.config.corrector.prompt, "corrector.prompt"
        )

    def _solved(self, file: str | None, key: str) -> str:
        return demonstrations("solve", self.config.task.trained.grader, file, key)

    def ask(
        self, prompts: list[tuple[str, int]], spent_usd: float = 0.0, *, api: ApiConfig, section: str
    ) -> tuple[list[Answer], dict[str, Any]]:
        """An answer to each (prompt, attempt), and what they cost: nothing that the journal holds is paid again.

        The budget is also for `spent_usd`, and for what the artifacts made so far cost. Raises `UserError` when nothing
        at all was answered, further attempts aside.
        """
        price = estimate.price(api, self.config.prices, section)
        free = price.input_usd == price.output_usd == 0  # needs no consent
        answers, spending = ask(
            prompts,
            api,
            price,
            section=section,
            budget_usd=0.0 if self.config.budget_usd is None and free else self.config.budget_usd,
            paid_usd=_usd(self.artifacts) + spent_usd,
            journal_path=self.store.root / "journal.sqlite",
            retry_failed=self.config.retry_failed,
        )
        if prompts and all(answer.failed for answer in answers) and not all(number for _, number in prompts):
            why, first = f"{section}: none of {len(answers)} requests was answered", answers[0]
            raise UserError(f"{why} ({first.ended}: {first.said}): mend that, then run again with retry_failed=true")
        failed = sum(not answer.usable for answer in answers)
        return answers, vars(spending) | {"failed": failed}

    def problems(self, *splits: str) -> list[Problem]:
        """The problems of the given splits of the training data, in order."""
        return [problem for split in splits for problem in self.artifacts["data"].rows(f"{split}.jsonl", Problem)]


def _usd(artifacts: dict[str, Artifact]) -> float:
    """What artifacts cost, in dollars, whoever paid for them."""
    return sum(artifact.summary.get("usd", 0.0) for artifact in artifacts.values())
