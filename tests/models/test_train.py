"""Training: what loss falls on, packed rows and padded ones, and an end that loses nothing."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import token_rows, training
from tables import some
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
)

from lema.config import Batches, Optimizer, Precision, TrainConfig
from lema.models import checkpoints, trainer
from lema.models.batches import StepCollator, best_fit, check_packing, encode, mean_loss, preview
from lema.prompts import formats
from lema.stages.train import CURVE
from lema.types import Example, UserError

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZE |= {"vocab_size": 97, "num_key_value_heads": 2, "max_position_embeddings": 256}


@pytest.fixture
def tokenizer() -> Any:
    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", "a", "b", "c", "d", "e"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture
def config(make_config) -> TrainConfig:
    return make_config("train.max_source_tokens=40", "train.max_target_tokens=40", "train.row_tokens=80").train


def model(architecture: str, attention: str) -> Any:
    torch.manual_seed(0)
    options: Any = {**SIZE, "attn_implementation": attention}
    if architecture == "mistral":  # its window is shorter than most rows, and than some documents
        return MistralForCausalLM(MistralConfig(**options, sliding_window=8))
    return LlamaForCausalLM(LlamaConfig(**options))


def step(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """The loss of a step and its gradient, as one vector."""
    model.zero_grad()
    total = 0.0
    for inputs, weight in zip(batch["passes"], batch["weights"], strict=True):
        loss = mean_loss(model, inputs) * weight
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def encoded(config: TrainConfig, tokenizer: Any, *examples: tuple[str, str], **limits: int) -> Any:
    limits = {f"max_{name}_tokens": value for name, value in limits.items()}
    return encode([Example("p", "cot", *example) for example in examples], tokenizer, replace(config, **limits))


def test_loss_falls_on_the_completion_and_its_end_alone(config, tokenizer) -> None:
    made, counts = encoded(config, tokenizer, ("a b", "c d"))
    assert made == [{"id": "p (cot)", "input_ids": [1, 4, 5, 6, 7, 2], "labels": [-100, -100, -100, 6, 7, 2]}]
    assert counts == {"examples": 1, "tokens": 6, "target_tokens": 3, "truncated": 0}


def test_prompt_and_completion_are_cut_apart_and_counted(config, tokenizer) -> None:
    made, counts = encoded(config, tokenizer, ("a b c d", "a b c"), ("a", "b"), source=3, target=2)
    assert made[0]["input_ids"] == [1, 4, 5, 4, 5]
    assert made[0]["labels"] == [-100, -100, -100, 4, 5]
    assert counts["truncated"] == 1


def test_an_example_without_a_target_is_refused_by_its_id(config, tokenizer) -> None:
    with pytest.raises(UserError, match=re.escape("p (cot) has no token to train on")):
        encoded(config, tokenizer, ("a b", "c"), ("a", " "))


def test_padding_is_masked_and_never_a_label(config, tokenizer) -> None:
    tokenizer.pad_token = tokenizer.eos_token  # the worst choice, and a usual one
    made, _ = encoded(config, tokenizer, ("a", "b"), ("a b", "c d e"))
    [batch] = StepCollator(replace(config, batches=Batches.padded), tokenizer)(made)["passes"]
    assert batch["input_ids"][0].tolist() == [1, 4, 5, 2, 2, 2, 2]
    assert batch["labels"][0].tolist() == [-100, -100, 5, 2, -100, -100, -100]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]


def test_the_preview_marks_what_is_trained_on(config, tokenizer) -> None:
    made, _ = encoded(config, tokenizer, ("a b", "c d"))
    assert preview(made, tokenizer) == "--- p (cot)\n<s> a b⟦c d </s>⟧"


def test_rows_are_filled_best_fit_and_hold_every_document_once() -> None:
    draw = random.Random(0)
    for _ in range(50):
        lengths = [draw.randrange(1, 80) for _ in range(draw.randrange(1, 60))]
        packed = best_fit(lengths, 80)
        assert sorted(index for row in packed for index in row) == list(range(len(lengths)))
        loads = [sum(lengths[index] for index in row) for row in packed]
        assert max(loads) <= 80
        # No two rows could be one, or the fuller one would have been found.
        assert len(loads) < 2 or sorted(loads)[0] + sorted(loads)[1] > 80


def test_a_packed_row_says_where_documents_begin(config, tokenizer) -> None:
    [batch] = StepCollator(config, tokenizer)(token_rows(2))["passes"]
    first, second = sorted((len(row["input_ids"]) for row in token_rows(2)), reverse=True)
    assert batch["position_ids"].tolist() == [[*range(first), *range(second)]]
    assert batch["cu_seq_lens_q"].tolist() == [0, first, first + second]
    assert "attention_mask" not in batch
    assert batch["labels"][0, first] == -100


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_packed_equals_padded(config, tokenizer, architecture: str, attention: str) -> None:
    made, net = token_rows(24), model(architecture, attention)
    padding = model(architecture, "sdpa" if attention == "varlen" else attention)  # the same weights
    packed = StepCollator(config, tokenizer)(made)
    padded = StepCollator(replace(config, batches=Batches.padded, micro_batch_size=24), tokenizer)(made)
    assert len(packed["passes"]) > 5 > len(padded["passes"])
    (loss, gradient), (expected, reference) = step(net, packed), step(padding, padded)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert (gradient - reference).norm() / reference.norm() < 1e-5
    assert packed["target_tokens"] == padded["target_tokens"]
    assert packed["positions"] == packed["tokens"] == padded["tokens"] < padded["positions"]


def test_packed_counts_tokens_alike_and_padded_counts_passes_alike(config, tokenizer) -> None:
    made, net = token_rows(12), model("llama", "sdpa")
    means, counts = [], []
    for row in made:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        means.append(net(input_ids=ids, labels=labels).loss.item())
        counts.append(sum(label != -100 for label in row["labels"]))
    by_token = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
    assert step(net, StepCollator(config, tokenizer)(made))[0] == pytest.approx(by_token, abs=1e-6)
    one_by_one = StepCollator(replace(config, batches=Batches.padded, micro_batch_size=1), tokenizer)(made)
    assert step(net, one_by_one)[0] == pytest.approx(sum(means) / 12, abs=1e-6)
    assert abs(by_token - sum(means) / 12) > 1e-4


def test_weighted_tokens_count_by_their_weights(config, tokenizer) -> None:
    draw, made, net = random.Random(1), token_rows(12), model("llama", "sdpa")
    for row in made[::2]:
        row["weights"] = [draw.choice([0.25, 1.0, 3.0]) for label in row["labels"] if label != -100]
    losses, weights = [], []
    for row in made:
        logits = net(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        losses += torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100].tolist()
        weights += row.get("weights", [1.0] * int((labels != -100).sum()))
    expected = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
    padded = replace(config, batches=Batches.padded, micro_batch_size=12)
    packed, one_pass = (StepCollator(each, tokenizer)(made) for each in (config, padded))
    (loss, gradient), (other, reference) = step(net, packed), step(net, one_pass)
    assert len(packed["passes"]) > 1 == len(one_pass["passes"])
    assert [loss, other] == pytest.approx([expected, expected], abs=1e-6)
    assert (gradient - reference).norm() / reference.norm() < 1e-5
    plain = [{name: part for name, part in row.items() if name != "weights"} for row in made]
    alike = [row | {"weights": [0.5] * sum(label != -100 for label in row["labels"])} for row in plain]
    (loss, gradient), (other, reference) = (step(net, StepCollator(config, tokenizer)(each)) for each in (plain, alike))
    assert loss == pytest.approx(other, abs=1e-6)
    assert (gradient - reference).norm() / reference.norm() < 1e-5
    check_packing(net, made, config, tokenizer, Precision.fp32)


def test_parts_without_loss_have_no_label_and_a_part_that_is_cut_away_leaves_its_example_out(config, tokenizer) -> None:
    def rows(*weights: tuple[int, float]) -> Any:
        example = Example("p", "inline_correction", "a", "b c d", weights)
        return encode([example], tokenizer, replace(config, max_target_tokens=3))

    [row], counts = rows((1, 1), (2, 0), (2, 0.5))
    assert (row["labels"], row["weights"], counts["target_tokens"]) == ([-100, -100, 5, -100, 7], [1, 0.5], 2)
    assert preview([row], tokenizer) == "--- p (inline_correction)\n<s> a⟦b⟧c⟦d⟧"
    [row], _ = rows((3, 0), (2, 1))
    assert "weights" not in row
    assert rows((5, 0)) == ([], {"examples": 0, "tokens": 0, "target_tokens": 0, "truncated": 1})


def test_the_official_recipe_batch(config, data_dir) -> None:
    """Paper, official script: BOS + source cut at 512, target + EOS cut at 512, right padding, loss on targets."""
    from lema.types import Problem

    with (data_dir / "gsm8k/train.jsonl").open(encoding="utf-8") as lines:
        raw = [json.loads(line) for line, _ in zip(lines, range(40), strict=False)]
    problems = [
        Problem(str(number), row["question"], row["answer"].split("\n####")[0], row["answer"].split("#### ")[1])
        for number, row in enumerate(raw)
    ]
    tokenizer = llama_tokenizer(problems)
    examples = [Example(each.id, "cot", *formats.cot("lema", each)) for each in problems]
    limits = replace(config, batches=Batches.padded, micro_batch_size=6, max_source_tokens=160, max_target_tokens=120)
    made, counts = encode(examples, tokenizer, limits)
    assert counts["truncated"] > 0
    batch = StepCollator(limits, tokenizer)(made)
    assert [len(each["input_ids"]) for each in batch["passes"]] == [6] * 6 + [4]
    assert batch["weights"] == [1 / 7] * 7
    for number, example in enumerate(examples):
        source = tokenizer(f"<s>{example.prompt}", add_special_tokens=False)["input_ids"][:160]
        target = tokenizer(f"{example.completion}</s>", add_special_tokens=False)["input_ids"][:120]
        ids, labels, mask = (
            batch["passes"][number // 6][name][number % 6].tolist()
            for name in ("input_ids", "labels", "attention_mask")
        )
        length = len(source) + len(target)
        assert ids == source + target + [tokenizer.pad_token_id] * (len(ids) - length)
        assert labels == [-100] * len(source) + target + [-100] * (len(ids) - length)
        assert mask == [1] * length + [0] * (len(ids) - length)


def llama_tokenizer(problems: list[Any]) -> Any:
    """A byte-level BPE with Llama's special tokens, trained on the questions; like many bases' it has no pad token."""
    from tokenizers import decoders, trainers

    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(
        [problem.question for problem in problems], trainers.BpeTrainer(vocab_size=600, special_tokens=special)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.pad_token = made.unk_token  # as `load_tokenizer` does
    made.padding_side = "right"
    return made


def test_documents_that_see_each_other_are_refused(config, tokenizer) -> None:
    net = model("llama", "sdpa")
    check_packing(net, token_rows(8), config, tokenizer, Precision.fp32)

    class Blind(LlamaForCausalLM):
        """One that does not read positions, as a kernel without support for packed rows."""

        def forward(self, *inputs: Any, position_ids: Any = None, **options: Any) -> Any:
            return super().forward(*inputs, **options)

    for precision in (Precision.fp32, Precision.bf16):
        with pytest.raises(UserError, match=r"attention=sdpa: packed documents see each other"):
            check_packing(Blind(net.config), token_rows(8), config, tokenizer, precision)


def test_a_loss_that_is_no_number_names_its_examples(run, tmp_path) -> None:
    net = model("llama", "sdpa")
    with torch.no_grad():
        net.lm_head.weight[5] = float("nan")
    with pytest.raises(UserError, match=r"loss of step 1 is nan, on row \d+"):
        run(net, tmp_path)


@pytest.fixture
def run(make_config, tokenizer) -> Callable[..., Any]:
    """`run(net, folder)`: train it on forty rows, eight a step, and return the curve."""
    small = ["train.batch_size=8", "train.micro_batch_size=4", "train.save_steps=2"]

    def train(net: Any, folder: Path, steps: int = 6, *overrides: str) -> Any:
        config = make_config(*small, *overrides)
        return trainer.train(net, tokenizer, token_rows(40), steps, folder, training(config), lambda *_: None)

    return train


def test_a_gradient_that_is_no_number_is_never_saved(run, tmp_path) -> None:
    net = model("llama", "sdpa")
    # The square root of zero: a finite loss, and a gradient that is not.
    net.lm_head.register_forward_hook(lambda module, inputs, output: output + (0.0 * inputs[0].sum()).abs().sqrt())
    with pytest.raises(UserError, match=r"gradient norm of step 1 is nan, on row \d+"):
        run(net, tmp_path)
    assert checkpoints.newest_whole(tmp_path) is None


def test_a_damaged_checkpoint_is_passed_over_and_said_so(run, tmp_path, caplog) -> None:
    net = model("llama", "sdpa")
    curve = run(net, tmp_path)
    assert [row["step"] for row in curve] == [1, 2, 3, 4, 5, 6]
    assert checkpoints.newest_whole(tmp_path) == str(tmp_path / "checkpoint-6")
    for name in ("optimizer.pt", "model.safetensors"):
        copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
        os.truncate(copy / "checkpoint-6" / name, 100)
        assert checkpoints.newest_whole(copy) == str(copy / "checkpoint-4")
        assert [path.name for path in checkpoints.saved(copy)] == ["checkpoint-2", "checkpoint-4"]
        shutil.rmtree(copy)
    assert caplog.text.count("checkpoint-6 is cut short or damaged") == 2
    (tmp_path / "checkpoint-6" / checkpoints.CONTENTS).unlink()
    again = run(model("llama", "sdpa"), tmp_path)
    assert [[row[name] for name in CURVE] for row in again] == [[row[name] for name in CURVE] for row in curve]
    assert checkpoints.newest_whole(tmp_path / "empty") is None


def test_weights_kept_for_later_that_are_damaged_are_trained_again(run, tmp_path) -> None:
    run(model("llama", "sdpa"), tmp_path, 8)
    weights = {path.name: (path / "model.safetensors").read_bytes() for path in checkpoints.saved(tmp_path)}
    (tmp_path / "checkpoint-of-mine").mkdir()
    damaged = tmp_path / "checkpoint-2" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\0\0\0\0")
    run(model("llama", "sdpa"), tmp_path, 8)
    assert {path.name: (path / "model.safetensors").read_bytes() for path in checkpoints.saved(tmp_path)} == weights


def test_training_that_ended_after_its_last_step_goes_no_step_further(run, tmp_path) -> None:
    curve = run(model("llama", "sdpa"), tmp_path, 7)
    again = run(model("llama", "sdpa"), tmp_path, 7)
    assert again == curve
    assert [path.name for path in checkpoints.saved(tmp_path)] == [f"checkpoint-{step}" for step in (2, 4, 6, 7)]


def test_checkpoints_are_pruned_to_what_is_needed(run, tmp_path) -> None:
    run(model("llama", "sdpa"), tmp_path / "all", 10)
    kept = {path.name: path for path in checkpoints.saved(tmp_path / "all")}
    assert list(kept) == [f"checkpoint-{step}" for step in (2, 4, 6, 8, 10)]
    assert [(path / "optimizer.pt").exists() for path in kept.values()] == [False, False, False, True, True]
    assert checkpoints.collect(tmp_path / "all", tmp_path / "out", 2) == [2, 4, 6, 8, 10]
    files = {path.name for path in (tmp_path / "out/step-4").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert files.isdisjoint({*checkpoints.STATE, "README.md"})
    run(model("llama", "sdpa"), tmp_path / "last", 10, "selection=last")
    assert [path.name for path in checkpoints.saved(tmp_path / "last")] == ["checkpoint-8", "checkpoint-10"]
    assert checkpoints.collect(tmp_path / "last", tmp_path / "out of last", None) == [10]


@pytest.mark.parametrize("optimizer", some(Optimizer, 4))
def test_every_optimizer_trains_and_its_settings_tell(make_config, config, tokenizer, tmp_path, optimizer) -> None:
    if not optimizer.startswith("adamw_torch"):
        pytest.importorskip("bitsandbytes")
    whole, batch, ends = training(make_config()), StepCollator(config, tokenizer)(token_rows(4)), []
    for change in ({"learning_rate": 1e-9}, {"adam_beta2": 0.9}, {"adam_beta2": 0.5}, {"weight_decay": 1.0}):
        net = model("llama", "sdpa")
        recipe = replace(whole, train=replace(whole.train, optimizer=optimizer, **change))
        made: Any = Trainer(net, trainer._arguments(recipe, 2, tmp_path, saves=True)).create_optimizer()
        for _ in range(2):
            step(net, batch)
            made.step()
        assert all(parameter.isfinite().all() for parameter in net.parameters())
        ends.append(net.model.layers[0].mlp.up_proj.weight)
    still, one, other_beta, decayed = ends
    assert (one - still).abs().max() > 1e-4
    assert not any(torch.equal(one, other) for other in (other_beta, decayed))
