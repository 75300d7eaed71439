"""Merging: the merged model is the model that was trained, and any Hugging Face program loads it."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from small import pretraining
from tables import some
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
)

from lema.config import Attention, Precision
from lema.data.arithmetic import make_problems
from lema.models import merge as merging, tiny
from lema.models.huggingface import load_adapter, load_model, load_trainable
from lema.models.merge import agreement, merge, write_dequantised
from lema.models.trial import raise_positions
from lema.models.weights import Weights
from lema.prompts.formats import cot_prompt
from lema.types import UserError

QUICK = ("backbone.tiny.corpus_size=300", "backbone.tiny.steps=40", "backbone.tiny.batch_tokens=256")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    problems, _ = make_problems(seed=5, num_train=100, num_test=0)
    return [cot_prompt("lema", problem.question) for problem in problems]


@pytest.fixture(scope="module")
def base(make_config, tmp_path_factory) -> Weights:
    folder = tmp_path_factory.mktemp("base")
    tiny.build(folder, [], pretraining(make_config(*QUICK)))
    return Weights("tiny", str(folder), None, "digest")


@pytest.fixture(scope="module")
def adapter(base: Weights, make_config, tmp_path_factory) -> dict[str, Path]:
    """An adapter for each method, of random weights that change what the base says."""
    folders = {}
    for method in ("lora", "qlora"):
        config = make_config(*QUICK, f"train={method}")
        model: Any = load_trainable(base, config.backbone.computation, config.train, 1, checkpointing=False)
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        folders[method] = tmp_path_factory.mktemp(method)
        model.save_pretrained(folders[method])
    return folders


@pytest.fixture(scope="module")
def merged(base: Weights, adapter: dict[str, Path], make_config, tmp_path_factory) -> dict[str, Path]:
    """`lora`, `qlora` merged into the dequantised base, and `original`: qlora's merged into the original one."""
    folders, precision = {}, make_config(*QUICK).backbone.precision
    for name, method in (("lora", "lora"), ("qlora", "qlora"), ("original", "qlora")):
        folders[name] = tmp_path_factory.mktemp(name) / "merged"
        merge(base, adapter[method], folders[name], precision, dequantise=name == "qlora")
    return folders


def measured(base: Weights, adapter: Path, merged: Path, make_config, prompts, four_bit: bool) -> dict[str, Any]:
    return agreement(base, adapter, merged, make_config(*QUICK).backbone.computation, prompts, four_bit=four_bit)


@pytest.mark.parametrize("number", [10, pytest.param(100, marks=pytest.mark.full)])
@pytest.mark.parametrize("method", some(["qlora", "lora"], 2))
def test_the_merged_model_is_the_model_that_was_trained(
    method, number, base, adapter, merged, make_config, prompts
) -> None:
    asked = prompts[:number]
    found = measured(base, adapter[method], merged[method], make_config, asked, four_bit=method == "qlora")
    assert (found["prompts"], found["equal_outputs"]) == (number, 1.0)
    assert found["largest_logit_difference"] < 1e-3


def test_a_qlora_adapter_on_the_original_base_is_another_model(base, adapter, merged, make_config, prompts) -> None:
    # Measured by the same rule, which so is seen to find a difference where there is one.
    onto_original = measured(base, adapter["qlora"], merged["original"], make_config, prompts[:10], four_bit=True)
    assert onto_original["largest_logit_difference"] > 0.01
    assert onto_original["equal_outputs"] < 1


def test_the_merged_folder_is_a_model_of_its_own(base, adapter, merged, prompts) -> None:
    for name, folder in merged.items():
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
        config, before = (json.loads((Path(each) / "config.json").read_text()) for each in (folder, base.location))
        assert config["max_position_embeddings"] == 4096 > before["max_position_embeddings"]
        assert config["rope_parameters"] == before["rope_parameters"]
        assert "quantization_config" not in config
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        ids = tokenizer(prompts[0], return_tensors="pt").input_ids
        original = AutoModelForCausalLM.from_pretrained(base.location)
        if name == "lora":
            adapted = PeftModel.from_pretrained(original, str(adapter["lora"]))
            assert torch.allclose(model(ids).logits, adapted(ids).logits, atol=1e-3)
        else:
            assert not torch.allclose(model(ids).logits, original(ids).logits, atol=0.1)


