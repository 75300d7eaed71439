"""Target tokens a second in training: packed rows, padded ones and TRL's SFTTrainer, in interleaved rounds of one run.

Run by hand: pytest -n 0 -m full -s tests/benchmarks/test_train_speed.py. LEMA_TEST_ROUNDS=1 is a shorter run. The
tables go to README.md beside this file.
"""

import gc
import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import GPU, machine, publish
from small import training
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PrinterCallback

from lema.config import Attention, Config
from lema.data.arithmetic import make_problems
from lema.models.batches import TokenizedExample, encode
from lema.models.compiling import compiled
from lema.models.huggingface import load_trainable
from lema.models.sizes import available_memory, measured_peak, training_size
from lema.models.tiny import NUMBERS, make_tokenizer
from lema.models.trainer import train
from lema.models.weights import Weights
from lema.prompts.formats import cot
from lema.types import Example

pytestmark = pytest.mark.full

EXAMPLES, ROUNDS = 1000, int(os.environ.get("LEMA_TEST_ROUNDS", "3" if GPU else "5"))
COMMAND = "pytest -n 0 -m full -s tests/benchmarks/test_train_speed.py"
PADDED, COMPILED = "train.batches=padded", "train.compile=true"


def small(hidden: int, mlp: int, layers: int) -> LlamaConfig:
    """A Llama whose vocabulary is set once there is a tokenizer."""
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )


# The model, and the steps that are timed.
MODELS: dict[str, tuple[Any, int]] = {"Llama 0.4M": (small(128, 256, 2), 12), "Llama 5M": (small(256, 768, 6), 4)}
ARMS = {
    "packed": ("train.batches=packed", "train.row_tokens=1024"),
    "packed, compiled": ("train.batches=packed", "train.row_tokens=1024", COMPILED),
    "padded, random order": (PADDED, "train.group_by_length=false"),
    "padded, by length": (PADDED, "train.group_by_length=true"),
}
TRL_ROWS = (
    1024,
    256,
)  # ours, and rows so short that the mask of length x length, which TRL needs on a CPU, costs least
if GPU:  # the published sizes, which are also the defaults of the two configs; Mistral's are of version 0.1
    MODELS = {"Llama-2-7B": (LlamaConfig(), 5), "Mistral-7B": (MistralConfig(), 5)}
    ARMS = {"packed, bf16 LoRA": ("train=lora",), "the paper's recipe": ("train=qlora",)}
    ARMS |= {f"{name}, compiled": (*overrides, COMPILED) for name, overrides in ARMS.items()}
    TRL_ROWS = (4096,)


@dataclass
class Clock:
    """The speed of a run, from the end of its first step to that of its last."""

    stamps: list[tuple[float, int]] = field(default_factory=list)  # at the end of a step, and its target tokens

    def stamp(self, targets: int) -> None:
        """On a CPU, seconds of the process: training has one thread here, and others use the machine too."""
        if GPU:
            torch.cuda.synchronize()
        self.stamps.append((time.perf_counter() if GPU else time.process_time(), targets))

    def speed(self) -> float:
        (began, _), *rest = self.stamps
        return sum(targets for _, targets in rest) / (rest[-1][0] - began)


def ours(config: Config, model: Any, tokenizer: Any, rows: list[TokenizedExample], steps: int, folder: Path) -> float:
    """Target tokens a second of the suite's own trainer."""
    clock = Clock()

    def track(row: dict[str, float], _: int) -> None:
        clock.stamp(int(row["train/target_tokens"]))

    with compiled(model, config.train, config.backbone.precision, 0.0):
        train(model, tokenizer, rows, steps, folder, training(config), track)
    return clock.speed()


