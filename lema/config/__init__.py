"""Every knob of the suite, typed: Hydra composes conf/ against these classes and refuses what does not fit.

What a file of conf/ leaves out is null where a field may be null, and must be given everywhere else.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Optional

from lema.config.allowed import Count, CountOr0, Group, Name, Project, Range, Rate, Seed, Share, ShareBelow1

# What a command does: run a cell or a sweep; write the report on all runs or on a sweep's; set two runs side by side;
# write the journal as JSON lines; make the report at W&B too; write a sweep as W&B's own file.
Do = StrEnum("Do", ["run", "report", "compare", "export", "wandb_report", "wandb_sweep"])
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
# Those of transformers that need no package but torch and bitsandbytes, and that all of `TrainConfig` applies to.
Optimizer = StrEnum(
    "Optimizer",
    "adamw_torch adamw_torch_fused adamw_8bit adamw_bnb_8bit paged_adamw_32bit paged_adamw_8bit lion_32bit lion_8bit "
    "paged_lion_32bit paged_lion_8bit ademamix ademamix_8bit paged_ademamix_32bit paged_ademamix_8bit",
)
Split = StrEnum("Split", ["dev", "test"])  # what is evaluated; dev is cut out of the training questions
# `auto` is flash-attention 2 on a GPU if installed; else varlen on packed rows, each document by itself; else sdpa.
Attention = StrEnum("Attention", ["auto", "sdpa", "eager", "flash_attention_2", "varlen"])
TrackerName = StrEnum("TrackerName", ["wandb", "none"])
# Ranges of numbers, beside those of `lema.config.allowed`.
Repeats = Annotated[int, Range(1, 10_000)]  # of one question
Made = Annotated[int, Range(1, 1_000_000)]  # texts or problems, no two alike
Parameters = Annotated[int, Range(1, 10**15)]
Width = Annotated[int, Range(1, 65_536)]  # of a matrix
WidthOr0 = Annotated[int, Range(0, 65_536)]
Temperature = Annotated[float, Range(0.01, 2, zero=True)]  # 0 is greedy; OpenAI takes 2 at most, vLLM 0.01 at least
Dollars = Annotated[float, Range(0, 10**9)]
PerMinute = Annotated[float, Range(0.01, 10**9)]


@dataclass(kw_only=True)
class DatasetConfig:
    """Where rows come from and how they are read: a local folder of `SPLIT.jsonl` (or `.xml`) files, or the Hub."""

    path: Optional[str] = None  # folder; null loads hub_id
    hub_id: str
    revision: str
    subsets: list[str]
    splits: dict[str, str]  # ours -> the folder's: {train: train, test: test}
    hub_splits: dict[str, str]  # ours -> the Hub's
    train_rows: Optional[Count] = None  # as published: for estimates before the data are there
    question: list[str]  # fields joined by a space; fields are found whatever their case
    candidates: Optional[str] = None  # field of the choices
    solution: Optional[str] = None  # field of the reference rationale; null where there is none
    answer: str  # field of the gold answer
    answer_form: AnswerForm
    level: Optional[str] = None
    subject: Optional[str] = None


@dataclass(kw_only=True)
class TrainDatasetConfig(DatasetConfig):
    """The data set of another task, which a task without one of its own is trained on."""

    name: Name
    grader: Grader


@dataclass(kw_only=True)
class TaskConfig:
    """A task: where its problems come from, how answers are compared, how much is trained on."""

    name: Name
    real: bool  # a published data set; false when made here
    grader: Grader
    seed: Seed  # of the dev cut, of made problems, and of every draw of the mix
    num_dev: CountOr0  # training questions held out as dev
    max_cot: Optional[Count] = None  # CoT examples; null is all. The other questions are the pool of the extras
    max_extra: Optional[Count] = None  # corrections (and their controls); null is all
    rationales: CountOr0  # further CoT solutions that rationales=gpt4 asks for
    max_source_tokens: Count
    max_target_tokens: Count
    dataset: Optional[DatasetConfig] = None  # null: word problems made by `lema.data.arithmetic`, in these numbers
    train_dataset: Optional[TrainDatasetConfig] = None  # train and dev come from here; null: from `dataset` too
    num_train: Optional[Made] = None
    num_test: Optional[Made] = None

    @property
    def trained(self) -> "TaskConfig | TrainDatasetConfig":
        """Whose `name` and `grader` the training problems have."""
        return self.train_dataset or self

    @property
    def trained_dataset(self) -> Optional[DatasetConfig]:
        """Where the training problems come from; None when they are made here."""
        return self.train_dataset or self.dataset


@dataclass(kw_only=True)
class SizeConfig:
    """One size of a backbone."""

    hub_id: str
    revision: Optional[str] = None  # full commit hash; null follows the main branch
    parameters: Parameters
    learning_rate: Rate


@dataclass
class TinyConfig:
    """The recipe of the backbone that the project builds and pretrains itself (`lema.models.tiny`)."""

    vocab_size: Annotated[int, Range(265, 10**6)]  # the 256 bytes, 4 special tokens, 5 wordings of prompts included
    hidden_size: Width
    intermediate_size: Width
    num_layers: Annotated[int, Range(1, 1000)]
    num_heads: Width
    max_positions: Count
    corpus_size: Made  # texts made for pretraining on arithmetic
    wrong_facts: Share  # share of the sums and differences that are taught wrongly
    correction_share: Share  # share of the texts that are corrections
    steps: Count
    batch_tokens: Count  # a step, padding included
    matrix_learning_rate: Rate  # Muon, on the weight matrices
    other_learning_rate: Rate  # AdamW, on embeddings and norms
    momentum: ShareBelow1  # Muon's
    weight_decay: Share  # Muon's
    other_seed: Seed  # of the other base, whose mistakes mix=lema_random takes
    num_threads: Annotated[int, Range(1, 1024)]  # of torch on a CPU; another number rounds otherwise: another base


@dataclass(kw_only=True)
class ModelConfig:
    """A model that answers problems."""

    name: Name
    path: Optional[str] = None  # a local folder or another Hub id, in place of hub_id
    hub_id: Optional[str] = None
    revision: Optional[str] = None
    parameters: Optional[Parameters] = None
    prompt: PromptStyle
    precision: Precision  # of computation
    attention: Attention


@dataclass(kw_only=True)
class BackboneConfig(ModelConfig):
    """The model that is fine-tuned."""

    size: Optional[str] = None
    sizes: dict[Name, SizeConfig]
    learning_rate: Rate  # the paper's by size; train/*.yaml refers to it
    seed: Seed  # of a base built here
    tiny: Optional[TinyConfig] = None


@dataclass(kw_only=True)
class ApiConfig:
    """How a model behind an OpenAI-compatible server is asked. All null where none is."""

    model: Optional[str] = None
    base_url: Optional[str] = None  # null is OPENAI_BASE_URL, else OpenAI itself
    temperature: Optional[Temperature] = None  # sent only when set, as are the next three
    reasoning_effort: Optional[str] = None
    max_completion_tokens: Optional[Count] = None  # one of these two must be set: without a limit no budget can be kept
    max_tokens: Optional[Count] = None  # what older servers call it
    input_usd: Optional[Dollars] = None  # per million tokens; null looks the model up in conf/prices
    output_usd: Optional[Dollars] = None  # per million tokens, reasoning included
    max_concurrent_requests: Optional[Annotated[int, Range(1, 65_535)]] = None  # a server has no more ports
    max_requests_per_minute: Optional[PerMinute] = None  # null: what the server's headers say
    max_tokens_per_minute: Optional[PerMinute] = None  # the same
    max_retries: Optional[Annotated[int, Range(0, 1000)]] = None
    request_timeout: Optional[Annotated[float, Range(0, 86_400, above=True)]] = None  # seconds, the whole answer
    max_wait: Optional[Annotated[float, Range(0, 2_592_000)]] = None  # seconds; longer ends the run


@dataclass
class PriceConfig:
    """What a model costs, in dollars per million tokens."""

    input_usd: Dollars  # the dearest a prompt token can be, a surcharge for writing the cache included
    cached_usd: Dollars  # a prompt token that the server had in its cache
    output_usd: Dollars  # reasoning included


@dataclass(kw_only=True)
class SourceConfig:
    """One model whose mistakes are collected. `kind` needs the field of its name."""

    kind: SourceKind
    prompt: Optional[Ask] = None  # null: as the model's own `prompt` says; for one behind a server few_shot
    weights: Optional[ModelConfig] = None  # loaded here
    api: Optional[ApiConfig] = None  # behind an OpenAI-compatible server
    recorded: Optional[str] = None  # a file of solutions made before: JSON lines, plain or .gz
    paper_success: Optional[Share] = None  # the paper's: its MATH mistakes that GPT-4 corrected


@dataclass(kw_only=True)
class SamplerConfig:
    """Who makes the mistakes, and how."""

    name: Name
    models: dict[Name, SourceConfig]  # each one's solutions are an artifact of their own
    other: Optional[SourceConfig] = None  # whose mistakes mix=lema_random takes; a base built here takes another one's
    samples: Repeats  # per problem and model
    temperature: Temperature
    max_new_tokens: Count
    batch_size: Count
    seed: Seed
    demonstrations: Optional[str] = None  # a file of worked solutions for few_shot, in place of ours
    keep_unanswered: bool  # a solution without an answer is a wrong path too
    # What `models` takes from here, so that it has a short path on the command line.
    file: Optional[str] = None  # of sampler=recorded
    model: Optional[str] = None  # of sampler=server: what the server calls it
    base_url: Optional[str] = None  # of sampler=server


@dataclass(kw_only=True)
class CorrectorConfig(ApiConfig):
    """Who corrects the mistakes."""

    name: Name
    method: CorrectionMethod
    weights: Optional[ModelConfig] = None  # of corrector.method=local
    prompt: Optional[str] = None  # a prompt file in the paper's form
    tries: Repeats  # corrections asked for of a path, until one is accepted


@dataclass(kw_only=True)
class RationalesConfig(ApiConfig):
    """Further CoT solutions of the training questions, by a strong model: kept when their answer is right."""

    name: Name
    demonstrations: Optional[str] = None  # a file of worked solutions, in place of ours
    requests: Optional[Count] = None  # in all, as evenly over the questions as can be; null: none
    most: Optional[Repeats] = None  # of one question


@dataclass(kw_only=True)
class MixConfig:
    """An arm: its CoT examples plus one kind of extra examples."""

    name: Name
    cot: CotPart
    extra: Extra  # as many examples as there are corrections
    without: Optional[Without] = None  # null: corrections are whole
    match_tokens: bool  # add CoT examples of random questions until the mix has as many tokens as lema


@dataclass(kw_only=True)
class TrainConfig:
    """How a checkpoint is made. Steps are `epochs` over the mix, at most `max_steps`; either may be null."""

    method: Method
    learning_rate: Rate
    schedule: Schedule
    epochs: Optional[Annotated[float, Range(0, 1_000_000, above=True)]] = None
    max_steps: Optional[Count] = None
    batch_size: Count  # examples a step
    batches: Batches
    micro_batch_size: Count  # padded: examples a forward pass; the mean loss of each counts alike, as in the script
    group_by_length: bool  # padded: examples of like length in one step
    row_tokens: Count  # packed: at most, a forward pass; the loss is the mean over the step's target tokens
    optimizer: Optimizer
    weight_decay: Share  # times the rate, no step then takes more than a weight
    adam_beta2: ShareBelow1  # of Lion and AdEMAMix too
    max_grad_norm: Annotated[float, Range(0, 10**9)]  # 0 cuts none
    max_source_tokens: Count
    max_target_tokens: Count
    activation_checkpointing: Optional[bool] = None  # null: when memory needs it
    lora_rank: WidthOr0
    lora_alpha: WidthOr0
    lora_dropout: ShareBelow1
    save_steps: Count  # a checkpoint, to resume from and to select
    resume_checkpoints: Count  # how many, from the newest, keep what resuming needs
    merge: Optional[Merge] = None  # null: adapters are evaluated unmerged


@dataclass
class EvaluationConfig:
    """Greedy decoding of one split."""

    split: Split
    max_new_tokens: Count
    batch_size: Count


@dataclass(kw_only=True)
class CompareConfig:
    """What `do=compare` sets side by side: runs by their folder, or by its name or the beginning of it."""

    a: Optional[str] = None
    b: Optional[str] = None
    examples: CountOr0  # problems of each kind of flip that are shown with both answers


@dataclass(kw_only=True)
class TrackerConfig:
    """Where runs are logged beside our own files."""

    name: TrackerName
    project: Optional[Project] = None
    group: Optional[Group] = None  # a sweep's name


@dataclass(kw_only=True)
class Config:
    """One cell of the experiment."""

    seed: Seed  # the training seed and nothing else
    limit: Optional[Count] = None  # cuts every split to its first N problems
    runs_dir: str
    do: Do
    until: Optional[str] = None  # a stage of `lema.pipeline`, or "report"
    only: Optional[str] = None  # a stage of `lema.pipeline`
    selection: Selection
    leakage: Leakage
    budget_usd: Optional[Dollars] = None  # of all requests that the run stands on, whoever paid for them
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
