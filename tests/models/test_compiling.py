"""A compiled model trains as it does otherwise, dropout and activation checkpointing included."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tables import some
from torch._dynamo.utils import counters
from torch._inductor import config as generating
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lema.config import Attention, Precision
from lema.models import compiling
from lema.models.compiling import _fault, compiled
from lema.models.fitting import Fit, fit
from lema.models.kernels import small
from lema.types import UserError


def losses(job: Fit, compiles: bool, **changed: object) -> list[float]:
    train = replace(job.settings.train, compile=compiles, **changed)
    return [row["loss"] for row in fit(replace(job, settings=replace(job.settings, train=train)), lambda *_: None)]


@pytest.mark.parametrize(
    ("name", "method", "batches", "again"),
    some([("llama", "lora", "packed", False), ("mistral", "full", "padded", True)], 2, pytest.mark.slow),
)
def test_compiled_blocks_train_as_others_do(name: str, method: str, batches: str, again: bool, job) -> None:
    changed = {"lora_dropout": 0.1 * (method == "lora"), "activation_checkpointing": again}
    plain = losses(job(name, method, batches, "plain"), False, **changed)
    counters.clear()
    assert losses(job(name, method, batches, "compiled"), True, **changed) == pytest.approx(plain, rel=1e-6)
    assert counters["stats"]["unique_graphs"] > 0, "it was compiled"
    assert batches == "packed" or not counters["graph_break"], "nor in pieces; a CPU reads packed bounds as it goes"


KERNELS = {"llama": Attention.varlen, "qwen2": Attention.varlen, "gpt2": Attention.sdpa, "gemma2": Attention.eager}


@pytest.mark.parametrize(
    ("name", "kernel", "precision"),
    some(((*each, precision) for precision in Precision for each in KERNELS.items()), 5, pytest.mark.slow),
)
def test_a_small_compiled_model_has_the_gradient_of_a_plain_one(name, kernel: Attention, precision: Precision) -> None:
    """In 16 bits too, in which a plain Qwen-2 is itself 0.3 off its gradient in 32."""
    config = small(CONFIG_MAPPING[name]())
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel.value)
    assert _fault(model, kernel is Attention.varlen, precision) is None


def test_a_compiled_model_that_computes_something_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(model: Any) -> None:
        model.model.layers[0].mlp.register_forward_hook(lambda *given: given[2] * 2)

    monkeypatch.setattr(compiling, "_compile", double)
    model = AutoModelForCausalLM.from_config(small(CONFIG_MAPPING["llama"]()), attn_implementation="sdpa")
    for precision in Precision:
        assert str(_fault(model, False, precision)).startswith("is another one (")


@pytest.mark.slow
def test_where_nothing_can_be_compiled_one_line_says_so(job) -> None:
    """No C++ compiler here; a GPU's kernels want Triton and a C compiler."""
    train = job("llama", "lora", "padded", "run").settings.train
    model = AutoModelForCausalLM.from_config(small(CONFIG_MAPPING["llama"]()))
    tokens = torch.arange(3, 9)[None]
    with generating.patch({"cpp.cxx": ("no-such-compiler",)}):
        told = r"^train.compile: the model's blocks cannot be compiled \(\w+: .*\): train.compile=false$"
        with pytest.raises(UserError, match=told), compiled(model, replace(train, compile=True), Precision.fp32, 0.0):
            model(input_ids=tokens)
        assert str(_fault(model, False, Precision.fp32)).startswith("fails (")


def test_it_is_left_alone_where_it_would_save_no_time(job) -> None:
    train = job("llama", "lora", "padded", "run").settings.train
    model = AutoModelForCausalLM.from_config(small(CONFIG_MAPPING["llama"]()))
    with compiled(model, train, Precision.bf16, 0.0 if torch.cuda.is_available() else 1e6):
        assert all(part._compiled_call_impl is None for part in model.modules())
