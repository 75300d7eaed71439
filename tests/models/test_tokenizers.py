"""Tokens beyond a model's embedding: those that can be done without are not used, and the others are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from lema.models.encoding import encode_completion, encode_prompt
from lema.models.huggingface import load_tokenizer
from lema.models.weights import Weights
from lema.types import UserError

ROWS = 260


@pytest.fixture
def load(tmp_path) -> Callable[..., Any]:
    """`load(add)`: the tokenizer of bytes as it is loaded, after `add(tokenizer)`; the embedding has `ROWS` rows."""

    def loaded(add: Callable[[Any], object] = lambda _: None, rows: int = ROWS) -> Any:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", "<other>", *alphabet])}
        raw = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        special: Any = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
        add(tokenizer)
        tokenizer.save_pretrained(tmp_path)
        LlamaConfig(vocab_size=rows).save_pretrained(tmp_path)
        return load_tokenizer(Weights("model", str(tmp_path), None, ""))

    return loaded


@pytest.mark.parametrize("text", ["a ▁<PRE> b", "#### 8", "1 + 1 = 2"])
def test_an_added_token_beyond_the_embedding_is_read_as_any_other_text(load, text: str) -> None:
    plain = load()
    more = load(lambda each: each.add_tokens(["▁<PRE>", "####", AddedToken("= 2", special=True)]))
    assert len(json.loads(more._tokenizer.to_str())["added_tokens"]) == 3
    for encode in (encode_prompt, encode_completion):
        assert encode(more, text) == encode(plain, text)
        assert max(encode(more, text)) < ROWS
    assert more.decode(more.encode(text, add_special_tokens=False)) == text


def test_an_added_token_within_the_embedding_stays(load) -> None:
    found = load(lambda each: each.add_tokens(["####"]), ROWS + 1)
    assert ROWS in encode_prompt(found, "#### 8")


@pytest.mark.parametrize("name", ["pad", "bos"])
def test_a_pad_or_bos_token_beyond_the_embedding_is_not_used(load, caplog, name: str) -> None:
    found = load(lambda each: each.add_special_tokens({f"{name}_token": "<new>"}))
    assert found.pad_token_id == 0  # <unk>
    assert max(encode_prompt(found, "a")) < ROWS
    assert (encode_prompt(found, "a")[0] == 1) == (name == "pad")
    assert (
        f"its {name}_token is token {ROWS}, beyond the {ROWS} rows of the model's embedding: it is not used"
        in caplog.text
    )


def test_without_pad_and_unk_padding_is_eos_which_is_masked(load) -> None:
    found = load(lambda each: setattr(each, "unk_token", None))
    assert found.pad_token == "</s>"


def test_an_eos_beyond_the_embedding_is_refused(load, tmp_path) -> None:
    line = f"^{tmp_path}: its tokenizer's eos_token '<end>' is token 260, beyond the 260 rows .*: name another one in"
    with pytest.raises(UserError, match=line):
        load(lambda each: each.add_special_tokens({"eos_token": "<end>"}))


def test_a_tokenizer_of_another_model_is_refused(load, tmp_path) -> None:
    with pytest.raises(
        UserError, match=f"^{tmp_path}: its tokenizer reads usual text as token .* it is another model's"
    ):
        load(rows=100)


def test_a_folder_of_real_weights_keeps_its_tokenizer(load, tmp_path: Path) -> None:
    load()
    again = load_tokenizer(Weights("model", str(tmp_path), None, ""))
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (1, 2, 0)
    assert len(again) == ROWS
