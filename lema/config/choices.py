"""What a key of the config may be chosen from."""

from enum import StrEnum

# What a command does: run a cell or a sweep; say what it would make, need and cost; say how far each run is; write the
# report on all runs or on a sweep's; say what more seeds and problems would show; set two runs side by side; write
# results as one file, and bring such a file's here; measure a corrector on solutions with human labels; write the
# journal as JSON lines; name or delete what no run needs; make the report at W&B too; write a sweep as W&B's own file.
Do = StrEnum(
    "Do",
    "run plan status report power compare export_results import_results audit export clean wandb_report wandb_sweep",
)
# Whose rules compare answers: a task's name in `lema.grading`.
Grader = StrEnum("Grader", ["arithmetic", "gsm8k", "math", "svamp", "asdiv", "csqa"])
# How a data set writes the gold answer: the field itself, after the last `####` (GSM8K), in the last box (MATH), as a
# number and its unit (ASDiv; what is none is left out), as the label of a candidate (CSQA).
AnswerForm = StrEnum("AnswerForm", ["plain", "hashes", "boxed", "quantity", "label"])
PromptStyle = StrEnum("PromptStyle", ["lema", "alpaca"])  # a key of `lema.prompts.formats.COT_PROMPTS`
Ask = StrEnum("Ask", ["lema", "alpaca", "few_shot"])  # few_shot: after worked solutions, as the paper sampled
# Where wrong solutions come from: the cell's own backbone, other weights, a server, or a file.
SourceKind = StrEnum("SourceKind", ["backbone", "tuned", "weights", "api", "recorded"])
# Who corrects: the reference solution, a model behind an OpenAI-compatible server, or one that is loaded here.
CorrectionMethod = StrEnum("CorrectionMethod", ["reference", "api", "local"])
# Training questions that are test questions too: dropped, or (paper) used, as the paper did.
Leakage = StrEnum("Leakage", ["drop", "paper"])
CotPart = StrEnum("CotPart", ["all", "cut", "none"])  # which CoT examples a mix has; cut: the extras take their places
# What a mix adds; other_corrections: of another model's mistakes; own_right: right solutions of who made the mistakes.
Extra = StrEnum(
    "Extra",
    "none corrections other_corrections inline_corrections corrected_cot random_cot repeated_cot mistakes "
    "marked_mistakes own_right",
)
Without = StrEnum("Without", ["step", "explanation", "solution"])  # the part of a correction an ablation leaves out
Method = StrEnum("Method", ["full", "lora", "qlora"])  # all weights, or adapters on a 16-bit or 4-bit (NF4) base
Batches = StrEnum("Batches", ["padded", "packed"])  # packed: documents side by side in rows, without any padding
# Of a training by several ranks: each has all weights, or a slice of each.
Layout = StrEnum("Layout", ["replicated", "sharded"])
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
