"""From the tree that Hydra composes out of conf/ and sweeps/ to the typed config, with every value checked."""

from contextlib import ExitStack
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from lema import environment
from lema.config import (
    ApiConfig,
    Batches,
    Config,
    CorrectionMethod,
    Extra,
    Grader,
    Method,
    Only,
    SourceKind,
    TaskConfig,
    Without,
)
from lema.types import UserError

# What is left to do once Hydra is done with all cells: it calls nothing at the end of a sweep in which one failed.
at_end = ExitStack()

CONF = Path(__file__).resolve().parents[1] / "conf"
AT_LEAST_1 = (
    "limit task.max_cot task.max_extra sampler.samples sampler.batch_size evaluation.batch_size train.batch_size "
    "train.micro_batch_size train.save_steps train.resume_checkpoints corrector.tries"
).split()


def register(sweeps: Path) -> None:
    """Tell Hydra the schema, and the files of `sweeps`: on its search path every folder beside it would be a group."""
    environment.register()
    store = ConfigStore.instance()
    # Hydra copies the whole store for each group it lists (--help: 94 times); what it loads it copies anyway.
    setattr(store, "__deepcopy__", lambda memo: store)  # noqa: B010
    store.store(name="schema", node=Config)
    for file in sorted(sweeps.glob("*.yaml")):
        store.store(group="sweeps", name=file.stem, node=OmegaConf.load(file), package="_global_")


def known_tasks() -> list[TaskConfig]:
    """Every task of conf/task that has a data set."""
    files = sorted((CONF / "task").glob("*.yaml"))
    tasks: list[Any] = [
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(file))) for file in files
    ]
    return [task for task in tasks if task.dataset]


def to_config(composed: DictConfig) -> Config:
    """The typed config of a composed tree; `UserError` names the key, the value and the choices."""
    environment.check(composed)
    untyped: Any = None
    try:
        # Before anything is resolved: hub_id and its like are looked up by the size.
        size, sizes = composed.backbone.size, list(composed.backbone.sizes)
        if size not in sizes and (sizes or size is not None):
            choices = ", ".join(sizes) or "one size: leave it null"
            raise UserError(f"backbone.size={size or 'null'}: {composed.backbone.name} comes in {choices}")
        # Through a plain container: `+train.lr=1` goes round the schema of a typed one (Hydra 1.3).
        untyped = OmegaConf.create(OmegaConf.to_container(composed, resolve=True, enum_to_str=True))
        environment.check(OmegaConf.to_container(untyped))
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), untyped))
    except ConfigKeyError as error:
        key, known = str(error.full_key), ", ".join(map(str, error.parent_node or ()))
        raise UserError(f"{key}={OmegaConf.select(untyped, key)}: no such key; choose from {known}") from None
    except MissingMandatoryValue:
        missing = ", ".join(sorted(OmegaConf.missing_keys(untyped)))
        raise UserError(f"{missing}: must be set") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    _check(config)
    return config


def _check(config: Config) -> None:
    for key in AT_LEAST_1:
        value = attrgetter(key)(config)
        if value is not None and value < 1:
            raise UserError(f"{key}={value}: must be at least 1")
    task, train, mix, packed = config.task, config.train, config.mix, config.train.batches is Batches.packed
    if task.dataset is None and None in (task.num_train, task.num_test):
        raise UserError(f"task={task.name}: set task.dataset, or task.num_train and task.num_test")
    if train.epochs is None and train.max_steps is None:
        raise UserError("train.epochs=null train.max_steps=null: set one of them")
    if not packed and train.batch_size % train.micro_batch_size:
        raise UserError(f"train.micro_batch_size={train.micro_batch_size}: must divide {train.batch_size=}")
    if packed and train.row_tokens < (longest := train.max_source_tokens + train.max_target_tokens):
        raise UserError(f"train.row_tokens={train.row_tokens}: must hold {longest} tokens, the longest example's")
    _check_models(config)
    if mix.without and mix.extra is not Extra.corrections:
        raise UserError(f"mix.without={mix.without}: mix={mix.name} has no corrections; mix=lema or mix.without=null")
    if mix.without is Without.step and task.grader is Grader.csqa:
        raise UserError(f"mix={mix.name}: corrections of {task.name} name no step to leave out; run mix=lema")
    if (train.method is Method.full) != (train.lora_rank == 0):
        raise UserError(f"train.lora_rank={train.lora_rank}: must be 0 with train.method=full and at least 1 otherwise")


def _check_models(config: Config) -> None:
    """Whoever samples and corrects has what its kind needs."""
    if not config.sampler.models:
        raise UserError(
            "sampler.models is empty: choose a sampler, or add one, +sampler/model@sampler.models.mine=self"
        )
    for name, source in config.sampler.models.items():
        for kind in (SourceKind.weights, SourceKind.api, SourceKind.recorded):
            if (getattr(source, kind) is not None) != (source.kind is kind):
                state = "must be set" if source.kind is kind else "must be null"
                raise UserError(f"sampler.models.{name}.{kind}: {state} with kind={source.kind}")
    corrector = config.corrector
    if (corrector.weights is not None) != (corrector.method is CorrectionMethod.local):
        raise UserError(f"corrector.method={corrector.method}: corrector.weights belong to corrector=local")
    if (corrector.model is not None) != (corrector.method is CorrectionMethod.api):
        raise UserError(f"corrector.method={corrector.method}: choose corrector=gpt4 for a corrector.model to be asked")
    if config.rationales.requests and config.rationales.model is None:
        raise UserError(f"rationales.requests={config.rationales.requests}: choose who is asked, rationales=gpt4")
    _check_asked(config)


def _check_asked(config: Config) -> None:
    """Nothing is set for a server that nobody asks: a budget, a prompt or a pace that does nothing is a mistake."""
    corrector, rationales = config.corrector, config.rationales
    local = ("temperature", "max_completion_tokens") if corrector.method is CorrectionMethod.local else ()
    unasked = (
        ("corrector", corrector, corrector.method is not CorrectionMethod.api),
        ("rationales", rationales, not rationales.requests),
    )
    for section, api, none in unasked:
        names = [each.name for each in fields(ApiConfig) if none and each.name not in local]
        if unused := [name for name in names if getattr(api, name) is not None]:
            raise UserError(f"{section}.{unused[0]}: does nothing with {section}={api.name}, which asks no server")
    if corrector.method is CorrectionMethod.reference and (corrector.prompt or corrector.tries > 1):
        raise UserError("corrector.prompt, corrector.tries: do nothing with corrector=reference, which is always right")
    if config.only != Only("compare") and (named := [key for key in "ab" if getattr(config.compare, key)]):
        raise UserError(f"compare.{named[0]}: does nothing without only=compare")
    if config.budget_usd is not None and not config.budget_usd >= 0:  # "not a number" is refused too
        raise UserError(f"budget_usd={config.budget_usd}: must be 0 or more dollars")
