"""Every knob of the suite, typed: Hydra composes conf/ against these classes and refuses what does not fit."""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import reduce
from operator import attrgetter, getitem
from pathlib import Path
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from lema.types import UserError

# The stages in the order they run; `until=` and `only=` take these names.
Stage = StrEnum("Stage", ["data", "base", "sample", "correct", "mix", "train", "select", "merge", "evaluate", "report"])
# Whose rules compare answers: a task's name in `lema.grading`.
Grader = StrEnum("Grader", ["arithmetic", "gsm8k", "math", "svamp", "asdiv", "csqa"])
# How a data set writes the gold answer: the field itself, after the last `####` (GSM8K), in the last box (MATH), as a
# number and its unit (ASDiv; what is none is left out), as the label of a candidate (CSQA).
AnswerForm = StrEnum("AnswerForm", ["plain", "hashes", "boxed", "quantity", "label"])
PromptStyle = StrEnum("PromptStyle", ["lema", "alpaca"])  # a key of `lema.prompts.formats.COT_PROMPTS`
CorrectionMethod = StrEnum("CorrectionMethod", ["reference", "api"])  # api: a model behind an OpenAI-compatible server
CotPart = StrEnum("CotPart", ["all", "cut", "none"])  # which CoT examples a mix has; cut: the extras take their places
# What a mix adds; other_corrections: of another model's mistakes.
Extra = StrEnum("Extra", ["none", "corrections", "other_corrections", "corrected_cot", "random_cot", "repeated_cot"])
Without = StrEnum("Without", ["step", "explanation", "solution"])  # the part of a correction an ablation leaves out
Method = StrEnum("Method", ["full", "lora", "qlora"])  # all weights, or adapters on a 16-bit or 4-bit (NF4) base
Batches = StrEnum("Batches", ["padded", "packed"])  # packed: documents side by side in rows, without any padding
Merge = StrEnum("Merge", ["dequantised", "original"])  # the base an adapter is merged into: as trained, or published
# Which checkpoint is evaluated: the best on dev, the last, or the best on what is evaluated (as the paper chose).
Selection = StrEnum("Selection", ["dev", "last", "paper"])
Precision = StrEnum("Precision", ["fp32", "bf16"])
Schedule = StrEnum("Schedule", ["constant", "linear"])  # of the learning rate; linearly to zero
Split = StrEnum("Split", ["dev", "test"])  # what is evaluated; dev is cut out of the training questions
# `auto` is flash-attention 2 on a GPU if installed; else varlen on packed rows, each document by itself; else sdpa.
Attention = StrEnum("Attention", ["auto", "sdpa", "eager", "flash_attention_2", "varlen"])


@dataclass
class DatasetConfig:
    """Where rows come from and how they are read: a local folder of `SPLIT.jsonl` (or `.xml`) files, or the Hub."""

    path: Optional[str]  # folder; null loads hub_id
    hub_id: str
    revision: str
    subsets: list[str]
    splits: dict[str, str]  # ours -> the folder's: {train: train, test: test}
    hub_splits: dict[str, str]  # ours -> the Hub's
    question: list[str]  # fields joined by a space; fields are found whatever their case
    candidates: Optional[str]  # field of the choices
    solution: Optional[str]  # field of the reference rationale; null where there is none
    answer: str  # field of the gold answer
    answer_form: AnswerForm
    level: Optional[str]
    subject: Optional[str]


@dataclass
class TrainDatasetConfig(DatasetConfig):
    """The data set of another task, which a task without one of its own is trained on."""

    name: str
    grader: Grader


@dataclass
class TaskConfig:
    """A task: where its problems come from, how answers are compared, how much is trained on."""

    name: str
    real: bool  # a published data set; false when made here
    grader: Grader
    seed: int  # of the dev cut, of made problems, and of every draw of the mix
    num_dev: int  # training questions held out as dev
    max_cot: Optional[int]  # CoT examples; null is all. The other questions are the pool of the extras
    max_extra: Optional[int]  # corrections (and their controls); null is all
    max_source_tokens: int
    max_target_tokens: int
    dataset: Optional[DatasetConfig]  # null: word problems made by `lema.arithmetic`, in these numbers
    train_dataset: Optional[TrainDatasetConfig]  # train and dev come from here; null: from `dataset` too
    num_train: Optional[int]
    num_test: Optional[int]

    @property
    def trained(self) -> "TaskConfig | TrainDatasetConfig":
        """Whose `name` and `grader` the training problems have."""
        return self.train_dataset or self

    @property
    def trained_dataset(self) -> Optional[DatasetConfig]:
        """Where the training problems come from; None when they are made here."""
        return self.train_dataset or self.dataset


