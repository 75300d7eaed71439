"""A model's files: the parameters that their headers count, whatever their type and whatever lies beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lema.config import ModelConfig
from lema.models.weights import Weights, count, weight_files, weights

SIZE: Any = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZE, vocab_size=32, tie_word_embeddings=True))


@pytest.fixture
def folder(model, tmp_path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def second(name: str) -> Callable[[Path], object]:
    """The same weights once more, under another name."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(load_file(folder / "model.safetensors"), folder / name)

    return write


def as_bin(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"]  # tied, as old files have it
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_type(dtype: torch.dtype) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        state = {name: each.to(dtype) for name, each in load_file(folder / "model.safetensors").items()}
        save_file(state, folder / "model.safetensors")

    return write


def packed(method: str, bits: int) -> Callable[[Path], object]:
    """The linear layers as integers of 32 bits that hold several numbers each, beside what is needed to read them."""

    def write(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        for name in [name for name in state if name.endswith("proj.weight")]:
            rows, columns = state.pop(name).shape
            base = name.removesuffix("weight")
            state[f"{base}qweight"] = torch.zeros(columns * bits // 32, rows, dtype=torch.int32)
            state[f"{base}qzeros"] = torch.zeros(1, rows * bits // 32, dtype=torch.int32)
            state[f"{base}scales"] = torch.zeros(1, rows, dtype=torch.float16)
            state[f"{base}g_idx"] = torch.zeros(columns, dtype=torch.int32)
        save_file(state, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": method, "bits": bits}
        (folder / "config.json").write_text(json.dumps(config))

    return write


def eight_bit_floats(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    for name in [name for name in state if name.endswith("proj.weight")]:
        state[name] = state[name].to(torch.float8_e4m3fn)
        state[f"{name}_scale_inv"] = torch.ones(1, 1)
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))


@pytest.mark.parametrize(
    "changes",
    [
        [],
        *([as_type(each)] for each in (torch.float16, torch.bfloat16)),
        *(
            [second(each)]
            for each in ("consolidated.safetensors", "original/model.safetensors", "model.fp16.safetensors")
        ),
        *([second("pytorch_model.bin")], [second("training_args.bin")], [as_bin]),
        *([packed("gptq", 4)], [packed("awq", 4)], [packed("gptq", 8)], [eight_bit_floats]),
    ],
)
def test_every_form_of_a_model_has_the_parameters_that_it_has(folder, model, changes) -> None:
    for change in changes:
        change(folder)
    assert count(folder) == model.num_parameters()


def test_shards_are_followed_and_missing_ones_make_no_number(model, tmp_path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    second = tmp_path / "consolidated.safetensors"
    save_file({"weight": torch.ones(1000)}, second)
    files = weight_files(tmp_path)
    assert len(files) > 2
    assert second not in files
    assert count(tmp_path) == model.num_parameters()
    files[0].unlink()
    assert count(tmp_path) == 0


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64])
def test_a_damaged_file_has_no_size(folder, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert count(folder) == 0


def test_masks_among_the_weights_are_no_parameters(folder, model) -> None:
    state = load_file(folder / "model.safetensors")
    state |= {"h.0.attn.bias": torch.ones(1, 1, 32, 32), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(state, folder / "model.safetensors")
    assert count(folder) == model.num_parameters()


def test_what_tools_keep_in_hidden_folders_is_no_part_of_a_model(folder, make_config) -> None:
    def digest() -> str:
        config: ModelConfig = make_config(f"backbone.path={folder}").backbone
        return weights(config).digest

    before = digest()
    for name in (".git/HEAD", ".cache/huggingface/download/config.json.metadata"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("2026-11-27 21:00")
    assert digest() == before
    (folder / ".gitattributes").write_text("a file of the model's own")
    assert digest() != before
    assert Weights("model", str(folder), None, "").parameters > 0
