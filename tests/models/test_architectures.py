"""Architectures: each trains, or one line with a remedy that works refuses it before anything is made."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SMALL
from tables import some
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from lema import pipeline
from lema.config import Merge, Method, Precision
from lema.models import trial
from lema.models.continuous import Row
from lema.models.kernels import small
from lema.models.sizes import training_size
from lema.models.writing import answering
from lema.types import UserError

DROPOUT, BOTH_WAYS = "train.lora_dropout=0, or train=full", "reads what follows a token before it"
# The default config of each: where its positions end, and why it does not train with LoRA and dropout on padded rows.
KINDS: dict[str, tuple[int | None, str | None]] = {
    **dict.fromkeys(("llama", "bloom", "falcon", "gpt_neox", "gemma2", "stablelm", "cohere"), (None, None)),
    **dict.fromkeys(("mamba2", "bamba", "granitemoehybrid", "falcon_h1", "zamba", "zamba2"), (None, None)),
    **dict.fromkeys(("mamba", "falcon_mamba", "llama4_text", "phimoe", "gpt_oss", "xglm"), (None, None)),
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe"), (None, DROPOUT)),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "biogpt"), (1024, None)),
    **dict.fromkeys(("opt", "gpt_neo", "gptj", "codegen", "mpt"), (2048, None)),
    "bert": (512, BOTH_WAYS),
    "roberta": (512, BOTH_WAYS),
    "bart": (1024, "bart is an encoder with a decoder"),
}
WITH_ATTENTION = {"bamba": {"attn_layer_indices": [9, 18, 27]}, "jamba": {}, "recurrent_gemma": {}, "qwen3_next": {}}
FAST = {"llama", "gpt2", "opt", "bloom", "falcon", "gpt_neox", "mpt", "mixtral", "mamba", "bert", "bart"}
each = pytest.mark.parametrize(
    "name", [*sorted(FAST), *some((name for name in KINDS if name not in FAST), 6, pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def lora(make_config) -> Any:
    """The published recipe of LoRA, on padded rows that every position holds."""
    return make_config("backbone=llama2", "train=lora", "train.batches=padded", "train.max_source_tokens=200").train


@each
def test_each_is_counted_by_its_own_modules(name: str, lora) -> None:
    config = CONFIG_MAPPING[name]()
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    for train in (replace(lora, lora_dropout=0.0), replace(lora, method=Method.full, lora_rank=0)):
        found = training_size(config, train, Precision.bf16, 300, 10)
        assert found.parameters == parameters
        assert 0 < found.trained <= parameters
        assert 0 < found.memory(checkpointing=True) < found.memory(checkpointing=False)
        assert ("about" in found.words(1e12, checkpointing=False)) == (
            name not in ("llama", "gemma2", "cohere", "stablelm")
        )


@each
def test_each_has_its_positions_and_trains_or_says_why_not(name: str, lora) -> None:
    config, (positions, refused) = CONFIG_MAPPING[name](), KINDS[name]
    assert trial.positions(config) == positions
    if refused is None:
        trial.check_kind(config)
        trial.check_training(config, lora)
        return
    with pytest.raises(UserError, match=re.escape(refused)):  # noqa: PT012 # the kind may be right, and its training not
        trial.check_kind(config)
        trial.check_training(config, lora)
    if refused is DROPOUT:
        trial.check_training(config, replace(lora, lora_dropout=0.0))


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_a_small_model_of_two_kinds_of_layers_has_both(name: str) -> None:
    config = CONFIG_MAPPING[name](**WITH_ATTENTION[name])
    kinds = "layers_block_type" if name == "recurrent_gemma" else "layer_types"
    assert len(set(getattr(small(config), kinds))) == len(set(getattr(config, kinds))) == 2


def test_experts_count_as_many_as_a_token_is_sent_to(lora) -> None:
    mixtral = CONFIG_MAPPING["mixtral"]()
    size = training_size(mixtral, replace(lora, method=Method.full), Precision.bf16, 300, 1)
    # 12.9 of its 46.7 billion parameters are active (Mixtral of Experts, arXiv 2401.04088), embedding included.
    assert size.flops_again / 2e9 == pytest.approx(12.9, abs=0.2)


@pytest.mark.parametrize(
    ("changed", "answers", "line"),
    [
        ({"max_target_tokens": 900}, {}, "ask for 1100: train.max_source_tokens=512 train.max_target_tokens=512"),
        ({}, {"evaluation.max_new_tokens": 2048}, "leaves none to a prompt: evaluation.max_new_tokens=512"),
        ({}, {"evaluation.max_new_tokens": 1023}, None),
    ],
)
def test_no_more_positions_are_asked_for_than_a_model_has(lora, changed, answers, line) -> None:
    train = replace(lora, **changed)
    trial.check_positions(CONFIG_MAPPING["llama"](), train, answers)
    if line is None:
        trial.check_positions(CONFIG_MAPPING["gpt2"](), train, answers)
        return
    with pytest.raises(UserError, match=f"^gpt2 has positions for 1024 tokens, and .*{re.escape(line)}$"):
        trial.check_positions(CONFIG_MAPPING["gpt2"](), train, answers)


# Families whose cache cannot be joined: their batches stay together.
TOGETHER = {"mamba", "mamba2", "rwkv", "zamba", "zamba2"}
RWKV: dict[str, Any] = {"attention_hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "hidden_size": 64}
SLOW_MIXERS = {"bamba", "granitemoehybrid", "falcon_h1", "falcon_mamba"}  # minutes without their kernels
WRITING = [name for name, (_, refused) in KINDS.items() if refused in (None, DROPOUT) and name not in SLOW_MIXERS]
WRITING += ["mistral", "rwkv"]
WRITING_FAST = {"llama", "gpt2", "bloom", "gemma2", "mamba"}


def written(model: Any, asked: list[tuple[list[int], int]], allowed: int, temperature: float) -> list[list[int]]:
    """The tokens that a model writes to each prompt, in the batches that its architecture allows."""
    rows = [Row(prompt, most, seed) for seed, (prompt, most) in enumerate(asked)]
    at_work = answering(model, {7}, temperature, allowed, str)
    assert all(row.ended for finished in at_work.answer(reversed(rows)) for row in finished)
    return [row.tokens for row in rows]


@pytest.mark.parametrize(
    "name",
    [
        *some(sorted(WRITING_FAST), 3),
        *some((name for name in WRITING if name not in WRITING_FAST), 15, pytest.mark.slow),
    ],
)
def test_an_answer_is_the_same_alone_and_among_many(name: str) -> None:
    """Greedy and sampled, in 32 bits: one at a time, all at once (64 of the fast ones), and a few that come and go."""
    config = small(CONFIG_MAPPING[name](**(RWKV if name == "rwkv" else {})))
    assert trial.joins(config) == (name not in TOGETHER)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    drawn = torch.Generator().manual_seed(2)
    number = 64 if name in WRITING_FAST - TOGETHER else 16
    sizes = torch.randint(1, 20, (number, 2), generator=drawn).tolist()
    asked = [(torch.randint(3, 60, (length,), generator=drawn).tolist(), most) for length, most in sizes]
    for temperature in (0.0, 1.0):
        alone = written(model, asked, 1, temperature)
        assert len({tuple(each) for each in alone}) > number // 2, "answers that would not tell"
        assert written(model, asked, 64 * 40, temperature) == alone
        assert written(model, asked, 5 * 40, temperature) == alone


def saved(name: str, folder: Path) -> Path:
    """A small random model of an architecture, and a tokenizer of bytes."""
    config = small(CONFIG_MAPPING[name](**WITH_ATTENTION.get(name, {})))
    for key in [key for key in vars(config) if "vocab_size" in key]:
        setattr(config, key, 260)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special: Any = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return folder


LORA = ["train.method=lora", "train.lora_rank=4", "train.lora_alpha=8", "train.merge=original"]
SHORT = ["task.num_train=12", "task.num_dev=2", "task.num_test=3", "train.max_steps=2", "train.save_steps=2"]
SHORT += [
    "train.batch_size=4",
    "train.micro_batch_size=2",
    "train.max_source_tokens=200",
    "train.max_target_tokens=200",
]
TRAINED = ["gpt2", "opt", "bloom", "falcon", "mixtral", "mamba", "mamba2", "bamba", "gpt_oss", "llama4_text"]


@pytest.mark.parametrize(("name", "method"), some(itertools.product(TRAINED, ["full", "lora"]), 17, pytest.mark.slow))
def test_a_cell_of_each_ends_with_its_scores(make_config, tmp_path, name: str, method: str) -> None:
    changed = ["train.batches=padded", "mix=cot"] + (LORA if method == "lora" else [])
    changed += ["train.lora_dropout=0.05"] * (method == "lora" and name != "mixtral")
    where = [
        f"backbone.path={saved(name, tmp_path / name)}",
        "backbone.parameters=null",
        f"runs_dir={tmp_path / 'runs'}",
    ]
    pipeline.run(make_config(*SMALL, *SHORT, *changed, *where), [])
    [score] = (tmp_path / "runs/cells").glob("*/evaluate/score.json")
    assert json.loads(score.read_text())["num_problems"] == 3


@pytest.mark.parametrize(
    ("name", "changed", "line"),
    [
        ("mixtral", [*LORA, "train.lora_dropout=0.05"], DROPOUT),
        ("mamba", [], "train.batches=padded"),
        ("mamba2", [], "train.batches=padded"),
        ("bamba", [], "train.batches=padded"),
        ("bert", [], "choose a causal language model"),
        (
            "gpt2",
            ["train.max_target_tokens=1000", "train.row_tokens=1200"],
            "train.max_source_tokens=512 train.max_target_tokens=512",
        ),
        ("gpt2", ["evaluation.max_new_tokens=1024"], "evaluation.max_new_tokens=512"),
    ],
)
def test_what_would_fail_late_is_one_line_before_anything_is_made(make_config, tmp_path, name, changed, line) -> None:
    runs = tmp_path / "runs"
    where = [f"backbone.path={saved(name, tmp_path / name)}", "backbone.parameters=null", f"runs_dir={runs}"]
    with pytest.raises(UserError) as raised:
        pipeline.run(make_config(*SMALL, *SHORT, *changed, *where), [])
    [found] = str(raised.value).split("\n  - ")[1:]
    assert found.startswith("model: ")
    assert found.endswith(line)
    assert not [path for path in runs.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("llama", None),
        ("falcon", "none of its layers can be held in 4 bits): train=lora"),
        ("mamba", ": train=lora"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight is of another shape then): train.merge=original"),
    ],
)
def test_what_4_bits_cannot_hold_is_refused(lora, name: str, line: str | None) -> None:
    pytest.importorskip("bitsandbytes")
    train = replace(lora, method=Method.qlora, merge=Merge.dequantised, lora_dropout=0.0)
    if line is None:
        trial.check_training(CONFIG_MAPPING[name](), train)
        return
    with pytest.raises(UserError, match=re.escape(line) + "$"):
        trial.check_training(CONFIG_MAPPING[name](), train)
