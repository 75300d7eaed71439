"""A cell of the experiment while it runs: its config, where its artifacts are, what it has made so far; its steps."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from lema import engines
from lema.artifacts import Artifact, Given, Recipe, Store
from lema.config import Config, CotPart, Extra, MixConfig, Split, further_tests, known_tasks
from lema.data import tasks
from lema.data.leakage import TestQuestions
from lema.engines import Account, LocalModel, ServedModel, chat
from lema.identity import digest, identity
from lema.models.weights import Weights, weights
from lema.prompts.demonstrations import demonstrations
from lema.tracking.runs import Tracker
from lema.types import MAY_BE_RIGHT, Corrected, Engine, UserError

OTHER = "other_"  # begins the names of the steps that are about another model's mistakes
TUNED = "tuned_"  # of those that make the model of sampler=tuned
_COT = MixConfig(name="cot", cot=CotPart.all, extra=Extra.none, match_tokens=False)  # conf/mix/cot.yaml
_EXAMPLES = ("sampler.demonstrations", "rationales.demonstrations", "corrector.prompt")  # settings that name files
_TEST_QUESTIONS = 5000  # at most, of the known tasks: MATH's
_counted: dict[str, int] = {}  # the training questions of data that no artifact holds yet


@dataclass(frozen=True)
class Context:
    """What a stage's `build` may use beside its settings and inputs. Nothing of it changes what a stage makes."""

    # Opens the engine of a `LocalModel`, which takes its weights and an adapter, or of a `ServedModel`.
    engine: Callable[..., Engine]
    track: Callable[[dict[str, float], int], None]  # values of the training curve, and their step
    test_questions: Callable[[], TestQuestions]  # of all known tasks that can be read: no sample may be about one


