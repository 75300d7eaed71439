"""Answers on a GPU: a merged model in bf16 answers as the adapter on its base."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import pretraining

from lema.config import Config, Precision
from lema.data.arithmetic import make_problems
from lema.models import tiny
from lema.models.huggingface import load_trainable
from lema.models.merge import agreement, merge
from lema.models.weights import Weights
from lema.prompts.formats import cot_prompt

QUICK = ("backbone.tiny.corpus_size=300", "backbone.tiny.steps=40", "backbone.tiny.batch_tokens=256")


@pytest.fixture(scope="module")
def base(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    folder = tmp_path_factory.mktemp("base")
    tiny.build(folder, [], pretraining(make_config(*QUICK)))
    return Weights("tiny", str(folder), None, "digest")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    problems, _ = make_problems(seed=5, num_train=60, num_test=0)
    return [cot_prompt("lema", problem.question) for problem in problems]


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("precision", Precision)
def test_the_merged_model_answers_as_the_adapter_on_its_base(
    precision: Precision, method: str, base, prompts, make_config, tmp_path: Path, measured
) -> None:
    config = make_config(*QUICK, f"train={method}")
    computation = replace(config.backbone.computation, precision=precision)
    model: Any = load_trainable(base, computation, config.train, 1, checkpointing=False)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    merge(base, tmp_path / "adapter", tmp_path / "merged", precision, dequantise=method == "qlora")
    found = agreement(base, tmp_path / "adapter", tmp_path / "merged", computation, prompts, four_bit=method == "qlora")
    measured(f"{method}, {precision}: equal answers of {len(prompts)}", found["equal_outputs"])
    measured(f"{method}, {precision}: largest difference of a logit", found["largest_logit_difference"])
    assert found["largest_logit_difference"] < (1e-2 if precision is Precision.fp32 else 0.25)
    assert found["equal_outputs"] == 1 or precision is Precision.bf16, (
        "where answers of random weights part by rounding"
    )
