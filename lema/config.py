"""Every knob of the suite, typed: Hydra composes conf/ against these classes and refuses what does not fit."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Optional

# The stages in the order they run: what `until=` and `only=` take.
Stage = StrEnum(
    "Stage",
    ["data", "base", "sample", "correct", "rationales", "mix", "train", "select", "merge", "evaluate", "report"],
)
# Beside the stages: the journal as JSON lines; two runs side by side; a W&B report, or W&B's own file, of a sweep.
Only = StrEnum("Only", [stage.value for stage in Stage] + ["export", "compare", "wandb_report", "wandb_sweep"])
# Whose rules compare answers: a task's name in `lema.grading`.
Grader = StrEnum("Grader", ["arithmetic", "gsm8k", "math", "svamp", "asdiv", "csqa"])
# How a data set writes the gold answer: the field itself, after the last `####` (GSM8K), in the last box (MATH), as a
# number and its unit (ASDiv; what is none is left out), as the label of a candidate (CSQA).
AnswerForm = StrEnum("AnswerForm", ["plain", "hashes", "boxed", "quantity", "label"])
PromptStyle = StrEnum("PromptStyle", ["lema", "alpaca"])  # a key of `lema.prompts.formats.COT_PROMPTS`
Ask = StrEnum("Ask", ["lema", "alpaca", "few_shot"])  # few_shot: after worked solutions, as the paper sampled
# Where wrong solutions come from: the cell's own backbone, other weights, a server, or a file.
SourceKind = StrEnum("SourceKind", ["backbone", "weights", "api", "recorded"])
# Who corrects: the reference solution, a model behind an OpenAI-compatible server, or one that is loaded here.
CorrectionMethod = StrEnum("CorrectionMethod", ["reference", "api", "local"])
# Training questions that are test questions too: dropped, or (paper) used, as the paper did.
Leakage = StrEnum("Leakage", ["drop", "paper"])
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
    train_rows: Optional[int]  # as published: for estimates before the data are there
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
    rationales: int  # further CoT solutions that rationales=gpt4 asks for
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
class ApiConfig:
    """How a model behind an OpenAI-compatible server is asked. All null where none is."""

    model: Optional[str]
    base_url: Optional[str]  # null is OPENAI_BASE_URL, else OpenAI itself
    temperature: Optional[float]  # sent only when set, as are the next three
    reasoning_effort: Optional[str]
    max_completion_tokens: Optional[int]  # one of these two must be set: without a limit no budget can be kept
    max_tokens: Optional[int]  # what older servers call it
    input_usd: Optional[float]  # per million tokens; null looks the model up in conf/prices
    output_usd: Optional[float]  # per million tokens, reasoning included
    max_concurrent_requests: Optional[int]
    max_requests_per_minute: Optional[float]  # null: what the server's headers say
    max_tokens_per_minute: Optional[float]  # the same
    max_retries: Optional[int]
    request_timeout: Optional[float]  # seconds, the whole answer
    max_wait: Optional[float]  # seconds; a server that asks for more (Retry-After) ends the run


@dataclass
class PriceConfig:
    """What a model costs, in dollars per million tokens."""

    input_usd: float  # the dearest a prompt token can be, a surcharge for writing the cache included
    cached_usd: float  # a prompt token that the server had in its cache
    output_usd: float  # reasoning included


@dataclass
class SourceConfig:
    """One model whose mistakes are collected. `kind` needs the field of its name."""

    kind: SourceKind
    prompt: Optional[Ask]  # null: as the model's own `prompt` says; for one behind a server few_shot
    weights: Optional[ModelConfig]  # loaded here
    api: Optional[ApiConfig]  # behind an OpenAI-compatible server
    recorded: Optional[str]  # a file of solutions made before: JSON lines, plain or .gz
    paper_success: Optional[float]  # the paper's, of the model that it is or stands for: MATH mistakes GPT-4 corrected


@dataclass
class SamplerConfig:
    """Who makes the mistakes, and how."""

    name: str
    models: dict[str, SourceConfig]  # each one's solutions are an artifact of their own
    other: Optional[SourceConfig]  # whose mistakes mix=lema_random takes; a base built here takes another one's
    samples: int  # per problem and model
    temperature: float
    max_new_tokens: int
    batch_size: int
    seed: int
    demonstrations: Optional[str]  # a file of worked solutions for few_shot, in place of ours
    keep_unanswered: bool  # a solution without an answer is a wrong path too


@dataclass
class CorrectorConfig(ApiConfig):
    """Who corrects the mistakes."""

    name: str
    method: CorrectionMethod
    weights: Optional[ModelConfig]  # of corrector.method=local
    prompt: Optional[str]  # a prompt file in the paper's form
    tries: int  # corrections asked for of a path, until one is accepted


@dataclass
class RationalesConfig(ApiConfig):
    """Further CoT solutions of the training questions, by a strong model: kept when their answer is right."""

    name: str
    demonstrations: Optional[str]  # a file of worked solutions, in place of ours
    requests: Optional[int]  # in all, as evenly over the questions as can be; null: none
    most: Optional[int]  # of one question


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
class CompareConfig:
    """What `only=compare` sets side by side: runs by their folder, or by its name or the beginning of it."""

    a: Optional[str]
    b: Optional[str]
    examples: int  # problems of each kind of flip that are shown with both answers


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
    only: Optional[Only]
    selection: Selection
    leakage: Leakage
    budget_usd: Optional[float]  # what all requests that the run stands on may cost together, whoever paid for them
    retry_failed: bool  # ask those requests again, and only those, that ended without a usable answer
    prices: dict[str, PriceConfig]  # by model
    sampler: SamplerConfig
    corrector: CorrectorConfig
    rationales: RationalesConfig
    mix: MixConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    compare: CompareConfig
    tracker: TrackerConfig
    task: TaskConfig
    backbone: BackboneConfig
