"""Training examples: what loss falls on, what is cut, and resuming from the newest whole checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

from lema.stages import train
from lema.types import Example


@pytest.fixture
def tokenizer() -> Any:
    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", "a", "b", "c", "d", "e"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def encode(make_config: Any, tokenizer: Any, *examples: tuple[str, str], **limits: int) -> Any:
    overrides = [f"train.max_{name}_tokens={value}" for name, value in limits.items()]
    config = make_config(*overrides).train
    return train._encode(
        [Example("p", "cot", prompt, completion) for prompt, completion in examples], tokenizer, config
    )


def test_loss_falls_on_the_completion_and_its_end_alone(make_config, tokenizer) -> None:
    rows, counts = encode(make_config, tokenizer, ("a b", "c d"))
    assert rows == [{"input_ids": [1, 4, 5, 6, 7, 2], "labels": [-100, -100, -100, 6, 7, 2]}]
    assert counts == {"examples": 1, "tokens": 6, "target_tokens": 3, "truncated": 0}


def test_prompt_and_completion_are_cut_apart_and_counted(make_config, tokenizer) -> None:
    rows, counts = encode(make_config, tokenizer, ("a b c d", "a b c"), ("a", "b"), source=3, target=2)
    assert rows[0] == {"input_ids": [1, 4, 5, 4, 5], "labels": [-100, -100, -100, 4, 5]}
    assert counts["truncated"] == 1


def test_padding_is_masked_and_never_a_label(make_config, tokenizer) -> None:
    rows, _ = encode(make_config, tokenizer, ("a", "b"), ("a b", "c d e"))
    batch = DataCollatorForSeq2Seq(tokenizer)(rows)
    assert batch["input_ids"][0].tolist() == [1, 4, 5, 2, 3, 3, 3]
    assert batch["labels"][0].tolist() == [-100, -100, 5, 2, -100, -100, -100]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((2, "{}"), (10, '{"global_step"'), (4, json.dumps({"global_step": 4}))):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-12").mkdir()
    assert train._newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert train._newest_checkpoint(tmp_path / "empty") is None
