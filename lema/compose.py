"""Turns the tree that Hydra composes from conf/ and sweeps/ into the typed config, and checks every value."""

import re
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from lema import engines
from lema.config import (
    Ask,
    Batches,
    Config,
    CotPart,
    Do,
    Extra,
    Grader,
    Method,
    Selection,
    Split,
    Without,
    asked,
    environment,
    further_tests,
    known_tasks,
    renamed,
)
from lema.config.allowed import at_home, refused
from lema.types import UserError


def register(sweeps: Path, arguments: Iterable[str] = ()) -> None:
    """Give Hydra the schema, and as choices of `sweeps=` each file of the folder `sweeps` and the arguments' own.

    The folder is not on Hydra's search path, where each folder beside it would become a group. `sweeps=MY/FILE.yaml`
    may lie anywhere; a `UserError` says why it cannot be read.
    """
    store = ConfigStore.instance()
    # Hydra copies the whole store for each group that it lists (94 times for --help), and again what it loads from it.
    setattr(store, "__deepcopy__", lambda memo: store)  # noqa: B010
    store.store(name="schema", node=Config)
    for file in sorted(sweeps.glob("[!.]*.yaml")):  # not `.#demo.yaml`, Emacs' lock of a file, a link to nowhere
        store.store(group="sweeps", name=file.stem, node=OmegaConf.load(file), package="_global_")
    for argument in arguments:
        name = argument.removeprefix("sweeps=").strip("'\"")
        if argument.startswith("sweeps=") and name.endswith(".yaml"):
            *folders, file = filter(None, name.split("/"))  # `./` is kept, as Hydra looks the name up as it stands
            group = "/".join(["sweeps", *folders])
            store.store(group=group, name=file, node=_sweep(Path(name), argument), package="_global_")


