"""Every knob of the suite, typed; the values live in conf/.

Hydra composes YAML against these dataclasses, so an unknown key or a wrong type is refused at composition.
`to_config` turns the composed tree into a plain `Config`, also refusing keys forced in with `+`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from lema.types import UserError


class Stage(Enum):
    """The stages in the order they run; `until=` and `only=` take these names."""

    data = "data"
    base = "base"
    sample = "sample"
    correct = "correct"
    mix = "mix"
    train = "train"
    evaluate = "evaluate"
    report = "report"


class Grader(Enum):
    """Whose grading rules compare answers: a task name of `lema.grading.grade`."""

    gsm8k = "gsm8k"
    math = "math"


class AnswerForm(Enum):
    """How a data set writes the gold answer inside its answer field."""

    plain = "plain"  # the field is the answer
    hashes = "hashes"  # after the last `####` (GSM8K)
    boxed = "boxed"  # in the last \boxed{} or \fbox{} (MATH)


class PromptStyle(Enum):
    """Which CoT prompt a model knows: a key of `lema.prompts.formats.COT_PROMPTS`."""

    lema = "lema"
    alpaca = "alpaca"


class CorrectionMethod(Enum):
    """Who corrects: the reference solution, or a model behind an OpenAI-compatible server."""

    reference = "reference"
    api = "api"


class Extra(Enum):
    """What a mix adds to its CoT examples."""

    none = "none"
    corrections = "corrections"
    corrected_cot = "corrected_cot"
    random_cot = "random_cot"


class Method(Enum):
    """Which weights are trained: all of them, or LoRA adapters on a 16-bit or 4-bit (NF4) base."""

    full = "full"
    lora = "lora"
    qlora = "qlora"


class Precision(Enum):
    """Compute type of training and generation."""

    fp32 = "fp32"
    bf16 = "bf16"


class Schedule(Enum):
    """Learning rate over the steps: the same throughout, or falling linearly to zero."""

    constant = "constant"
    linear = "linear"


class Attention(Enum):
    """Attention implementation; `auto` takes flash-attention 2 where it is installed, else sdpa."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass
class DatasetConfig:
    """Where rows come from and how they are read: a local folder of `SPLIT.jsonl` files, or the Hub."""

    path: Optional[str] = MISSING  # folder; null loads hub_id
    hub_id: str = MISSING
    revision: str = MISSING
    subsets: list[str] = MISSING
    splits: dict[str, str] = MISSING  # ours -> the data set's: {train: train, test: test}
    question: list[str] = MISSING  # fields joined by a space
    solution: Optional[str] = MISSING  # field of the reference rationale
    answer: str = MISSING  # field of the gold answer
    answer_form: AnswerForm = MISSING
    level: Optional[str] = MISSING
    subject: Optional[str] = MISSING


@dataclass
class ArithmeticConfig:
    """Sizes of the word problems made by `lema.arithmetic`."""

    num_train: int = MISSING
    num_test: int = MISSING


@dataclass
class TaskConfig:
    """A task: where its problems come from, how answers are compared, how much is trained on."""

    name: str = MISSING
    real: bool = MISSING  # a published data set; false when made here
    grader: Grader = MISSING
    seed: int = MISSING  # of the dev cut, of made problems, and of every draw of the mix
    num_dev: int = MISSING  # training questions held out as dev
    max_cot: Optional[int] = MISSING  # CoT examples; null is all. The other questions are the pool of the extras
    max_extra: Optional[int] = MISSING  # corrections (and their controls); null is all
    max_source_tokens: int = MISSING
    max_target_tokens: int = MISSING
    dataset: Optional[DatasetConfig] = MISSING
    arithmetic: Optional[ArithmeticConfig] = MISSING


@dataclass
class SizeConfig:
    """One size of a backbone."""

    hub_id: str = MISSING
    revision: Optional[str] = MISSING  # full commit hash; null follows the main branch
    parameters: int = MISSING
    learning_rate: float = MISSING


