"""Attention kernels: an architecture trains on packed rows as eager computes each document, or one line refuses it."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import token_rows
from tables import some
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lema import pipeline
from lema.config import Attention, Computation, Precision, TrainConfig
from lema.models import attention, kernels
from lema.models.batches import StepCollator, check_packing, mean_loss
from lema.models.huggingface import load_architecture, load_trainable
from lema.models.kernels import choose, small
from lema.models.sizes import training_size
from lema.models.weights import Weights
from lema.types import UserError

EAGER, PADDED = "backbone.attention=eager", "train.batches=padded"
BOTH = f"{PADDED} {EAGER}"
ALL: dict[str, str | None] = {"varlen": None, "sdpa": None, "eager": None}
# What is the remedy where a kernel does not compute packed rows of an architecture; None where it does.
ARCHITECTURES: dict[str, dict[str, str | None]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "olmo2", "gpt_neox"), ALL),
    "gemma2": {"varlen": EAGER, "sdpa": EAGER, "eager": None},  # soft-capping
    "gpt_oss": {"varlen": PADDED, "sdpa": BOTH, "eager": PADDED},  # sinks, and masks that know nothing of positions
    "gpt2": {"varlen": EAGER, "sdpa": None, "eager": None},  # dropout in its attention
    "llama4_text": {"varlen": EAGER, "sdpa": None, "eager": None},  # attention in chunks
    "opt": {"varlen": None, "sdpa": PADDED, "eager": PADDED},  # masks that know nothing of positions
    "mamba": {"varlen": PADDED, "sdpa": BOTH, "eager": PADDED},  # its state runs on from document to document
}
DEFAULTS = {"gemma2": "eager", "gpt_oss": "eager", "mamba": "eager"}  # of auto where no row is packed; else sdpa
WINDOWED = {"mistral", "gemma2", "gemma3_text", "gpt_oss", "llama4_text"}
CASES = [(name, kernel) for name, remedies in ARCHITECTURES.items() for kernel in remedies]


def architecture(name: str) -> Any:
    return CONFIG_MAPPING[name]()


def model(name: str, kernel: str) -> Any:
    """A small one that knows the tokens of `rows`; its weights are the same for each kernel."""
    config = small(architecture(name))
    config.vocab_size = 97
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=kernel, dtype=torch.float32).eval()


def step(net: Any, batches: list[dict[str, Any]]) -> tuple[float, torch.Tensor]:
    """The mean loss over all target tokens, and its gradient as one vector."""
    total, targets = 0.0, sum(batch["target_tokens"] for batch in batches)
    for batch in batches:
        for inputs, weight in zip(batch["passes"], batch["weights"], strict=True):
            loss = mean_loss(net, inputs) * weight * batch["target_tokens"] / targets
            loss.backward()
            total += loss.item()
    gradients = [each.grad for each in net.parameters()]
    return total, torch.cat([each.flatten() for each in gradients if each is not None])


@pytest.fixture(scope="module")
def config(make_config) -> TrainConfig:
    return make_config("train.max_source_tokens=40", "train.max_target_tokens=40", "train.row_tokens=80").train


@pytest.mark.parametrize(("name", "kernel"), some(CASES, 4))
def test_packed_rows_have_the_loss_of_eager_one_by_one_or_are_refused(config, name: str, kernel: str) -> None:
    remedy, asked = ARCHITECTURES[name][kernel], Attention(kernel)
    if remedy is not None:
        with pytest.raises(UserError) as raised:
            choose(Computation(Precision.fp32, asked), architecture(name), packed=True)
        start = f"backbone.attention={kernel} on packed rows: {kernel} does not compute the attention of {name} ("
        assert str(raised.value).startswith(start)
        assert str(raised.value).endswith(f"): {remedy}")
        assert "\n" not in str(raised.value)
        return
    assert choose(Computation(Precision.fp32, asked), architecture(name), packed=True) == (asked, "as configured")
    layout, made = StepCollator(config, None), token_rows(8)
    loss, gradient = step(model(name, kernel), [layout(made)])
    alone, expected = step(model(name, "eager"), [layout([row]) for row in made])
    assert loss == pytest.approx(alone, rel=1e-5)
    assert (gradient - expected).norm() / expected.norm() < 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is chosen without a GPU")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_auto_takes_the_first_kernel_that_computes_what_eager_does_and_says_why(name: str) -> None:
    kernel, why = choose(Computation(Precision.fp32, Attention.auto), architecture(name), packed=False)
    assert kernel == DEFAULTS.get(name, "sdpa")
    assert why.startswith("no GPU; sdpa does not compute" if name in DEFAULTS else "no GPU")
    fitting = [kernel for kernel, remedy in ARCHITECTURES[name].items() if remedy is None]
    if fitting:
        kernel, why = choose(Computation(Precision.fp32, Attention.auto), architecture(name), packed=True)
        assert kernel == fitting[0]
        assert why.count(" does not compute the attention of ") == list(ALL).index(fitting[0])
    else:
        with pytest.raises(UserError, match=f"backbone.attention=auto on packed rows: .*: {PADDED}$"):
            choose(Computation(Precision.fp32, Attention.auto), architecture(name), packed=True)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name, remedies in ARCHITECTURES.items()
        for method in ("full", "lora")
        if None in remedies.values() and (name, method) != ("llama4_text", "lora")  # PEFT cannot wrap its router
    ],
)
def test_each_that_packs_is_counted_loaded_and_passes_the_check_at_the_start(
    make_config, config, tmp_path, caplog, name: str, method: str
) -> None:
    model(name, "eager").save_pretrained(tmp_path)
    source, given = Weights(name, str(tmp_path), None, ""), make_config(f"train={method}", "backbone.attention=auto")
    lengths = {name: getattr(config, name) for name in ("max_source_tokens", "max_target_tokens", "row_tokens")}
    recipe = replace(given.train, **lengths)
    run = training_size(load_architecture(source), recipe, Precision.fp32, 100.0, steps=2)
    assert run.memory(checkpointing=True) < run.memory(checkpointing=False)
    with caplog.at_level(logging.INFO):
        net = load_trainable(source, given.backbone.computation, recipe, seed=1, checkpointing=False)
    kernel = net.config._attn_implementation
    assert f"train: attention {kernel} (" in caplog.text
    check_packing(net, token_rows(8), recipe, None, Precision.fp32)
    assert net.config._attn_implementation == kernel


def test_the_trial_keeps_what_shapes_attention() -> None:
    gemma, oss, llama = (small(architecture(name)) for name in ("gemma2", "gpt_oss", "llama4_text"))
    assert gemma.attn_logit_softcapping == architecture("gemma2").attn_logit_softcapping
    assert set(gemma.layer_types) == set(oss.layer_types) == {"sliding_attention", "full_attention"}
    assert set(llama.layer_types) == {"chunked_attention", "full_attention"}
    for each in (gemma, oss, llama):
        shared = each.num_attention_heads // each.num_key_value_heads
        whole = architecture(each.model_type)
        assert shared == whole.num_attention_heads // whole.num_key_value_heads
        assert each.head_dim == whole.head_dim
    assert {small(architecture(name)).get_text_config().model_type for name in WINDOWED} == WINDOWED
    for name in WINDOWED - {"llama4_text"}:
        assert small(architecture(name)).sliding_window < max(kernels.DOCUMENTS)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "llama4_text"])
def test_a_kernel_that_says_nothing_of_what_it_drops_is_found_by_its_answers(monkeypatch, name: str) -> None:
    monkeypatch.setattr(attention, "_refuse", lambda *_: None)
    monkeypatch.setattr(kernels, "_found", {})
    with pytest.raises(UserError, match=r"varlen does not compute .* off eager's logits\)"):
        choose(Computation(Precision.fp32, Attention.varlen), architecture(name), packed=True)


def test_queries_and_keys_of_another_precision_than_values_are_taken() -> None:
    """As autocast leaves those of weights of 32 bits; flash kernels take 16 bits alone."""
    query, key, value = (torch.randn(1, heads, 9, 4) for heads in (4, 2, 2))
    bounds: dict[str, Any] = {"cu_seq_lens_q": torch.tensor([0, 4, 9], dtype=torch.int32), "max_length_q": 5}
    found, _ = attention.varlen(torch.nn.Module(), query, key, value.bfloat16(), None, **bounds)
    halves = query.bfloat16(), key.bfloat16(), value.bfloat16()
    assert torch.equal(found, attention.varlen(torch.nn.Module(), *halves, None, **bounds)[0])


class Recorded(TorchDispatchMode):
    """What torch's own attention operation was called with; on fake tensors nothing is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked += [args] if "_varlen_attn" in str(func) else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("grouped", [True, False])