def test_a_larger_position_limit_stays(adapter, base, make_config, tmp_path: Path) -> None:
    large = tmp_path / "large"
    model = AutoModelForCausalLM.from_pretrained(base.location)
    model.config.max_position_embeddings = 16384
    model.save_pretrained(large)
    AutoTokenizer.from_pretrained(base.location).save_pretrained(large)
    precision = make_config(*QUICK).backbone.precision
    merge(Weights("large", str(large), None, ""), adapter["lora"], tmp_path / "merged", precision, dequantise=False)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["max_position_embeddings"] == 16384


SIZES: Any = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 97}
BF16, FP32 = Precision.bf16, Precision.fp32
SHARD = 150_000  # bytes: several files
EXPERTS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
PATTERNS = {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 3}}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}


def new_adapter(base: Weights, precision: Precision, folder: Path, **lora: Any) -> Path:
    """An adapter that changes each of its layers."""
    options: Any = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
    model: Any = get_peft_model(load_model(base, precision, Attention.eager, False), LoraConfig(**options))
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    return folder


def check_as_whole(base: Weights, adapter: Path, precision: Precision, folder: Path, four_bit: bool, most: int) -> None:
    """A merge's tensors and configs are, byte for byte, those of the whole model in memory, merged by PEFT."""
    whole: Any = load_model(base, precision, Attention.eager, four_bit)
    whole = load_adapter(whole.dequantize() if four_bit else whole, adapter).merge_and_unload(safe_merge=True)
    raise_positions(whole.config, 4096)
    whole.save_pretrained(folder / "whole", max_shard_size=most)
    merge(base, adapter, folder / "merged", precision, dequantise=four_bit, shard=most)
    expected, found = tensors(folder / "whole"), tensors(folder / "merged")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype, name
        assert torch.equal(tensor, found[name]), name
    for name in ("config.json", "generation_config.json"):
        assert (folder / "merged" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "merged")
    several = most < sum(each.nbytes for each in expected.values())
    assert several == (folder / "merged" / "model.safetensors.index.json").is_file()
    if several:
        index, other = (json.loads((folder / each / "model.safetensors.index.json").read_text()) for each in MADE)
        assert index["metadata"] == other["metadata"]
        assert index["metadata"]["total_parameters"] == model.num_parameters()
        sizes = [file.stat().st_size for file in (folder / "merged").glob("*.safetensors")]
        assert {file.name for file in (folder / "merged").glob("*.safetensors")} == set(index["weight_map"].values())
        assert max(sizes) < most + 10_000  # with a header
    else:
        one, other = ((folder / each / "model.safetensors").read_bytes() for each in MADE)
        assert one == other


MADE = ("merged", "whole")