def _sweep(file: Path, argument: str) -> DictConfig:
    content, why = None, "no such file"
    try:
        content = OmegaConf.load(file) if file.is_file() else None
        why = "must hold keys and values" if content is not None else "not a file" if file.exists() else why
    except (OSError, yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        why = f"cannot be read ({' '.join(str(error).split())})"
    if not isinstance(content, DictConfig):
        raise UserError(f"{argument}: {why}; name a file like those of sweeps/")
    return content


def to_config(composed: DictConfig) -> Config:
    """The typed config of a composed tree; a `UserError` names the key, the value and the choices."""
    environment.check(composed)
    renamed.refuse(composed)
    untyped: Any = None
    try:
        # This comes before anything is resolved: hub_id and other keys are looked up by the size.
        size, sizes = composed.backbone.size, list(composed.backbone.sizes)
        if size not in sizes and (sizes or size is not None):
            choices = ", ".join(sizes) or "one size: leave it null"
            raise UserError(f"backbone.size={size or 'null'}: {composed.backbone.name} comes in {choices}")
        # A plain container first: in a typed one, `+train.lr=1` evades the schema (Hydra 1.3).
        plain = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
        environment.check(plain)
        untyped = OmegaConf.create(plain)
        engine = {"engine": OmegaConf.structured(engines.settings_class(untyped.engine))}
        untyped.engine = OmegaConf.merge(engine, {"engine": untyped.engine}).engine
        # This takes the nodes of `untyped` without copying them; the errors below still find them by their keys.
        config: Any = OmegaConf.to_object(OmegaConf.unsafe_merge(OmegaConf.structured(Config), untyped))
    except ConfigKeyError as error:
        key, known = str(error.full_key), ", ".join(map(str, error.parent_node or ()))
        why = renamed.instead(key) or f"no such key; choose from {known}"
        raise UserError(f"{key}={OmegaConf.select(untyped, key)}: {why}") from None
    except MissingMandatoryValue:
        missing = ", ".join(sorted(OmegaConf.missing_keys(untyped)))
        raise UserError(f"{missing}: must be set") from None
    except OmegaConfBaseException as error:
        said = re.sub(r"While dereferencing interpolation '\$\{(?:oc\.env:)?([\w.]+)[^']*'", r"\1", str(error))
        raise UserError(f"{error.full_key}: {said.splitlines()[0]}") from None
    at_home(config, Config)
    if lines := dict(refused(config, Config)):
        # The user mends a value that refers to another key at that key.
        tree = OmegaConf.to_container(composed)
        raise UserError("\n".join([lines[path] for path in lines if not _refers(tree, path)] or lines.values()))
    _check(config)
    return config


def _refers(tree: Any, path: tuple[str, ...]) -> bool:
    """Whether the value at a path of an unresolved tree is an interpolation, or part of one."""
    for name in path:
        if isinstance(tree, dict):
            tree = tree[name]
    return isinstance(tree, str) and "${" in tree


def _check(config: Config) -> None:
    task, train, mix, packed = config.task, config.train, config.mix, config.train.batches is Batches.packed
    if task.dataset is None and None in (task.num_train, task.num_test):
        raise UserError(f"task={task.name}: set task.dataset, or task.num_train and task.num_test")
    tested = task.dataset if config.evaluation.split is Split.test else None
    for dataset, split in ((task.trained_dataset, "train"), (tested, "test")):
        if dataset and split not in (dataset.splits if dataset.path else dataset.hub_splits):
            key = "train_dataset" if dataset is task.train_dataset else "dataset"
            raise UserError(f"task.{key}.{'splits' if dataset.path else 'hub_splits'}.{split}: must be set")
    if train.epochs is None and train.max_steps is None:
        raise UserError("train.epochs=null train.max_steps=null: set one of them")
    if not packed and train.batch_size % train.micro_batch_size:
        raise UserError(f"train.micro_batch_size={train.micro_batch_size}: must divide {train.batch_size=}")
    if packed and train.row_tokens < (longest := train.max_source_tokens + train.max_target_tokens):
        raise UserError(f"train.row_tokens={train.row_tokens}: must hold {longest} tokens, the longest example's")
    for name in ("lora_rank", "lora_alpha"):
        if (train.method is Method.full) != ((value := getattr(train, name)) == 0):
            raise UserError(f"train.{name}={value}: must be 0 with train.method=full and at least 1 otherwise")
    asked.check(config)
    if mix.without and mix.extra is not Extra.corrections:
        raise UserError(f"mix.without={mix.without}: mix={mix.name} has no corrections; mix=lema or mix.without=null")
    if mix.without is Without.step and task.grader is Grader.csqa:
        raise UserError(f"mix={mix.name}: corrections of {task.name} name no step to leave out; run mix=lema")
    if mix.extra is Extra.inline_corrections and task.grader is Grader.csqa:
        raise UserError(f"mix={mix.name}: corrections of {task.name} name no step to correct in place; run mix=lema")
    _check_weights(config)
    if mix.cot is CotPart.none and mix.extra is Extra.none:
        raise UserError("mix.cot=none mix.extra=none: leave no example to train on; set one of them")
    lemas = mix.extra is Extra.none or (mix.extra is Extra.corrections and not mix.without)
    if mix.match_tokens and (lemas or mix.cot is not CotPart.all):
        raise UserError("mix.match_tokens=true: needs mix.cot=all and extras that are not lema's; see mix=cot_tokens")
    tiny = config.backbone.tiny if config.backbone.path is None else None
    if tiny and tiny.hidden_size % (2 * tiny.num_heads):
        heads = f"backbone.tiny.num_heads={tiny.num_heads}"
        raise UserError(f"{heads}: must cut backbone.tiny.hidden_size={tiny.hidden_size} into equal, even parts")
    if tiny and mix.extra is Extra.other_corrections and (seed := tiny.other_seed) == config.backbone.seed:
        raise UserError(f"backbone.tiny.other_seed={seed}: must not be backbone.seed: the other base would be the same")
    _check_learnt(config)
    _check_tests(config)
    _check_contrasts(config)
    _check_idle(config)


def _check_weights(config: Config) -> None:
    """Refuse a weight of what the arm has not, and weights that leave nothing of a correction to train on."""
    mix, weights = config.mix, vars(config.mix.weights)
    corrects = mix.extra in (Extra.corrections, Extra.other_corrections, Extra.inline_corrections)
    lacks = {mix.without} if corrects else {*weights}
    if config.task.grader is Grader.csqa and {part for part, weight in weights.items() if weight != 1} == {"step"}:
        lacks.add(Without.step)  # corrections of csqa name no step; with other weights the arm is still its own
    for part, weight in weights.items():
        if weight != 1 and part in lacks:
            raise UserError(f"mix.weights.{part}={weight}: does nothing with mix={mix.name}, which lacks this part")
    if corrects and not any(weight for part, weight in weights.items() if part not in lacks):
        raise UserError("mix.weights: leave nothing of a correction to train on; set one of them above 0")


def _check_learnt(config: Config) -> None:
    """Refuse to ask what was learnt where no kind of mistake can be told, or no question is held out."""
    task = config.task
    if config.evaluation.learnt and task.trained.grader in (Grader.math, Grader.csqa):
        why = "has no formulas in its reference solutions, by which kinds of mistakes are told"
        raise UserError(f"evaluation.learnt=true: {task.trained.name} {why}; leave it out, or choose another task")
    if config.evaluation.learnt and not task.num_dev:
        raise UserError(
            "evaluation.learnt=true task.num_dev=0: no dev question to ask; hold some out, task.num_dev=100"
        )


def _check_tests(config: Config) -> None:
    """Refuse further tests that this model cannot be asked in this run."""
    if not (tests := config.evaluation.tasks):
        return
    named = f"evaluation.tasks=[{','.join(tests)}]"
    if config.selection is Selection.paper:
        why = "chooses another checkpoint for each test, on the test itself"
        raise UserError(f"{named} selection=paper: {why}; run task={tests[0]} selection=paper")
    if config.evaluation.split is Split.dev:
        raise UserError(f"{named} evaluation.split=dev: these tasks share their dev questions; leave the tasks out")
    known, others = further_tests(config.task), {each.name: each.trained.name for each in known_tasks()}
    for name in tests:
        if name not in known:
            why = "is no task of conf/task"
            if trained := others.get(name):
                why = f"is asked of models trained on {trained}, and this one is trained on {config.task.trained.name}"
            why = "is the run's own test, and asked without being named" if name == config.task.name else why
            choices = f"choose from {', '.join(known)}" if known else "there is no further test of such models"
            raise UserError(f"{named}: {name} {why}; {choices}")
        if tests.count(name) > 1:
            raise UserError(f"{named}: has {name} twice; leave one out")


def _check_contrasts(config: Config) -> None:
    """Refuse contrasts of arms that are no files of conf/mix, nor of a folder that the command line adds to it."""
    stated, hydra = config.report.contrasts or [], GlobalHydra.instance()
    known = hydra.config_loader().get_group_options("mix") if stated and hydra.is_initialized() else []
    for each, arms in zip(stated, config.report.pairs or [], strict=True):
        named = f"report.contrasts: {each}"
        if not all(arms) or arms[0] == arms[1]:
            raise UserError(f"{named}: must be two arms, ARM/OTHER, as in lema/cot_matched")
        # A mix that the command line changed is an arm of its own: `lema (mix.weights.solution=0.5)`.
        if unknown := [arm for arm in arms if known and arm.partition(" (")[0] not in (*known, config.mix.name)]:
            raise UserError(f"{named}: {unknown[0]} is no arm; choose from {', '.join(known)}")
        if stated.count(each) > 1:
            raise UserError(f"{named}: stands there twice; leave one out")


def _check_idle(config: Config) -> None:
    """Refuse a setting that does nothing."""
    task, train, mix, sampler, scored = config.task, config.train, config.mix, config.sampler, config.evaluation
    sources = [*sampler.models.values(), *([sampler.other] if sampler.other else [])]
    full, rows = train.method is Method.full, task.dataset is not None
    built = config.backbone.tiny is not None and config.backbone.path is None
    built_here = f"with backbone={config.backbone.name}, which is built here: backbone.path=FOLDER, or another backbone"
    servers, with_sampler = [source.api for source in sources if source.api], f"with sampler={sampler.name}"
    pays = servers or any(each.model for asked in config.writers.values() for each in asked.values())
    idle_until = f"with only={config.only}" if config.only else f"with do={config.do}"
    few_shot = any(source.prompt is Ask.few_shot or (source.api and not source.prompt) for source in sources)
    few_shot |= scored.untuned_prompt is Ask.few_shot
    idle = {
        "evaluation.seed": (scored.seed and not scored.temperature, "at evaluation.temperature=0"),
        "train.merge": (full and train.merge, "with train.method=full, which makes no adapter: train.merge=null"),
        "train.lora_dropout": (full and train.lora_dropout, "with train.method=full: train.lora_dropout=0"),
        "task.num_train": (rows and task.num_train, "where task.dataset has the rows: null, and limit= for fewer"),
        "task.num_test": (rows and task.num_test, "where task.dataset has the rows: null, and limit= for fewer"),
        "only": (config.only and config.do not in (Do.run, Do.plan), f"with do={config.do}"),
        "until": (config.until and (config.only or config.do not in (Do.run, Do.plan)), idle_until),
        "rationales.model": (
            config.rationales.model and not config.rationales.requests,
            "with rationales.requests=null",
        ),
        "backbone.seed": (not built and config.backbone.seed, "where no base is built here; seed= is of the training"),
        "backbone.hub_id": (built and config.backbone.hub_id, built_here),
        "backbone.revision": (built and config.backbone.revision, built_here),
        "retry_failed": (config.retry_failed and not pays, "where no server is asked"),
        "clean.delete": (config.clean.delete and config.do is not Do.clean, "without do=clean"),
        "results.file": (
            config.results.file and config.do not in (Do.export_results, Do.import_results),
            "without do=export_results or do=import_results",
        ),
        "power.problems": (config.power.problems and config.do is not Do.power, "without do=power"),
        "power.samples": (config.power.samples and config.do is not Do.power, "without do=power"),
        "audit.data": (config.audit.data and config.do is not Do.audit, "without do=audit"),
        "mix.cot": (mix.cot is CotPart.cut and mix.extra is Extra.none, "with mix.extra=none, which takes no places"),
        "sampler.file": (sampler.file not in (None, *(source.recorded for source in sources)), with_sampler),
        "sampler.model": (sampler.model not in (None, *(api.model for api in servers)), with_sampler),
        "sampler.base_url": (sampler.base_url not in (None, *(api.base_url for api in servers)), with_sampler),
        "sampler.demonstrations": (sampler.demonstrations and not few_shot, "where no model is asked few_shot"),
    }
    for key, (nothing, why) in idle.items():
        if nothing:
            raise UserError(f"{key}={attrgetter(key)(config)}: does nothing {why}")