@dataclass
class SizeConfig:
    """One size of a backbone."""

    hub_id: str
    revision: Optional[str]  # full commit hash; null follows the main branch
    parameters: int
    learning_rate: float


@dataclass
class TinyConfig:
    """The recipe of the backbone that the project builds and pretrains itself (`lema.models.tiny`)."""

    vocab_size: int  # entries of its tokenizer, the 256 bytes and 4 special tokens included
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    corpus_size: int  # texts made for pretraining on arithmetic
    wrong_facts: float  # share of the sums and differences that are taught wrongly
    correction_share: float  # share of the texts that are corrections
    steps: int
    batch_tokens: int  # a step, padding included
    matrix_learning_rate: float  # Muon, on the weight matrices
    other_learning_rate: float  # AdamW, on embeddings and norms
    momentum: float  # Muon's
    weight_decay: float  # Muon's
    other_seed: int  # of the other base, whose mistakes mix=lema_random takes
    num_threads: int  # of torch on a CPU; another number is another rounding, so another base


@dataclass
class ModelConfig:
    """A model that answers problems."""

    name: str
    path: Optional[str]  # a local folder or another Hub id, in place of hub_id
    hub_id: Optional[str]
    revision: Optional[str]
    parameters: Optional[int]
    prompt: PromptStyle
    precision: Precision  # of computation
    attention: Attention


@dataclass
class BackboneConfig(ModelConfig):
    """The model that is fine-tuned."""

    size: Optional[str]
    sizes: dict[str, SizeConfig]
    learning_rate: float  # the paper's by size; train/*.yaml refers to it
    seed: int  # of a base built here
    tiny: Optional[TinyConfig]


@dataclass
class SamplerConfig:
    """Who makes the mistakes, and how."""

    name: str
    model: Optional[ModelConfig]  # null is the cell's own backbone
    other: Optional[ModelConfig]  # whose mistakes mix=lema_random takes; a base built here takes another one's
    samples: int  # per problem
    temperature: float
    max_new_tokens: int
    batch_size: int
    seed: int
    keep_unanswered: bool  # a solution without an answer is a wrong path too


@dataclass
class CorrectorConfig:
    """Who corrects the mistakes. The fields after `method` are the API's: null for `corrector=reference`."""

    name: str
    method: CorrectionMethod
    model: Optional[str]
    base_url: Optional[str]  # null is OPENAI_BASE_URL, else OpenAI itself
    prompt: Optional[str]  # a prompt file in the paper's form
    temperature: Optional[float]  # sent only when set
    reasoning_effort: Optional[str]  # sent only when set
    max_completion_tokens: Optional[int]
    input_usd: Optional[float]  # per million tokens
    output_usd: Optional[float]  # per million tokens, reasoning included
    budget_usd: Optional[float]  # what all requests of these corrections may cost together
    max_concurrent_requests: Optional[int]
    max_retries: Optional[int]
    request_timeout: Optional[float]  # seconds


@dataclass
class MixConfig:
    """An arm: its CoT examples plus one kind of extra examples."""

    name: str
    cot: CotPart
    extra: Extra  # as many examples as there are corrections
    without: Optional[Without]  # null: corrections are whole
    match_tokens: bool  # add CoT examples of random questions until the mix has as many tokens as lema


@dataclass
class TrainConfig:
    """How a checkpoint is made. Steps are `epochs` over the mix, at most `max_steps`; either may be null."""

    method: Method
    learning_rate: float
    schedule: Schedule
    epochs: Optional[float]
    max_steps: Optional[int]
    batch_size: int  # examples a step
    batches: Batches
    micro_batch_size: int  # padded: examples a forward pass, whose mean loss counts alike in the step, as in the script
    group_by_length: bool  # padded: examples of like length in one step
    row_tokens: int  # packed: at most, a forward pass; the loss is the mean over the step's target tokens
    optimizer: str  # a transformers `optim` name
    weight_decay: float
    adam_beta2: float
    max_grad_norm: float
    max_source_tokens: int
    max_target_tokens: int
    activation_checkpointing: Optional[bool]  # null: when memory needs it
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    save_steps: int  # a checkpoint, to resume from and to select
    resume_checkpoints: int  # how many, from the newest, keep what resuming needs
    merge: Optional[Merge]  # null: adapters are evaluated unmerged


