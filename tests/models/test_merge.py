"""Merging: the merged model is the model that was trained, and any Hugging Face program loads it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from small import pretraining
from transformers import AutoModelForCausalLM, AutoTokenizer

from lema.data.arithmetic import make_problems
from lema.models import tiny
from lema.models.huggingface import load_trainable
from lema.models.merge import agreement, merge
from lema.models.weights import Weights
from lema.prompts.formats import cot_prompt

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
    folders, backbone = {}, make_config(*QUICK).backbone.computation
    for name, method in (("lora", "lora"), ("qlora", "qlora"), ("original", "qlora")):
        folders[name] = tmp_path_factory.mktemp(name) / "merged"
        merge(base, adapter[method], folders[name], backbone, dequantise=name == "qlora")
    return folders


def measured(base: Weights, adapter: Path, merged: Path, make_config, prompts, four_bit: bool) -> dict[str, Any]:
    return agreement(base, adapter, merged, make_config(*QUICK).backbone.computation, prompts, four_bit=four_bit)


@pytest.mark.parametrize("number", [10, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["lora", "qlora"])
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
    backbone = make_config(*QUICK).backbone.computation
    merge(Weights("large", str(large), None, ""), adapter["lora"], tmp_path / "merged", backbone, dequantise=False)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["max_position_embeddings"] == 16384