def test_heads_that_share_keys_are_not_repeated_where_the_kernel_takes_them(heads, grouped, monkeypatch) -> None:
    """Of what is passed to the kernel on a GPU, not of what it computes, which `tests/gpu` holds against eager."""
    if grouped and not attention.GROUPED:
        pytest.skip("this torch has no enable_gqa")
    monkeypatch.setattr(attention, "GROUPED", grouped)
    with FakeTensorMode(), Recorded() as recorded:
        sizes = [(1, number, 30, 16) for number in (8, heads, heads)]
        query, key, value = (torch.empty(size, device="cuda", dtype=torch.bfloat16) for size in sizes)
        bounds: dict[str, Any] = {"cu_seq_lens_q": torch.empty(3, device="cuda", dtype=torch.int32)}
        options = bounds | {"max_length_q": 20, "sliding_window": 8}
        found, _ = attention.varlen(torch.nn.Module(), query, key, value, None, **options)
    assert found.shape == (1, 30, 8, 16)
    [args] = recorded.asked
    passed = heads if grouped else 8
    assert [each.shape for each in args[:3]] == [(30, 8, 16), (30, passed, 16), (30, passed, 16)]
    assert args[7:10] == (False, None, [7, 0])
    assert (args[10:11] == (True,)) == (grouped and heads == 2)  # enable_gqa


