"""The LoRA adapter that a backbone trains: on which of its layers it lies, and what PEFT cannot put one on."""

from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from lema.config import TrainConfig
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
