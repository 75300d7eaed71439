"""The LoRA adapter that a backbone trains: on which of its layers it lies, what PEFT cannot put one on, its files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import nn

from lema.config import TrainConfig
from lema.identity import digest
from lema.types import UserError


def adapted(model: Any, config: TrainConfig, **options: Any) -> Any:
    """The model with a new adapter on every linear layer but the head; `options` are `get_peft_model`'s.

    Where PEFT knows that a model's fused experts were linear layers once, as Mixtral's, it adapts these too, and their
    router. Raises `UserError` when it cannot adapt the model so.
    """
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",  # PEFT leaves the output head out
        exclude_modules=_unfit(model) or None,
        task_type="CAUSAL_LM",
    )
    kind = model.config.model_type
    try:
        made = get_peft_model(model, lora, **options)
    except ValueError as error:
        if "lora_dropout" in str(error):  # of `ParamWrapper`, which adapts a parameter and never sees its input
            why = "PEFT adapts the fused experts without dropout alone: train.lora_dropout=0"
            raise UserError(f"train.lora_dropout={config.lora_dropout} on a {kind}: {why}, or train=full") from error
        why = " ".join(str(error).split())
        raise UserError(
            f"train.method={config.method} on a {kind}: PEFT cannot adapt it ({why}): train=full"
        ) from error
    found: Any = made.peft_config["default"]
    # Sets, saved in an order of their own in each process.
    for name in ("target_modules", "exclude_modules", "target_parameters"):
        if getattr(found, name):
            setattr(found, name, sorted(getattr(found, name)))
    return made


def experts(model: Any) -> dict[str, nn.Parameter]:
    """The fused experts by name, (experts, rows, columns) each: no linear layers, but they multiply as these do."""
    parameters = {name.replace(".base_layer", ""): each for name, each in model.named_parameters()}
    return {name: each for name, each in parameters.items() if each.ndim == 3 and "expert" in name.rpartition(".")[0]}


def _unfit(model: Any) -> list[str]:
    """Linear layers that must stay as they are, by name.

    A Mamba mixer's kernel reads the weight of its `out_proj` and never calls the layer. A router answers with more than
    a tensor.
    """
    mixers = [name for name, part in model.named_modules() if hasattr(part, "conv1d") and hasattr(part, "out_proj")]
    routers = [
        name for name, part in model.named_modules() if isinstance(part, nn.Linear) and "Router" in type(part).__name__
    ]
    return [*(f"{name}.out_proj" for name in mixers), *routers]


_CONFIG, _MATRICES = "adapter_config.json", "adapter_model.safetensors"  # of an adapter's folder


def rank(folder: Path) -> int:
    """The largest rank of an adapter's matrices."""
    config = json.loads((folder / _CONFIG).read_bytes())
    return max(config["r"], *(config.get("rank_pattern") or {}).values(), 0)


def content(folder: Path) -> str:
    """A hash of what an adapter does, wherever it and its base lie: 12 hex digits."""
    config = json.loads((folder / _CONFIG).read_bytes())
    with (folder / _MATRICES).open("rb") as file:
        return digest([config | {"base_model_name_or_path": None}, hashlib.file_digest(file, "sha256").hexdigest()])


def foreign(folder: Path) -> str | None:
    """What an adapter holds beside LoRA's two matrices of each layer: a resized embedding, `modules_to_save`."""
    with safe_open(folder / _MATRICES, "pt") as opened:
        names = [name for name in opened.keys() if ".lora_A." not in name and ".lora_B." not in name]  # noqa: SIM118
    return f"it holds {names[0]} whole" if names else None


def is_zero(folder: Path) -> bool:
    """Whether an adapter changes nothing, as before its first step: all its B matrices are zero."""
    with safe_open(folder / _MATRICES, "pt") as opened:
        return not any(opened.get_tensor(name).any() for name in opened.keys() if ".lora_B." in name)  # noqa: SIM118
