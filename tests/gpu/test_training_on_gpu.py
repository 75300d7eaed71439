"""Training on a GPU: kernels, the 4-bit base, a step of each method, resuming, and the memory that was estimated."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from small import METHODS, ROOT, TRAINING, token_rows, training
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from lema.config import Attention, Config, Method, Precision
from lema.models import attention
from lema.models.attention import GROUPED
from lema.models.batches import IGNORED, StepCollator, mean_loss
from lema.models.huggingface import load_model, load_trainable
from lema.models.sizes import MARGIN, training_size
from lema.models.trainer import train
from lema.models.weights import Weights

# The 16 numbers of NF4 (QLoRA, arXiv 2305.14314, appendix E).
NF4 = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0]
NF4 += [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.5626170, 0.72295684, 1.0]
SIZES: Any = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 1024, "initializer_range": 0.05}
MODELS = {"llama": LlamaConfig(**SIZES), "mistral, window": MistralConfig(**SIZES, sliding_window=24)}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def gradient(model: Any, batches: list[dict[str, Any]]) -> torch.Tensor:
    """The gradient of the mean loss over all target tokens, as one vector."""
    model.zero_grad()
    targets = sum(batch["target_tokens"] for batch in batches)
    for batch in batches:
        for inputs, weight in zip(batch["passes"], batch["weights"], strict=True):
            inputs = {name: each.to("cuda") if torch.is_tensor(each) else each for name, each in inputs.items()}
            (mean_loss(model, inputs) * weight * batch["target_tokens"] / targets).backward()
    return torch.cat([each.grad.flatten().float() for each in model.parameters()])


@pytest.mark.parametrize("name", MODELS)
def test_flash_kernels_keep_packed_documents_apart(
    name: str, make_config, measured: Callable[..., None], monkeypatch
) -> None:
    """The packed gradient is as near to that in fp32, one document by itself, as bf16 brings eager attention."""
    config = make_config("train.max_source_tokens=40", "train.max_target_tokens=40", "train.row_tokens=256").train
    layout, rows = StepCollator(config, None), token_rows(32)
    torch.manual_seed(0)
    exact: Any = AutoModelForCausalLM.from_config(MODELS[name], attn_implementation="eager", dtype=torch.float32)
    states, alone = exact.state_dict(), [layout([row]) for row in rows]
    expected = gradient(exact.cuda(), alone)
    errors = {}
    kernels = {"eager": alone, "varlen": [layout(rows)], "varlen, heads not repeated": [layout(rows)]}
    for kernel, batches in kernels.items():
        monkeypatch.setattr(attention, "GROUPED", GROUPED and kernel != "varlen")
        model: Any = AutoModelForCausalLM.from_config(
            MODELS[name], attn_implementation=kernel.split(",")[0], dtype=torch.bfloat16
        ).cuda()
        model.load_state_dict(states)
        errors[kernel] = relative(gradient(model, batches), expected)
        measured(f"gradient off fp32, {kernel}", errors[kernel])
    assert max(errors.values()) < 1.3 * errors["eager"] < 0.1


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Weights]:
    """`saved(config)`: a model of random weights, in bf16."""

    def save(config: Any) -> Weights:
        torch.manual_seed(0)
        with torch.device("cuda"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / "model")
        return Weights("random", str(tmp_path / "model"), None, "")

    return save


def test_nf4_holds_what_its_paper_says_and_multiplies_with_it(
    saved: Callable[[Any], Weights], measured: Callable[..., None]
) -> None:
    source = saved(MODELS["llama"])
    plain = load_model(source, Precision.fp32, Attention.sdpa, four_bit=False)
    model = load_model(source, Precision.bf16, Attention.sdpa, four_bit=True)
    levels, held_off, product_off = torch.tensor(NF4, device="cuda"), list[float](), list[float]()
    for name, layer in model.named_modules():
        if type(layer).__name__ != "Linear4bit":
            continue
        weight = plain.get_submodule(name).weight.detach()
        blocks = weight.reshape(-1, 64)
        largest = blocks.abs().amax(1, keepdim=True)
        nearest = levels[(blocks / largest)[..., None].sub(levels).abs().argmin(-1)] * largest
        held = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        inputs = torch.randn(7, weight.shape[1], device="cuda")
        held_off.append(relative(held, nearest.reshape(weight.shape)))
        product_off.append(relative(layer(inputs.bfloat16()).float(), inputs @ held.T))
    measured("weights off the nearest NF4 number, the worst layer", max(held_off), "< 0.02")
    measured("product off fp32's, the worst layer", max(product_off), "< 0.01")
    assert max(held_off) < 0.02  # the scales are rounded to 8 bits
    assert max(product_off) < 0.01


def front_door(runs: Path, overrides: list[str], **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *TRAINING, *overrides, f"runs_dir={runs}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **variables}
    )


def curve(runs: Path) -> list[dict[str, float]]:
    [file] = runs.glob("train/*/metrics.jsonl")
    return [json.loads(line) for line in file.open()]


def apart(folder: Path, runs: dict[str, list[str]], **variables: str) -> list[float]:
    """By how much the first and the last loss of the second of two runs are off those of the first; relative.

    Both have the base that the first one made, which gets the environment variables too.
    """
    found = {}
    for name, overrides in runs.items():
        process = front_door(folder / name, overrides, **({} if found else variables))
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        for other in runs.keys() - {name} if not found else ():
            shutil.copytree(folder / name, folder / other, ignore=shutil.ignore_patterns("train", "cells"))
        found[name] = curve(folder / name)
    one, other = found.values()
    return [abs(other[step]["loss"] / one[step]["loss"] - 1) for step in (0, -1)]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_trains_as_on_a_cpu(method: str, tmp_path: Path, measured: Callable[..., None]) -> None:
    overrides = [*METHODS[method], "train.lora_dropout=0"]  # dropout draws otherwise on a GPU
    first, last = apart(tmp_path, {"cpu": overrides, "gpu": overrides}, CUDA_VISIBLE_DEVICES="")
    measured("first loss off the CPU's", first, "< 1e-4; qlora 1e-2")
    measured("last loss off the CPU's", last, "< 1e-2; qlora 5e-2")
    assert first < (1e-2 if method == "qlora" else 1e-4)
    assert last < (5e-2 if method == "qlora" else 1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_compiled_blocks_train_as_others_do(method: str, tmp_path: Path, measured: Callable[..., None]) -> None:
    """With dropout, which draws the same either way."""
    overrides = [*METHODS[method], "train.batches=packed", "backbone.precision=bf16"]
    runs = {name: [*overrides, f"train.compile={name}"] for name in ("false", "true")}
    first, last = apart(tmp_path, runs)
    measured("first loss off uncompiled", first, "< 1e-3")
    measured("last loss off uncompiled", last, "< 1e-2")
    assert first < 1e-3
    assert last < 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on(method: str, tmp_path: Path, measured: Callable[..., None]) -> None:
    overrides = [*METHODS[method], "train.batches=packed", "backbone.precision=bf16"]
    process = front_door(tmp_path, overrides)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    expected = curve(tmp_path)
    for folder in ("train", "cells"):
        shutil.rmtree(tmp_path / folder)
    process = front_door(tmp_path, overrides)
    while process.poll() is None and not list(tmp_path.glob("train/*.partial/resume/checkpoint-4/contents.json")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    process = front_door(tmp_path, overrides)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "goes on from" in output
    off = max(abs(one["loss"] / other["loss"] - 1) for one, other in zip(curve(tmp_path), expected, strict=True))
    measured("largest loss off an uninterrupted run's", off, "< 1e-3; 0 is to the bit")
    assert off < 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", Method)
def test_a_step_takes_the_memory_estimated(
    method: Method, checkpointing: bool, make_config: Callable[..., Config], tmp_path: Path, saved, measured
) -> None:
    """Four of Llama-2-7B's layers, rows of 4,096 tokens, bf16."""
    architecture = LlamaConfig(num_hidden_layers=4)
    config = make_config("backbone=llama2", "task=gsm8k", f"train={method}", "train.batches=packed")
    recipe = replace(config.train, batch_size=24, save_steps=1000, max_grad_norm=1.0)
    found = training_size(architecture, recipe, Precision.bf16, None, 1)
    draw = torch.Generator().manual_seed(0)
    rows = []
    for number in range(48):
        ids = torch.randint(3, 32_000, (340,), generator=draw).tolist()
        rows.append({"id": str(number), "input_ids": ids, "labels": [IGNORED] * 150 + ids[150:]})
    source = saved(architecture)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = load_trainable(source, config.backbone.computation, recipe, 0, checkpointing)
    settings = replace(training(config), train=recipe)
    tokenizer = type("Tokenizer", (), {"save_pretrained": lambda *_: None, "padding_side": "right"})()
    train(model, tokenizer, rows, 2, tmp_path / "run", settings, lambda *_: None)
    share = torch.cuda.max_memory_allocated() / (found.memory(checkpointing) / MARGIN)
    measured("peak over the estimate without its margin", share, "at most 1.1, its margin")
    del model
    shutil.rmtree(tmp_path)  # 15 GB of it where all weights are trained
    assert 0.5 < share < MARGIN
