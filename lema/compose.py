"""Turns the tree that Hydra composes from conf/ and sweeps/ into the typed config, and checks every value."""

from collections.abc import Iterable
from dataclasses import fields
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
    ApiConfig,
    Ask,
    Batches,
    Config,
    CorrectionMethod,
    CotPart,
    Do,
    Extra,
    FilterConfig,
    Grader,
    Method,
    Selection,
    SourceKind,
    Split,
    Without,
    environment,
    further_tests,
    known_tasks,
    renamed,
)
from lema.config.allowed import at_home, refused
from lema.types import MAY_BE_RIGHT, UserError


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
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
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
    _check_models(config)
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


def _check_models(config: Config) -> None:
    """Check that each model that samples, corrects or writes rationales has the settings that its kind needs."""
    sampler, corrector, rationales = config.sampler, config.corrector, config.rationales
    if not sampler.models:
        remedy = "choose a sampler, or add one, +sampler/model@sampler.models.mine=self"
        raise UserError(f"sampler.models is empty: {remedy}")
    sources = {f"sampler.models.{name}": source for name, source in sampler.models.items()}
    for place, source in (sources | ({"sampler.other": sampler.other} if sampler.other else {})).items():
        for kind in (SourceKind.weights, SourceKind.api, SourceKind.recorded):
            if (getattr(source, kind) is not None) != (source.kind is kind):
                state = "must be set" if source.kind is kind else "must be null"
                raise UserError(f"{renamed.present(f'{place}.{kind}', sampler.name)}: {state} with kind={source.kind}")
        if source.api and source.api.model is None:
            key = renamed.present(f"{place}.api.model", sampler.name)
            raise UserError(f"{key}: must be set to the model that the server is asked for")
        if source.kind is SourceKind.recorded and source.prompt:
            raise UserError(f"{place}.prompt={source.prompt}: does nothing with kind=recorded")
    if sampler.other and sampler.other.is_own:
        raise UserError(f"sampler.other.kind={sampler.other.kind}: must be another model than the backbone")
    if config.selection is Selection.paper and SourceKind.tuned in (source.kind for source in sources.values()):
        why = "the test problems would choose the model that makes the mistakes"
        raise UserError(f"selection=paper sampler={sampler.name}: {why}; choose selection=dev")
    if (corrector.weights is not None) != (corrector.method is CorrectionMethod.local):
        raise UserError(f"corrector.method={corrector.method}: corrector.weights belong to corrector=local")
    if (corrector.model is not None) != (corrector.method is CorrectionMethod.api):
        raise UserError(f"corrector.method={corrector.method}: choose corrector=gpt4 for a corrector.model to be asked")
    if rationales.requests and (rationales.model is None) == (rationales.weights is None):
        raise UserError(f"rationales.requests={rationales.requests}: choose who writes, rationales=gpt4 or =local")
    _check_asked(config)
    solvers = [source for source in sampler.models.values() if not source.recorded]
    sampled = [source.api.temperature if source.api else sampler.temperature for source in solvers]
    for key, number, temperatures in (
        ("sampler.samples", sampler.samples, sampled),
        ("evaluation.samples", config.evaluation.samples, [config.evaluation.temperature]),
        ("corrector.tries", corrector.tries, [corrector.temperature]),
        ("rationales.most", rationales.most or 1, [rationales.temperature]),
    ):
        if number > 1 and 0 in temperatures:
            raise UserError(f"{key}={number}: must be 1 at temperature 0, where all answers are the same")


# What a model that is loaded here needs to write corrections or rationales.
_LOCAL = ("temperature", "max_completion_tokens", "seed")


def _check_asked(config: Config) -> None:
    """Refuse settings of requests where no server is asked, and of a comparison where nothing is compared."""
    corrector, rationales = config.corrector, config.rationales
    for section, writer in [each for asked in config.writers.values() for each in asked.items()]:
        asks, group = writer.model is not None, section.removeprefix("corrector.filter.")
        if missing := [name for name in _LOCAL if writer.weights and getattr(writer, name) is None]:
            raise UserError(f"{section}.{missing[0]}=null: must be set with {group}=local")
        names = {field.name for field in fields(ApiConfig) if not asks} | {"seed"}
        names -= set(_LOCAL) if writer.weights else set()
        names |= {"demonstrations", "most"} if section == "rationales" and not rationales.requests else set()
        if unused := sorted(name for name in names if getattr(writer, name) is not None):
            why = "which loads no model" if asks else "which asks no server"
            raise UserError(f"{section}.{unused[0]}: does nothing with {group}={writer.name}, {why}")
    if corrector.method is CorrectionMethod.reference and (corrector.prompt or corrector.tries > 1):
        raise UserError("corrector.prompt, corrector.tries: do nothing with corrector=reference, which is always right")
    _check_filter(config)
    unnamed = corrector.prompt == MAY_BE_RIGHT or config.do is Do.audit
    if unnamed and config.task.grader is Grader.csqa:
        what = "do=audit" if config.do is Do.audit else f"corrector.prompt={MAY_BE_RIGHT}"
        raise UserError(f"{what}: corrections of {config.task.name} name no step; choose another task")
    if config.do is Do.audit and config.audit.data is None:
        raise UserError("audit.data=null: name solutions with human labels: processbench, mr_gsm8k, or a file")
    if config.do is not Do.compare and (named := [key for key in "ab" if getattr(config.compare, key)]):
        raise UserError(f"compare.{named[0]}: does nothing without do=compare")


def _check_filter(config: Config) -> None:
    """Refuse a filter that could keep or drop nothing by the step that is named."""
    corrector, chosen = config.corrector, config.corrector.filter
    agree, tries, verifier = chosen.agree, corrector.tries, chosen.verifier
    if config.task.grader is Grader.csqa and chosen != FilterConfig():
        raise UserError(f"corrector.filter: corrections of {config.task.name} name no step; leave it out")
    if agree and corrector.method is CorrectionMethod.reference:
        raise UserError(f"corrector.filter.agree={agree}: does nothing with corrector=reference, which always agrees")
    if agree and not agree <= tries < 2 * agree:
        needs = f"must be more than half of corrector.tries={tries}, and no more than all"
        raise UserError(f"corrector.filter.agree={agree}: {needs}; as corrector.tries={2 * agree - 1}")
    if verifier and (verifier.model is None) == (verifier.weights is None):
        key = "corrector.filter.verifier.model"
        raise UserError(
            f"{key}={verifier.model or 'null'}: one model verifies; verifier=gpt4 sets this, verifier=local weights"
        )