def test_a_kernel_for_16_bits_gets_them_under_autocast_where_4_bit_weights_give_32() -> None:
    torch.set_autocast_enabled("cuda", True)  # `torch.autocast` would not, without a GPU
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode(), Recorded() as recorded:
            query, key, value = (torch.empty((1, 8, 30, 16), device="cuda") for _ in range(3))
            bounds = torch.empty(3, device="cuda", dtype=torch.int32)
            attention.varlen(torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=20)
    finally:
        torch.set_autocast_enabled("cuda", False)
    [args] = recorded.asked
    assert [each.dtype for each in args[:3]] == [torch.bfloat16] * 3


def test_training_starts_only_with_the_loss_of_eager(monkeypatch, config) -> None:
    monkeypatch.setattr(attention, "_refuse", lambda *_: None)
    net = model("gemma2", "varlen")
    line = r"attention=varlen: packed rows are not what eager makes of each document .* backbone.attention=eager, or"
    with pytest.raises(UserError, match=line):
        check_packing(net, token_rows(8), config, None, Precision.fp32)
    net = model("llama", "varlen")
    check_packing(net, token_rows(8), config, None, Precision.fp32)
    assert net.config._attn_implementation == "varlen"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        *(({"softcap": 50.0}, "softcap=50.0"), ({"s_aux": torch.zeros(2)}, "s_aux"), ({"dropout": 0.1}, "dropout=0.1")),
        *(({"is_causal": False}, "is_causal=False"), ({"position_bias": torch.zeros(1)}, "position_bias")),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, "attention_mask"),
        *(({"something_new": "on"}, "something_new=on"), ({"cu_seq_lens_q": None}, "no cu_seq_lens_q")),
    ],
)
def test_varlen_refuses_what_it_does_not_compute(asked: dict[str, Any], named: str) -> None:
    kept: dict[str, Any] = {"cu_seq_lens_q": torch.tensor([0, 4]), "max_length_q": 4, "attention_mask": None}
    kept |= {"softcap": None, "dropout": 0.0, "s_aux": None, "is_causal": True, "position_ids": torch.zeros(1, 4)}
    ones = torch.ones(1, 2, 4, 8)
    assert torch.equal(attention.varlen(torch.nn.Identity(), ones, ones, ones, **kept)[0], ones.transpose(1, 2))
    with pytest.raises(UserError) as raised:
        attention.varlen(torch.nn.Identity(), ones, ones, ones, **kept | asked)
    assert str(raised.value) == f"attention=varlen does not compute {named}, which Identity asks for"


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """`folder("gemma2")`: a model's folder, of which nothing but the config is there yet."""

    def make(name: str) -> Path:
        config = architecture(name).to_dict() | {"architectures": [f"{name}ForCausalLM"]}
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config, default=str))
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ("name", "overrides", "line"),
    [
        ("gemma2", ["backbone.attention=varlen"], "backbone.attention=varlen on packed rows: varlen does not compute"),
        ("gemma2", ["backbone.attention=sdpa", PADDED], "backbone.attention=sdpa: sdpa does not compute"),
        ("gemma2", ["backbone.attention=sdpa", "until=sample"], "backbone.attention=sdpa: sdpa does not compute"),
        ("gpt_oss", ["backbone.attention=eager"], "backbone.attention=eager on packed rows: eager does not compute"),
        ("gpt_oss", [], "backbone.attention=auto on packed rows: varlen does not compute"),
    ],
)
def test_what_a_kernel_would_drop_is_one_line_before_anything_is_made(
    make_config, folder, tmp_path, name, overrides, line
) -> None:
    runs = tmp_path / "runs"
    config = make_config(f"backbone.path={folder(name)}", f"runs_dir={runs}", "tracker=none", *overrides)
    with pytest.raises(UserError) as raised:
        pipeline.run(config, [])
    [found] = str(raised.value).split("\n  - ")[1:]
    assert found.startswith(f"model: {line}")
    assert found.endswith(PADDED if name == "gpt_oss" else EAGER)
    assert not [path for path in runs.iterdir() if not path.name.startswith(".")]


def test_an_architecture_of_which_no_small_one_can_be_made_is_said_once(caplog) -> None:
    odd = architecture("llama")
    odd.hidden_act = "none of them"
    with caplog.at_level(logging.WARNING):
        for packed in (True, False):
            choose(Computation(Precision.fp32, Attention.auto), odd, packed)
    assert caplog.text.count("no kernel could be tried on a small llama") == 1


@pytest.mark.parametrize(("capability", "told"), [("AVX2", True), ("AVX512", False)])
def test_bf16_that_a_cpu_only_emulates_is_told_of(monkeypatch, caplog, capability: str, told: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for precision, lines in ((Precision.fp32, 0), (Precision.bf16, told)):
        caplog.clear()
        choose(Computation(precision, Attention.auto), CONFIG_MAPPING["llama"](), packed=True, key=capability)
        assert [each.endswith(f": {capability}.precision=fp32") for each in caplog.messages] == [True] * lines