@dataclass
class Cell:
    """One backbone, task, mix and seed. Stages read `artifacts` of earlier steps by the step's name."""

    config: Config
    store: Store
    artifacts: dict[str, Artifact] = field(default_factory=dict)

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
        own = any(source.is_own for source in sampler.models.values())
        self.sampler_label = f"{sampler.name}-{self.backbone_label}" if own else sampler.name
        self._opened: list[tuple[tuple[Weights, Path | None], LocalModel, Engine]] = []  # all of one model
        self._stage = ""  # that opened them
        self._are_examples_checked = False
        self._asked_now: list[Engine] = []  # by the present step

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
        return self._held(self.config.evaluation.split)

    def _held(self, split: Split) -> str:
        """The step that makes the problems of a split."""
        return "test_data" if self.config.task.train_dataset is not None and split is Split.test else "data"

    def num_asked(self, split: Split) -> int:
        """How many problems a split has: as made, or as the task says, of a published test at most."""
        if made := self.artifacts.get(self._held(split)):
            return made.summary[split]
        task, limit = self.config.task, self.config.limit
        published = task.num_dev if split is Split.dev else task.num_test or _TEST_QUESTIONS
        return min(published, limit or published)

    @property
    def num_questions(self) -> int:
        """How many training questions there are: as made, as they lie in a folder, or as published."""
        source, limit = tasks.trained_on(self.config.task), self.config.limit
        if "data" in self.artifacts:
            return self.artifacts["data"].summary["train"]
        if source.dataset and source.path is None:
            published = source.dataset.train_rows or 0
            return min(published, limit or published)
        key = digest([source.digest, source.num_dev, source.seed, limit])
        if key not in _counted:  # of all cells on the same data
            _counted[key] = len(tasks.load(source, limit)["train"])
        return _counted[key]

    @property
    def base(self) -> Weights:
        """The untuned backbone."""
        if self.builds_base:
            made = self.artifacts["base"]
            return Weights(self.config.backbone.name, str(made.path), None, made.digest)
        return weights(self.config.backbone)

    def evaluated(self, four_bit: bool, tuned: bool) -> LocalModel:
        """How the backbone answers when it is scored: greedily."""
        evaluation, engine = self.config.evaluation, self.config.engine
        name = getattr(engine, "tuned", None) if tuned else None  # by which somebody serves it
        return LocalModel(
            engine=replace(engine, model=name) if name else engine,
            computation=self.config.backbone.computation,
            max_new_tokens=evaluation.max_new_tokens,
            four_bit=four_bit,
        )

    def demonstrations(self, grader: str, key: str = "sampler.demonstrations") -> Given:
        """The worked examples that a model sees first: the user's file, which the setting `key` names, or ours."""
        kind = "correct" if key.startswith("corrector.") else "solve"
        return Given.text(demonstrations(kind, grader, self._named_by(key), key))

    def _named_by(self, key: str) -> str | None:
        section, name = key.split(".")
        return getattr(getattr(self.config, section), name)

    def check_examples(self) -> None:
        """Raise `UserError` where worked examples of the user's own hold a test question."""
        own = {key: file for key in _EXAMPLES if (file := self._named_by(key)) not in (None, MAY_BE_RIGHT)}
        if not own or self._are_examples_checked:
            return
        tests = self._test_questions()
        for key, file in own.items():
            if match := tests.within(self.demonstrations("", key).value):
                question = f"the test question {match.problem.id} {match.problem.question!r:.60} ({match.why})"
                raise UserError(f"{key}={file}: holds {question}; remove that example")
        self._are_examples_checked = True

    @property
    def correctors(self) -> list[str]:
        """The models that really corrected what this cell is trained on."""
        steps = ("correct", "other_correct") if self.config.mix.extra is not Extra.none else ()
        made = [self.artifacts[name] for name in steps if name in self.artifacts]
        return sorted({name for each in made for name in each.read(Corrected).correctors})

    @property
    def other(self) -> "Cell":
        """This cell with another model's mistakes: `sampler.other`'s, or of a base built here another base's."""
        config = self.config
        if config.backbone.tiny and self.builds_base:
            config = replace(config, backbone=replace(config.backbone, seed=config.backbone.tiny.other_seed))
        elif config.sampler.other:
            config = replace(config, sampler=replace(config.sampler, models={"other": config.sampler.other}))
        own = {name: each for name, each in self.artifacts.items() if name in ("data", "rationales")}
        return Cell(config, self.store, own | self._named(OTHER))

    @property
    def tuned(self) -> "Cell":
        """The cell of this one's CoT examples alone, with which it shares the training."""
        own = {name: each for name, each in self.artifacts.items() if name in ("data", "base", "rationales")}
        return Cell(replace(self.config, mix=_COT), self.store, own | self._named(TUNED))

    @property
    def tests(self) -> dict[str, "Cell"]:
        """The cell of each of `evaluation.tasks`, by the beginning of the names of its steps: `svamp_`."""
        own = {name: made for name, made in self.artifacts.items() if name != "test_data"}
        named = self.config.evaluation.tasks
        known = further_tests(self.config.task) if named else {}
        return {
            f"{name}_": Cell(replace(self.config, task=known[name]), self.store, own | self._named(f"{name}_"))
            for name in named or ()
        }

    @property
    def test_rows(self) -> tasks.ProblemSource:
        """Where its test problems come from."""
        return tasks.tested_on(self.config.task)

    def within(self, prefix: str) -> "Cell":
        """The cell that the steps are about whose names begin so."""
        return self.other if prefix == OTHER else self.tuned if prefix == TUNED else self.tests[prefix]

    def _named(self, prefix: str) -> dict[str, Artifact]:
        """The artifacts whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): each for name, each in self.artifacts.items() if name.startswith(prefix)}

    @property
    def context(self) -> Context:
        """What the stages of this cell may use."""
        return Context(self._engine, self.tracker.log, self._test_questions)

    def _engine(
        self, model: LocalModel | ServedModel, held: Weights | None = None, adapter: Path | None = None
    ) -> Engine:
        engines.running.logs = self.folder
        account = Account(
            journal=self.store.root / "journal.sqlite",
            prices=self.config.prices,
            budget_usd=self.config.budget_usd,
            paid_usd=self.paid + self.spent,
            retry_failed=self.config.retry_failed,
        )
        if isinstance(model, LocalModel):
            assert held
            if self._opened and self._opened[0][0] != (held, adapter):
                self._opened.clear()
                self._asked_now = [each for each in self._asked_now if each.costs]  # and with the others their weights
                _release()
            engine = next((engine for _, how, engine in self._opened if how == model), None)
            if engine is None:
                engine = engines.load(model, held, adapter, account)
                self._opened.append(((held, adapter), model, engine))
        else:
            engine = chat.Engine(model, account)
        if engine not in self._asked_now:
            self._asked_now.append(engine)
        return engine

    @property
    def paid(self) -> float:
        """Dollars of the budget that its artifacts have taken, whoever paid them."""
        return sum(artifact.summary.get("usd", 0.0) for artifact in self.artifacts.values())

    @property
    def spent(self) -> float:
        """Dollars that the present step has paid so far."""
        return sum(engine.costs.get("usd", 0.0) for engine in self._asked_now)

    def begin(self, stage: str) -> None:
        """Let go of the models of an earlier stage, and of a server before a stage that needs the GPU for itself."""
        if stage != self._stage or self.spent:  # what an engine has cost is of one step alone
            self._opened.clear()
        self._asked_now.clear()
        _release()
        if stage in ("base", "train", "merge"):
            engines.running.close()
        self._stage = stage

    def _test_questions(self) -> TestQuestions:
        return TestQuestions(tasks.known_tests(self.config.task, known_tasks()))


def _release() -> None:
    """Give back the GPU's memory of models that are let go of.

    Layers in NF4 and a trainer hold themselves in cycles, which Python looks for by the number of objects alone. That
    takes a third of a second, and on a CPU is not worth it.
    """
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        from lema.models.sizes import release_memory

        release_memory()


@dataclass(frozen=True)
class Step:
    """One artifact of a cell, made by the stage's module."""

    called: str
    stage: str
    options: dict[str, Any] = field(default_factory=dict)  # of the stage's functions, beside the cell
    within: tuple[str, ...] = ()  # the beginnings of its name that lead to the cell it is about

    @property
    def name(self) -> str:
        """Its key in `Cell.artifacts`, and its link's."""
        return "".join((*self.within, self.called))

    def recipe(self, cell: Cell) -> Recipe:
        """What its artifact is made from."""
        return self._module.recipe(self._of(cell), **self.options)

    def build(self, recipe: Recipe, cell: Cell, folder: Path) -> dict[str, Any]:
        """Make its files from its recipe."""
        cell.begin(self.stage)
        if self.stage != "data":  # once the test questions are here, before anything is trained or paid
            cell.check_examples()
        made = self._module.build(recipe.settings, recipe.inputs, cell.context, folder)
        return {"usd": cell.spent} | made if cell.spent else made

    def requests(self, cell: Cell) -> list[Any]:
        """What it asks of servers."""
        asked = getattr(self._module, "requests", None)
        return asked(self._of(cell), **self.options) if asked else []

    def _of(self, cell: Cell) -> Cell:
        for prefix in self.within:
            cell = cell.within(prefix)
        return cell

    @property
    def _module(self) -> Any:
        return import_module(f"lema.stages.{self.stage}")
