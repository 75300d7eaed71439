"""Every knob of the suite, typed: Hydra composes conf/ against these. A file there may leave out what may be null."""

from dataclasses import dataclass, field, fields
from math import ceil
from typing import Annotated, Any, Optional

from lema.config.allowed import (
    IF_SET as IF_SET,
    NO_EFFECT,
    Count,
    Group,
    Made,
    Name,
    Path,
    Project,
    Range,
    Rate,
    Repeats,
    Seed,
    Share,
    ShareBelow1,
    Temperature,
    unless,
)
from lema.config.choices import (
    AnswerForm as AnswerForm,
    Ask,
    Attention,
    Batches,
    CorrectionMethod,
    CotPart as CotPart,
    Do,
    Extra as Extra,
    Grader as Grader,
    Layout,
    Leakage,
    Merge,
    Method,
    Optimizer,
    Precision,
    PromptStyle,
    Schedule,
    Selection,
    SourceKind,
    Split as Split,
    TrackerName,
    Without as Without,
)
from lema.config.evaluation import EvaluationConfig
from lema.config.mix import MixConfig as MixConfig
from lema.config.reports import (
    CompareConfig as CompareConfig,
    PowerConfig as PowerConfig,
    ReportConfig as ReportConfig,
    ResultsConfig as ResultsConfig,
)
from lema.config.servers import (
    ApiConfig as ApiConfig,
    Dollars as Dollars,
    PriceConfig as PriceConfig,
    ServerConfig as ServerConfig,
)
from lema.config.task import (
    DatasetConfig as DatasetConfig,
    TaskConfig,
    TrainDatasetConfig as TrainDatasetConfig,
    further_tests as further_tests,
    known_tasks as known_tasks,
)

# Ranges of numbers, beside those of `lema.config.allowed`.
Parameters = Annotated[int, Range(1, 10**15)]
_Width = Annotated[int, Range(1, 65_536)]  # of a matrix
_WidthOr0 = Annotated[int, Range(0, 65_536)]


@dataclass(kw_only=True)
class SizeConfig:
    """One size of a backbone."""

    hub_id: Optional[str] = None
    revision: Optional[str] = None  # full commit hash; null follows the main branch
    parameters: Optional[Parameters] = None
    learning_rate: Rate


@dataclass
class TinyConfig:
    """The recipe of the backbone that the project builds and pretrains itself (`lema.models.tiny`)."""

    vocab_size: Annotated[int, Range(265, 10**6)]  # the 256 bytes, 4 special tokens, 5 wordings of prompts included
    hidden_size: _Width
    intermediate_size: _Width
    num_layers: Annotated[int, Range(1, 1000)]
    num_heads: _Width
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


@dataclass(frozen=True)
class Computation:
    """How a model that is loaded here computes."""

    precision: Precision
    attention: Attention


@dataclass(frozen=True)
class Pretraining:
    """All that decides a base built here, beside the problems of its task."""

    tiny: "TinyConfig"
    prompt: PromptStyle
    seed: int
    made: bool  # the problems are made here, and their texts are drawn anew; else their texts are what is read


@dataclass(frozen=True)
class Training:
    """All that decides trained weights, beside the examples and the base."""

    train: "TrainConfig"
    computation: Computation
    seed: int
    last_only: bool  # of the checkpoints only the last one is kept


@dataclass(kw_only=True)
class ModelConfig:
    """A model that answers problems."""

    name: Name
    path: Optional[Path] = None  # a local folder in place of hub_id
    hub_id: Optional[str] = None
    revision: Optional[str] = None
    parameters: Optional[Parameters] = None
    prompt: PromptStyle
    precision: Precision  # of computation
    attention: Attention

    @property
    def computation(self) -> Computation:
        """How it computes, whoever it is."""
        return Computation(self.precision, self.attention)


@dataclass(kw_only=True)
class BackboneConfig(ModelConfig):
    """The model that is fine-tuned."""

    size: Optional[str] = None
    sizes: dict[Name, SizeConfig] = field(metadata=NO_EFFECT)
    learning_rate: Rate  # the paper's by size; train/*.yaml refers to it
    seed: Seed  # of a base built here
    tiny: Optional[TinyConfig] = None


@dataclass(kw_only=True)
class SourceConfig:
    """One model whose mistakes are collected. `kind` needs the field of its name."""

    kind: SourceKind
    prompt: Optional[Ask] = None  # null: as the model's own `prompt` says; for one behind a server few_shot
    weights: Optional[ModelConfig] = None  # loaded here
    api: Optional[ApiConfig] = None  # behind an OpenAI-compatible server
    recorded: Optional[Path] = None  # a file of solutions made before: JSON lines, plain or .gz
    paper_success: Optional[Share] = None  # the paper's: its MATH mistakes that GPT-4 corrected

    @property
    def is_own(self) -> bool:
        """Whether it is the cell's own backbone, untuned or tuned."""
        return self.kind in (SourceKind.backbone, SourceKind.tuned)


@dataclass(kw_only=True)
class SamplerConfig:
    """Who makes the mistakes, and how."""

    name: Name
    models: dict[Name, SourceConfig]  # each one's solutions are an artifact of their own
    other: Optional[SourceConfig] = None  # whose mistakes mix=lema_random takes; a base built here takes another one's
    samples: Repeats  # per problem and model
    temperature: Temperature
    max_new_tokens: Count
    seed: Seed
    demonstrations: Optional[Path] = None  # a file of worked solutions for few_shot, in place of ours
    keep_unanswered: bool  # a solution without an answer is a wrong path too
    # What `models` takes from here, so that it has a short path on the command line.
    file: Optional[Path] = field(default=None, metadata=NO_EFFECT)  # of sampler=recorded
    model: Optional[str] = field(default=None, metadata=NO_EFFECT)  # of sampler=server: what the server calls it
    base_url: Optional[str] = field(default=None, metadata=NO_EFFECT)  # of sampler=server