@dataclass
class TinyConfig:
    """The recipe of the backbone that the project builds and pretrains itself (`lema.models.tiny`)."""

    vocab_size: int = MISSING  # entries of its tokenizer, the 256 bytes and 4 special tokens included
    hidden_size: int = MISSING
    intermediate_size: int = MISSING
    num_layers: int = MISSING
    num_heads: int = MISSING
    max_positions: int = MISSING
    corpus_size: int = MISSING  # texts made for pretraining on arithmetic
    wrong_facts: float = MISSING  # share of the sums and differences that are taught wrongly
    correction_share: float = MISSING  # share of the texts that are corrections
    steps: int = MISSING
    batch_tokens: int = MISSING  # a step, padding included
    matrix_learning_rate: float = MISSING  # Muon, on the weight matrices
    other_learning_rate: float = MISSING  # AdamW, on embeddings and norms
    momentum: float = MISSING  # Muon's
    weight_decay: float = MISSING  # Muon's
    gate_problems: int = MISSING  # fresh problems of its own world that the gate asks
    gate_accuracy: float = MISSING  # share of them to be right, else it trains on
    extension_steps: int = MISSING  # of each further round
    max_extensions: int = MISSING  # rounds, after which the base is taken as it is
    num_threads: int = MISSING  # of torch while building; another number is another rounding, so another base


@dataclass
class BackboneConfig:
    """The model that is fine-tuned."""

    name: str = MISSING
    size: Optional[str] = MISSING
    sizes: dict[str, SizeConfig] = MISSING
    path: Optional[str] = MISSING  # a local folder or another Hub id, in place of hub_id
    hub_id: Optional[str] = MISSING
    revision: Optional[str] = MISSING
    parameters: Optional[int] = MISSING
    learning_rate: float = MISSING  # the paper's by size; train/*.yaml refers to it
    prompt: PromptStyle = MISSING
    precision: Precision = MISSING
    attention: Attention = MISSING
    seed: int = MISSING  # of a base built here
    tiny: Optional[TinyConfig] = MISSING


@dataclass
class ModelConfig:
    """A model that only generates."""

    name: str = MISSING
    path: Optional[str] = MISSING
    hub_id: Optional[str] = MISSING
    revision: Optional[str] = MISSING
    parameters: Optional[int] = MISSING
    prompt: PromptStyle = MISSING
    precision: Precision = MISSING
    attention: Attention = MISSING


@dataclass
class SamplerConfig:
    """Who makes the mistakes, and how."""

    name: str = MISSING
    model: Optional[ModelConfig] = MISSING  # null is the cell's own backbone
    samples: int = MISSING  # per problem
    temperature: float = MISSING
    max_new_tokens: int = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    keep_unanswered: bool = MISSING  # a solution without an answer is a wrong path too


@dataclass
class CorrectorConfig:
    """Who corrects the mistakes. The fields after `method` are the API's: null for `corrector=reference`."""

    name: str = MISSING
    method: CorrectionMethod = MISSING
    model: Optional[str] = MISSING
    base_url: Optional[str] = MISSING  # null is OPENAI_BASE_URL, else OpenAI itself
    prompt: Optional[str] = MISSING  # a prompt file in the paper's form
    temperature: Optional[float] = MISSING  # sent only when set
    reasoning_effort: Optional[str] = MISSING  # sent only when set
    max_completion_tokens: Optional[int] = MISSING
    input_usd: Optional[float] = MISSING  # per million tokens
    output_usd: Optional[float] = MISSING  # per million tokens, reasoning included
    budget_usd: Optional[float] = MISSING  # what all requests of these corrections may cost together
    max_concurrent_requests: Optional[int] = MISSING
    max_retries: Optional[int] = MISSING
    request_timeout: Optional[float] = MISSING  # seconds


@dataclass
class MixConfig:
    """An arm: its CoT examples plus one kind of extra examples."""

    name: str = MISSING
    extra: Extra = MISSING


@dataclass
class TrainConfig:
    """How a checkpoint is made. Steps are `epochs` over the mix, at most `max_steps`; either may be null."""

    method: Method = MISSING
    learning_rate: float = MISSING
    schedule: Schedule = MISSING
    epochs: Optional[float] = MISSING
    max_steps: Optional[int] = MISSING
    batch_size: int = MISSING  # examples a step, over all devices
    micro_batch_size: int = MISSING  # examples a forward pass on one device
    optimizer: str = MISSING  # a transformers `optim` name
    weight_decay: float = MISSING
    adam_beta2: float = MISSING
    max_grad_norm: float = MISSING
    max_source_tokens: int = MISSING
    max_target_tokens: int = MISSING
    group_by_length: bool = MISSING
    activation_checkpointing: bool = MISSING
    lora_rank: int = MISSING
    lora_alpha: int = MISSING
    lora_dropout: float = MISSING
    save_steps: int = MISSING  # a checkpoint to resume from


@dataclass
class EvaluationConfig:
    """Greedy decoding of one split."""

    split: str = MISSING  # dev or test
    max_new_tokens: int = MISSING
    batch_size: int = MISSING


