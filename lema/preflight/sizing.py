"""What steps take of a machine, before any is made: memory a card, GPUs, hours, disk.

Hours are those that the same step took for another cell here, where one was made; else an estimate for an A100.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.config import Config, Method, Precision, Selection
from lema.preflight import hardware
from lema.types import UserError

# The estimate's GPU: an A100, 312 TFLOP/s of dense 16-bit products (NVIDIA's data sheet of 2020).
_PEAK, _MEMORY, _DEVICE = 312e12, 80e9, "A100"
# Of the peak, while many sequences are generated at once; ours: 2,200 tokens a second of a model of 7 billion.
_GENERATING = 0.1
_ANSWER_TOKENS = 300  # of a solution, ours
_EXAMPLE_TOKENS = 400  # of a training example with its prompt, ours
_QUESTIONS = 10_000  # for training, where the data set does not say; above MATH's and GSM8K's
_LOADING = 0.05  # hours to start and load a model of a GPU, ours
_OWN = {"seed", "mix", "correctors", "step"}  # of a recipe's config: what tells cells apart and costs no time
_SAVED_BYTES, _MOMENT_BYTES = 4, 8  # of a trained parameter: in a checkpoint, and beside it to go on from


@dataclass(frozen=True)
class Hours:
    """How long a step takes, and where the number comes from."""

    hours: float
    source: str  # "measured on 3 earlier (NVIDIA H100)", "estimate for one A100"


NONE = Hours(0.0, "no model is loaded")


@dataclass(frozen=True)
class Training:
    """What the training of a cell takes of each card, or of the machine's memory."""

    memory_gb: float
    gpus: int
    trained: int  # parameters
    seconds: float  # on an A100


@cache
def _records(root: Path, stage: str) -> list[dict[str, Any]]:
    """What is known of the finished artifacts of a stage."""
    found = []
    for file in sorted(root.glob(f"{stage}/*/record.json")):
        with suppress(OSError, ValueError, LookupError, TypeError):
            record = json.loads(file.read_text(encoding="utf-8"))
            about = record["recipe"]
            found.append({"key": _alike(about), "seconds": float(record["made"]["seconds"])} | record["made"])
    return found


def _alike(identity: dict[str, Any]) -> str:
    """What two steps have in common that take about as long: all settings but the cell's own, and the model."""
    config = {name: value for name, value in identity["config"].items() if name not in _OWN}
    models = {name: identity["inputs"].get(name) for name in ("base", "weights")}
    return json.dumps([identity["version"], config, models], sort_keys=True)


def measured(root: Path, stage: str, identity: dict[str, Any]) -> Hours | None:
    """How long steps like the one of this recipe took here; None where none was made."""
    key = _alike(identity)
    if not (like := [each for each in _records(root, stage) if each["key"] == key]):
        return None
    devices = ", ".join(sorted({str(each.get("device", "")) for each in like} - {""}))
    return Hours(fmean(each["seconds"] for each in like) / 3600, f"measured on {len(like)} earlier ({devices})")


_plans: dict[str, Any] = {}  # cells of one backbone train alike


def laid_out(config: Config, parameters: int, mean_tokens: float | None, gpus: int, memory: float) -> Any:
    """The `lema.models.layout.Plan` of a training of a Llama of about so many parameters, on such cards (bytes each).

    Raises `UserError` where its weights do not fit.
    """
    train, depth = config.train, round((parameters / 1e9) ** (1 / 3), 1)
    key = repr((train, steps(config), depth, config.backbone.precision, mean_tokens, gpus, memory))
    if key not in _plans:
        from lema.models.layout import planned
        from lema.models.sizes import llama, training_size

        tokens = mean_tokens or _EXAMPLE_TOKENS
        size = training_size(llama(parameters), train, config.backbone.precision, tokens, steps(config))
        _plans[key] = planned(size, train, gpus, memory)
    return _plans[key]


def training(config: Config, parameters: int, mean_tokens: float | None) -> Training | None:
    """What a training takes on the GPUs of this machine, or on the fewest of 80 GB that hold it.

    None of a base that is built here, which takes next to nothing.
    """
    if not parameters:
        return None
    given, refusal = config.train.processes or hardware.gpus(), None
    for gpus in (given,) if given else (1, 2, 4, 8, 16, 32, 64):
        try:
            plan = laid_out(config, parameters, mean_tokens, gpus, _MEMORY)
        except UserError as error:
            refusal = error
            continue
        size, again = plan.size, plan.checkpointing
        seconds = size.seconds(_PEAK * gpus, again)
        return Training(size.memory(again, plan.shards) / 1e9, gpus, size.trained, seconds)
    assert refusal
    raise refusal


def estimated(
    config: Config, stage: str, parameters: int | None, answers: int, trained: Training | None
) -> Hours | None:
    """About how long a step takes on A100s that asks a model so much; None where nothing says so.

    `parameters` are those of the model that it loads: None where it loads none, and 0 where they are not known.
    """
    if parameters is None:
        return NONE
    gpus = trained.gpus if trained and stage == "train" else hardware.shares(config)
    source = f"estimate for {gpus} {_DEVICE}"
    if not parameters or stage in ("correct", "rationales"):  # how many mistakes there will be is not known
        return None
    if stage == "train":
        return Hours(trained.seconds / 3600 + _LOADING, source) if trained else None
    if stage == "merge":
        return Hours(2 * parameters * hardware.BYTES[Precision.bf16] / 1e9 / 3600 + _LOADING, source)
    flops = 2 * parameters * _ANSWER_TOKENS * answers * (checkpoints(config) if stage == "select" else 1)
    return Hours(flops / (_PEAK * _GENERATING * gpus) / 3600 + _LOADING, source)


def steps(config: Config) -> int:
    """Of a training, before its examples are known: at most two a question."""
    task, rows = config.task, config.task.trained_dataset
    return config.train.steps(2 * (config.limit or (rows and rows.train_rows) or task.num_train or _QUESTIONS))


def checkpoints(config: Config) -> int:
    """How many a training leaves."""
    return 1 if config.selection is Selection.last else ceil(steps(config) / config.train.save_steps)


def memory_gb(config: Config, stages: set[str], parameters: int, trained: Training | None) -> float | None:
    """What a card must hold at the peak: the training, or the weights that answer; None where no card is needed."""
    if not parameters:
        return None
    held = [each.width * parameters / 1e9 for each in hardware.held(config, stages, True)]
    return max([*held, *([trained.memory_gb] if trained else [])], default=None)


def gpus(config: Config, stages: set[str], parameters: int, trained: Training | None) -> int:
    """How many GPUs these stages take at once."""
    return max(trained.gpus if trained else 0, hardware.shares(config) if parameters and stages else 0)


def disk(config: Config, stage: str, parameters: int, trained: Training | None) -> float:
    """The bytes that a step adds below the runs folder, those included that go when it ends."""
    train, whole = config.train, parameters * hardware.BYTES[config.backbone.precision]
    unmerged = {"select": config.selection is not Selection.last, "evaluate": train.merge is None}.get(stage, False)
    if stage == "merge" or (unmerged and train.method is Method.qlora and config.engine.name == "vllm"):
        return whole  # below its adapters vLLM is served the 4-bit base in 16 bits
    if stage != "train" or not trained:
        return 0.0
    going_on = train.resume_checkpoints + 1  # and the one that is written before an older one goes
    kept = max(going_on, checkpoints(config))
    return trained.trained * (kept * _SAVED_BYTES + going_on * _MOMENT_BYTES)