def trl(
    config: Config, model: Any, tokenizer: Any, rows: list[TokenizedExample], steps: int, folder: Path, again: bool
) -> float:
    """The same of TRL: best-fit rows of the whole data, and as many a step as hold `batch_size` mean examples.

    One row a forward pass, as `per_device_train_batch_size` would lay several end to end in one. `again` turns on
    activation checkpointing.
    """
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    clock, recipe = Clock(), config.train

    class Timed(SFTTrainer):
        targets = 0

        def training_step(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> torch.Tensor:
            self.targets += int((inputs["labels"] != -100).sum())
            return super().training_step(model, inputs, *rest, **options)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                clock.stamp(self.targets)
                self.targets = 0
            super().log(logs, start_time)

    mean = statistics.fmean(len(row["input_ids"]) for row in rows)
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        packing=True,
        max_length=recipe.row_tokens,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=max(1, round(recipe.batch_size * mean / recipe.row_tokens)),
        gradient_checkpointing=again,  # its name in transformers 5.17, which 5.24 takes too
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        optim=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        bf16=GPU,
        use_cpu=not GPU,
        seed=config.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_list([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
    trainer = Timed(model=model, args=arguments, processing_class=tokenizer, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.speed()


@dataclass
class Lane:
    """One contender over the rounds."""

    config: Config
    of_trl: bool
    checkpointing: bool
    flops: float  # a token: forward and backward
    speeds: list[float] = field(default_factory=list)
    memory: float = 0.0  # peak, GB, on a GPU


def lanes(make_config: Callable[..., Config], architecture: Any, mean_tokens: float) -> dict[str, Lane]:
    """Who takes part. Of one recipe, TRL gets the same model, kernel and optimiser as the packed rows of ours."""
    base = ["backbone=llama2", "task=gsm8k"]
    if not GPU:
        base = ["backbone.attention=auto", "train.max_source_tokens=128", "train.max_target_tokens=128"]
    entries: dict[str, tuple[tuple[str, ...], bool]] = {name: (each, False) for name, each in ARMS.items()}
    packed = next(iter(ARMS.values()))
    for tokens in TRL_ROWS:
        entries[f"TRL SFTTrainer, packing, rows of {tokens:,}"] = ((*packed, f"train.row_tokens={tokens}"), True)
    found = {}
    for name, (overrides, of_trl) in entries.items():
        config = make_config(*base, *overrides, "train.save_steps=1000000")
        if of_trl and not GPU:  # else it gets the kernel of ours
            config = replace(config, backbone=replace(config.backbone, attention=Attention.sdpa))
        run = training_size(architecture, config.train, config.backbone.precision, mean_tokens, 1)
        checkpointing = config.train.activation_checkpointing
        if checkpointing is None:
            checkpointing = run.memory(checkpointing=False) > available_memory()
        found[name] = Lane(config, of_trl, checkpointing, run.flops)
    return found


def drive(lane: Lane, source: Weights, tokenizer: Any, rows: list[TokenizedExample], steps: int, folder: Path) -> None:
    """One run of one contender: load the model, train, note the speed."""
    config = lane.config
    model = load_trainable(source, config.backbone.computation, config.train, config.seed, lane.checkpointing)
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    if lane.of_trl:
        lane.speeds.append(trl(config, model, tokenizer, rows, steps, folder, lane.checkpointing))
    else:
        lane.speeds.append(ours(config, model, tokenizer, rows, steps, folder))
    lane.memory = torch.cuda.max_memory_allocated() / 1e9 if GPU else 0.0
    shutil.rmtree(folder, ignore_errors=True)
    del model
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()


def examples(config: Config) -> tuple[Any, list[TokenizedExample], dict[str, int]]:
    """The task's own problems as tokens. With a GPU nearly each byte is one, so they are as long as GSM8K's in Llama's.

    Else the tiny backbone's tokenizer, in which they are 68 tokens long.
    """
    problems, _ = make_problems(0, EXAMPLES, 0)
    made = [Example(problem.id, "cot", *cot("lema", problem)) for problem in problems]
    tiny = config.backbone.tiny
    assert tiny
    tiny = replace(tiny, vocab_size=272) if GPU else tiny
    tokenizer = make_tokenizer([(one.prompt, one.completion) for one in made], "lema", tiny, NUMBERS)
    return (tokenizer, *encode(made, tokenizer, config.train))


def faster(of: Lane, than: Lane) -> float:
    """The median of the rounds' ratios: a neighbour's load falls on both sides of one."""
    return statistics.median(a / b for a, b in zip(of.speeds, than.speeds, strict=True))


def table(name: str, found: dict[str, Lane], whole: float, peak: float) -> list[str]:
    """One row a contender; `whole` is the tokens for each target token, prompts included."""
    first = next(iter(found.values()))
    extra = " MFU | peak GB |" if GPU else ""
    lines = [f"| {name} | target tokens/s | lowest to highest | packed is faster by |{extra}"]
    lines.append("|---|---|---|---|" + "---|---|" * GPU)
    for label, lane in found.items():
        median = statistics.median(lane.speeds)
        row = f"| {label} | {median:,.0f} | {min(lane.speeds):,.0f} to {max(lane.speeds):,.0f} |"
        row += f" {faster(first, lane):.2f}x |"
        row += f" {median * whole * lane.flops / peak:.0%} | {lane.memory:.0f} |" if GPU else ""
        lines.append(row)
    return [*lines, ""]


@pytest.mark.timeout(3600)
def test_packed_rows_are_faster_than_padded_ones_and_than_trl(make_config, tmp_path) -> None:
    pytest.importorskip("trl")
    import datasets

    datasets.disable_progress_bars()
    tokenizer, rows, counts = examples(make_config())
    mean, whole = counts["tokens"] / EXAMPLES, counts["tokens"] / counts["target_tokens"]
    lines, results = [], {}
    for name, (architecture, steps) in MODELS.items():
        if not GPU:
            architecture.vocab_size = len(tokenizer)
        torch.manual_seed(0)
        with torch.device("cuda" if GPU else "cpu"):
            drawn: Any = AutoModelForCausalLM.from_config(architecture, dtype=torch.bfloat16 if GPU else torch.float32)
        drawn.save_pretrained(tmp_path / "model")
        del drawn
        source = Weights(name, str(tmp_path / "model"), None, "")
        found = results[name] = lanes(make_config, architecture, mean)
        precision = next(iter(found.values())).config.backbone.precision
        peak = measured_peak(precision)
        for _ in range(ROUNDS):
            for lane in found.values():
                drive(lane, source, tokenizer, rows, steps + 1, tmp_path / "run")
        shutil.rmtree(tmp_path / "model")
        of_model = table(name, found, whole, peak)
        if GPU:
            of_model += [f"Measured peak of a matrix product: {peak / 1e12:.0f} TFLOP/s.", ""]
        print("\n".join(["", *of_model]), flush=True)  # should the next model take longer than there is time
        lines += of_model
    about = f"{date.today()}, `{COMMAND}`: {machine('peft', 'trl')}. Medians of {ROUNDS} interleaved rounds, "
    about += f"examples of {mean:.0f} tokens in the mean, {counts['target_tokens'] / EXAMPLES:.0f} of them targets."
    publish("train", [about, "", *lines])
    for name, found in results.items():
        packed, *others = found.items()
        for label, lane in others:
            if label != "padded, by length" and "compiled" not in label:
                floor = 3.0 if "paper" in label else 1.1 if lane.of_trl and not GPU else 1.0
                assert faster(packed[1], lane) >= floor, f"{name}: packed beside {label}"