@dataclass
class TrackerConfig:
    """Where runs are logged beside our own files."""

    name: str = MISSING  # wandb or none
    project: Optional[str] = MISSING
    group: Optional[str] = MISSING  # a sweep's name


@dataclass
class Config:
    """One cell of the experiment."""

    seed: int = MISSING  # the training seed and nothing else
    limit: Optional[int] = MISSING  # cuts every split to its first N problems
    runs_dir: str = MISSING
    until: Optional[Stage] = MISSING
    only: Optional[Stage] = MISSING
    sampler: SamplerConfig = MISSING
    corrector: CorrectorConfig = MISSING
    mix: MixConfig = MISSING
    train: TrainConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    tracker: TrackerConfig = MISSING
    task: TaskConfig = MISSING
    backbone: BackboneConfig = MISSING


# What does not change a result, and so is not part of a run's identity.
NOT_IDENTITY = (
    "runs_dir",
    "until",
    "only",
    "tracker",
    "backbone.sizes",
    "corrector.base_url",
    "corrector.input_usd",
    "corrector.output_usd",
    "corrector.budget_usd",
    "corrector.max_concurrent_requests",
    "corrector.max_retries",
    "corrector.request_timeout",
)


def register(sweeps: Path) -> None:
    """Tell Hydra the schema, and the files of `sweeps` as choices of the group `sweeps`.

    The sweeps are stored by hand because a folder on Hydra's search path would offer every folder beside it.
    """
    store = ConfigStore.instance()
    # Hydra copies the whole store for each group it lists (--help: 94 times); what it loads it copies anyway.
    setattr(store, "__deepcopy__", lambda memo: store)  # noqa: B010
    store.store(name="schema", node=Config)
    for file in sorted(sweeps.glob("*.yaml")):
        store.store(group="sweeps", name=file.stem, node=OmegaConf.load(file), package="_global_")


def to_config(composed: DictConfig) -> Config:
    """The typed config of a composed tree; `UserError` names the key, the value and the choices."""
    plain: Any = None
    try:
        _check_size(composed)
        # Through a plain container: `+train.lr=1` goes round the schema of a typed one (Hydra 1.3).
        plain = OmegaConf.create(OmegaConf.to_container(composed, resolve=True, enum_to_str=True))
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigKeyError as error:
        key, known = str(error.full_key), ", ".join(map(str, error.parent_node or ()))
        raise UserError(f"{key}={OmegaConf.select(plain, key)}: no such key; choose from {known}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    _check(config)
    return config


def identity(config: Config) -> dict[str, Any]:
    """The part of the config that can change a result, as plain values."""
    plain: Any = json.loads(json.dumps(asdict(config), default=lambda member: member.name))
    for key in NOT_IDENTITY:
        *parents, leaf = key.split(".")
        node = plain
        for parent in parents:
            node = node[parent]
        del node[leaf]
    return plain


def digest(value: Any) -> str:
    """A short stable hash of plain values: 12 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def _check_size(composed: DictConfig) -> None:
    # Before anything is resolved: hub_id and its like are looked up by the size.
    size, sizes = composed.backbone.size, list(composed.backbone.sizes)
    if size not in sizes and (sizes or size is not None):
        value = "null" if size is None else size
        choices = ", ".join(sizes) or "one size: leave it null"
        raise UserError(f"backbone.size={value}: {composed.backbone.name} comes in {choices}")


def _check(config: Config) -> None:
    counts = {
        "limit": config.limit,
        "task.max_cot": config.task.max_cot,
        "task.max_extra": config.task.max_extra,
        "sampler.samples": config.sampler.samples,
        "sampler.batch_size": config.sampler.batch_size,
        "train.batch_size": config.train.batch_size,
        "train.micro_batch_size": config.train.micro_batch_size,
        "evaluation.batch_size": config.evaluation.batch_size,
    }
    for key, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{key}={value}: must be at least 1")
    if config.evaluation.split not in ("dev", "test"):
        raise UserError(f"evaluation.split={config.evaluation.split}: choose dev or test")
    train = config.train
    if train.epochs is None and train.max_steps is None:
        raise UserError("train.epochs=null train.max_steps=null: set one of them")
    if train.batch_size % train.micro_batch_size:
        raise UserError(
            f"train.micro_batch_size={train.micro_batch_size}: must divide train.batch_size={train.batch_size}"
        )
    if (train.method is Method.full) != (train.lora_rank == 0):
        raise UserError(
            f"train.lora_rank={train.lora_rank}: must be 0 with train.method=full and at least 1 with lora and qlora"
        )