@dataclass(kw_only=True)
class WriterConfig(ApiConfig):
    """A strong model that writes, behind a server, or with `weights` loaded here."""

    name: Name
    weights: Optional[ModelConfig] = None
    seed: Optional[Seed] = None  # of weights loaded here

    @property
    def api(self) -> ApiConfig:
        """How it is asked, whatever it writes."""
        return ApiConfig(**{each.name: getattr(self, each.name) for each in fields(ApiConfig)})


@dataclass(kw_only=True)
class FilterConfig:
    """What an accepted correction must pass beside its form and its final answer; as it is by default, nothing."""

    # So many of `corrector.tries` corrections must name the same step, more than half.
    agree: Optional[Annotated[int, Range(2, 10_000)]] = field(default=None, metadata=IF_SET)
    structural: bool = field(default=False, metadata=IF_SET)  # what can be checked without a model
    # A second model is asked whether the named step is the first wrong one.
    verifier: Optional[WriterConfig] = field(default=None, metadata=IF_SET)


@dataclass(kw_only=True)
class CorrectorConfig(WriterConfig):
    """Who corrects the mistakes."""

    method: CorrectionMethod
    prompt: Optional[Path] = None  # a file in the paper's form, or may_be_right: ours, which asks "or none"
    tries: Repeats  # corrections asked for of a path, until one is accepted
    filter: FilterConfig = field(default_factory=FilterConfig, metadata=unless(FilterConfig()))


@dataclass(kw_only=True)
class RationalesConfig(WriterConfig):
    """Further CoT solutions of the training questions, by a strong model: kept when their answer is right."""

    demonstrations: Optional[Path] = None  # a file of worked solutions, in place of ours
    requests: Optional[Count] = None  # in all, as evenly over the questions as can be; null: none
    most: Optional[Repeats] = None  # of one question


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
    lora_rank: _WidthOr0
    lora_alpha: _WidthOr0
    lora_dropout: ShareBelow1
    save_steps: Count  # a checkpoint, to resume from and to select
    resume_checkpoints: Count = field(metadata=NO_EFFECT)  # how many, from the newest, keep what resuming needs
    merge: Optional[Merge] = None  # null: adapters are evaluated unmerged
    processes: Optional[Count] = field(default=None, metadata=NO_EFFECT)  # ranks; null: one for each visible GPU
    layout: Optional[Layout] = field(default=None, metadata=NO_EFFECT)  # null: sharded where one GPU holds too little
    compile: Optional[bool] = field(default=None, metadata=NO_EFFECT)  # the model's blocks; null: where it saves time
    grace_seconds: Count = field(metadata=NO_EFFECT)  # for several ranks to save a checkpoint, after a stop signal

    def steps(self, examples: int) -> int:
        """Of a training on so many examples."""
        by_epochs = [] if self.epochs is None else [ceil(examples * self.epochs / self.batch_size)]
        return min([*by_epochs, *([] if self.max_steps is None else [self.max_steps])])


@dataclass(kw_only=True)
class AuditConfig:
    """What `do=audit` shows to the corrector."""

    data: Optional[Path] = None  # processbench, mr_gsm8k, or a file of solutions with human labels


@dataclass(kw_only=True)
class CleanConfig:
    """What `do=clean` does beside naming what no run needs."""

    delete: bool


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
    runs_dir: Path = field(metadata=NO_EFFECT)
    do: Do = field(metadata=NO_EFFECT)
    until: Optional[str] = field(default=None, metadata=NO_EFFECT)  # a stage of `lema.pipeline`, or "report"
    only: Optional[str] = field(default=None, metadata=NO_EFFECT)  # a stage of `lema.pipeline`
    selection: Selection
    leakage: Leakage
    budget_usd: Optional[Dollars] = field(default=None, metadata=NO_EFFECT)
    retry_failed: bool = field(metadata=NO_EFFECT)
    engine: Any  # of models that are loaded here: the `Settings` of the module of `lema.engines` that it names
    prices: dict[str, PriceConfig] = field(metadata=NO_EFFECT)  # by model
    sampler: SamplerConfig
    corrector: CorrectorConfig
    rationales: RationalesConfig
    mix: MixConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    report: ReportConfig = field(metadata=NO_EFFECT)
    power: PowerConfig = field(metadata=NO_EFFECT)
    compare: CompareConfig = field(metadata=NO_EFFECT)
    results: ResultsConfig = field(metadata=NO_EFFECT)
    audit: AuditConfig = field(metadata=NO_EFFECT)
    clean: CleanConfig = field(metadata=NO_EFFECT)
    tracker: TrackerConfig = field(metadata=NO_EFFECT)
    task: TaskConfig
    backbone: BackboneConfig

    @property
    def writers(self) -> dict[str, dict[str, WriterConfig]]:
        """Of each stage that asks them: the models that write, by their keys."""
        verifier = self.corrector.filter.verifier
        verifying = {"corrector.filter.verifier": verifier} if verifier else {}
        return {"correct": {"corrector": self.corrector, **verifying}, "rationales": {"rationales": self.rationales}}
