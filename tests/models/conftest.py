"""A training of a small random model, as the train stage hands it over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import token_rows, training
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedTokenizerFast

from lema.config import Config
from lema.models.fitting import Fit
from lema.models.layout import Plan
from lema.models.sizes import training_size
from lema.models.weights import Weights

STEPS = 20
SIZES: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 97, "initializer_range": 0.2}
CONFIGS = {"llama": LlamaConfig(**SIZES), "mistral": MistralConfig(**SIZES, sliding_window=24)}
CONFIGS["tied"] = LlamaConfig(**SIZES, tie_word_embeddings=True)


def saved(name: str, folder: Path) -> Path:
    """A model of random weights, with a tokenizer that is never asked."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(folder)
    with_tokenizer(folder)
    return folder


def with_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of 97 words."""
    special: Any = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    words = ["<unk>", "<s>", "</s>", "<pad>", *(f"w{number}" for number in range(93))]
    vocabulary = models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), **special).save_pretrained(folder)


@pytest.fixture(scope="session")
def write_tokenizer() -> Callable[[Path], None]:
    return with_tokenizer


@pytest.fixture
def job(make_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Fit]:
    """`job("llama", "lora", "packed", "name")`: a training of 20 steps whose checkpoints lie in a folder of its own."""

    def make(name: str, method: str, batches: str, run: str, ranks: int = 1, sharded: bool = False) -> Fit:
        config = make_config(
            *(f"train={method}", "seed=4294967295"),
            f"train.batches={batches}",
            *("train.batch_size=12", "train.micro_batch_size=2", "train.row_tokens=80", "train.learning_rate=1e-3"),
            *("train.max_source_tokens=40", "train.max_target_tokens=40"),
            *("train.save_steps=1", "train.resume_checkpoints=100", "train.optimizer=adamw_torch", "selection=dev"),
            *(["train.lora_rank=4"] if method == "lora" else []),
        )
        settings = replace(training(config), last_only=False)
        base = Weights(name, str(tmp_path / "base"), None, "")
        if not (tmp_path / "base").exists():
            saved(name, tmp_path / "base")
        size = training_size(CONFIGS[name], settings.train, settings.computation.precision, 30.0, STEPS)
        return Fit(settings, base, token_rows(60), STEPS, tmp_path / run, Plan(size, ranks, sharded, False))

    return make