@pytest.mark.parametrize(
    ("config", "precision", "four_bit", "most", "lora"),
    some(
        [
            (LlamaConfig(**SIZES), BF16, True, SHARD, {}),
            (LlamaConfig(**SIZES), FP32, True, 10**9, {}),
            (MixtralConfig(**SIZES, num_local_experts=4), BF16, False, 10**9, EXPERTS),  # stored expert by expert
            (LlamaConfig(**SIZES), BF16, False, 10**9, PATTERNS),
            (MistralConfig(**SIZES, tie_word_embeddings=True), FP32, False, SHARD, {}),
            (MistralConfig(**SIZES, tie_word_embeddings=True), BF16, False, 10**9, {}),
            (GPT2Config(vocab_size=97, n_embd=64, n_layer=3, n_head=4), BF16, False, SHARD, {}),  # Conv1D, tied
            (GPT2Config(vocab_size=97, n_embd=64, n_layer=3, n_head=4), FP32, False, 10**9, {}),
        ],
        3,
    ),
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_merge_block_by_block_is_that_of_the_whole_model(
    config, precision, four_bit, most, lora, write_tokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base", max_shard_size=most)
    write_tokenizer(tmp_path / "base")
    base = Weights("base", str(tmp_path / "base"), None, "")
    adapter = new_adapter(base, precision, tmp_path / "adapter", **lora)
    check_as_whole(base, adapter, precision, tmp_path, four_bit, most)


def test_a_base_in_bin_files_and_the_base_of_qlora_are_written_as_the_whole_model(
    base: Weights, adapter, tmp_path: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(base.location)
    model.config.save_pretrained(tmp_path / "base")
    torch.save(model.state_dict(), tmp_path / "base" / "pytorch_model.bin")
    AutoTokenizer.from_pretrained(base.location).save_pretrained(tmp_path / "base")
    check_as_whole(Weights("b", str(tmp_path / "base"), None, ""), adapter["lora"], FP32, tmp_path, False, 10**9)
    write_dequantised(base, tmp_path / "dequantised", BF16)
    expected: Any = load_model(base, BF16, Attention.eager, True).dequantize()
    expected.save_pretrained(tmp_path / "expected")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "dequantised" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_an_adapter_that_holds_more_than_loras_matrices_is_one_line(base: Weights, tmp_path: Path) -> None:
    adapter = new_adapter(base, FP32, tmp_path / "adapter", modules_to_save=["lm_head"])
    with pytest.raises(UserError, match=r"it holds .*lm_head.* whole, and only LoRA's .*: train.merge=null$"):
        merge(base, adapter, tmp_path / "merged", FP32, dequantise=False)
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_that_fits_on_no_device_is_not_asked(
    base, adapter, merged, make_config, prompts, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(merging, "available_memory", lambda: 1000)
    with caplog.at_level(logging.WARNING):
        assert measured(base, adapter["lora"], merged["lora"], make_config, prompts, False) == {"prompts": 0}
    assert "it is not compared with its adapter" in caplog.text


MERGE = """
import sys
from pathlib import Path
from lema.config import Precision
from lema.models.merge import merge
from lema.models.weights import Weights

def peak():  # of this program: that of getrusage begins with its parent's
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])

base, adapter, folder = sys.argv[1:]
before = peak()
merge(Weights("b", base, None, ""), Path(adapter), Path(folder), Precision.bf16, dequantise=False, shard=64_000_000)
print((peak() - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_merge_takes_memory_for_a_file_or_two(write_tokenizer, tmp_path: Path) -> None:
    """A model of 1 GB, merged into files of 64 MB by a process of its own: its peak above what its imports take."""
    sizes: Any = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 30, "num_attention_heads": 8}
    config = LlamaConfig(**sizes, vocab_size=97)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    for weight in model.parameters():
        torch.nn.init.ones_(weight)
    model.save_pretrained(tmp_path / "base", max_shard_size="200MB")
    write_tokenizer(tmp_path / "base")
    whole = sum(file.stat().st_size for file in (tmp_path / "base").glob("*.safetensors"))
    assert whole > 10**9
    del model
    base = Weights("b", str(tmp_path / "base"), None, "")
    adapter = new_adapter(base, BF16, tmp_path / "adapter")
    command = [sys.executable, "-c", MERGE, base.location, str(adapter), str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    peak = int(done.stdout.split()[-1])
    print(f"the model {whole / 1e6:.0f} MB, the peak {peak / 1e6:.0f} MB")
    assert 64_000_000 < peak < 450_000_000 < whole / 2


@pytest.mark.full
@pytest.mark.parametrize("four_bit", [True, False])
def test_a_real_model_is_merged_as_the_whole_model(four_bit: bool, tmp_path: Path) -> None:
    folder = os.environ.get("LEMA_TEST_MODEL")
    if not folder:
        pytest.skip("set LEMA_TEST_MODEL to the folder of a small pretrained model, as SmolLM2-135M")
    base = Weights("real", folder, None, "")
    adapter = new_adapter(base, BF16, tmp_path / "adapter", r=64)
    check_as_whole(base, adapter, BF16, tmp_path, four_bit, 80_000_000)