@dataclass
class EvaluationConfig:
    """Greedy decoding of one split."""

    split: Split
    max_new_tokens: int
    batch_size: int


@dataclass
class TrackerConfig:
    """Where runs are logged beside our own files."""

    name: str  # wandb or none
    project: Optional[str]
    group: Optional[str]  # a sweep's name


@dataclass
class Config:
    """One cell of the experiment."""

    seed: int  # the training seed and nothing else
    limit: Optional[int]  # cuts every split to its first N problems
    runs_dir: str
    until: Optional[Stage]
    only: Optional[Stage]
    selection: Selection
    sampler: SamplerConfig
    corrector: CorrectorConfig
    mix: MixConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    tracker: TrackerConfig
    task: TaskConfig
    backbone: BackboneConfig


# What does not change a result, and so is not part of a run's identity.
NOT_IDENTITY = (
    "runs_dir until only tracker backbone.sizes corrector.base_url corrector.input_usd corrector.output_usd "
    "corrector.budget_usd corrector.max_concurrent_requests corrector.max_retries corrector.request_timeout"
).split()
AT_LEAST_1 = (
    "limit task.max_cot task.max_extra sampler.samples sampler.batch_size evaluation.batch_size train.batch_size "
    "train.micro_batch_size train.save_steps train.resume_checkpoints"
).split()


def register(sweeps: Path) -> None:
    """Tell Hydra the schema, and the files of `sweeps`: on its search path every folder beside it would be a group."""
    store = ConfigStore.instance()
    # Hydra copies the whole store for each group it lists (--help: 94 times); what it loads it copies anyway.
    setattr(store, "__deepcopy__", lambda memo: store)  # noqa: B010
    store.store(name="schema", node=Config)
    for file in sorted(sweeps.glob("*.yaml")):
        store.store(group="sweeps", name=file.stem, node=OmegaConf.load(file), package="_global_")


def to_config(composed: DictConfig) -> Config:
    """The typed config of a composed tree; `UserError` names the key, the value and the choices."""
    # Before anything is resolved: hub_id and its like are looked up by the size.
    size, sizes = composed.backbone.size, list(composed.backbone.sizes)
    if size not in sizes and (sizes or size is not None):
        choices = ", ".join(sizes) or "one size: leave it null"
        raise UserError(f"backbone.size={size or 'null'}: {composed.backbone.name} comes in {choices}")
    untyped: Any = None
    try:
        # Through a plain container: `+train.lr=1` goes round the schema of a typed one (Hydra 1.3).
        untyped = OmegaConf.create(OmegaConf.to_container(composed, resolve=True, enum_to_str=True))
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), untyped))
    except ConfigKeyError as error:
        key, known = str(error.full_key), ", ".join(map(str, error.parent_node or ()))
        raise UserError(f"{key}={OmegaConf.select(untyped, key)}: no such key; choose from {known}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    _check(config)
    return config


def plain(part: Any) -> Any:
    """A config, or a section of one, as plain values."""
    return json.loads(json.dumps(asdict(part)))


def identity(config: Config) -> dict[str, Any]:
    """The part of the config that can change a result, as plain values."""
    values = plain(config)
    for key in NOT_IDENTITY:
        *sections, name = key.split(".")
        del reduce(getitem, sections, values)[name]
    return values


def digest(value: Any) -> str:
    """A short stable hash of plain values: 12 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


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
    if mix.without and mix.extra is not Extra.corrections:
        raise UserError(f"mix.without={mix.without}: mix={mix.name} has no corrections; mix=lema or mix.without=null")
    if mix.without is Without.step and task.grader is Grader.csqa:
        raise UserError(f"mix={mix.name}: corrections of {task.name} name no step to leave out; run mix=lema")
    if (train.method is Method.full) != (train.lora_rank == 0):
        raise UserError(f"train.lora_rank={train.lora_rank}: must be 0 with train.method=full and at least 1 otherwise")
