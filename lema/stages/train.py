"""train: fine-tune the backbone on a mix; loss on completions only.

The Hugging Face Trainer does the steps; a killed run goes on from its newest complete checkpoint, to the same weights.
"""

import json
import math
import statistics
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lema.artifacts import RESUME, Recipe, write_jsonl
from lema.cell import Cell
from lema.config import Precision, TrainConfig
from lema.types import Example

IGNORED = -100  # the label that PyTorch's cross entropy skips
FINAL_STEPS = 10  # over which the reported final loss is averaged


def recipe(cell: Cell) -> Recipe:
    backbone = cell.plain(cell.config.backbone)
    config = cell.plain(cell.config.train) | {name: backbone[name] for name in ("precision", "attention")}
    config |= {"seed": cell.config.seed}
    inputs = {"mix": cell.artifacts["mix"].digest, "base": cell.base.digest}
    return Recipe("train", f"{cell.train_label}-{cell.arm}", version=1, config=config, inputs=inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `checkpoint/` (a model, or a PEFT adapter) and `metrics.jsonl`, one row a step."""
    from lema.models.huggingface import load_tokenizer

    config = cell.config.train
    tokenizer = load_tokenizer(cell.base)
    tokenizer.padding_side = "right"
    rows, counts = _encode(cell.artifacts["mix"].rows("examples.jsonl", Example), tokenizer, config)
    by_epochs = None if config.epochs is None else math.ceil(len(rows) * config.epochs / config.batch_size)
    steps = min(limit for limit in (by_epochs, config.max_steps) if limit is not None)
    trainer = _trainer(cell, rows, tokenizer, steps, folder / RESUME)
    trainer.train(resume_from_checkpoint=_newest_checkpoint(folder / RESUME))
    trainer.model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    names = ("step", "epoch", "loss", "grad_norm", "learning_rate")
    curve = [{name: row[name] for name in names} for row in trainer.state.log_history if "loss" in row]
    write_jsonl(folder / "metrics.jsonl", curve)
    final = statistics.fmean(row["loss"] for row in curve[-FINAL_STEPS:])
    return {**counts, "steps": steps, "epochs": round(curve[-1]["epoch"], 3), "final_loss": round(final, 4)}


def _encode(examples: list[Example], tokenizer: Any, config: TrainConfig) -> tuple[list[Any], dict[str, int]]:
    """BOS + prompt | completion + EOS, each cut to its limit as in the official script; labels on the completion."""
    from lema.models.huggingface import encode_completion, encode_prompt

    rows, counts = [], {"examples": len(examples), "tokens": 0, "target_tokens": 0, "truncated": 0}
    for example in tqdm(examples, desc="train: tokens", disable=None):
        prompt, target = encode_prompt(tokenizer, example.prompt), encode_completion(tokenizer, example.completion)
        counts["truncated"] += len(prompt) > config.max_source_tokens or len(target) > config.max_target_tokens
        prompt, target = prompt[: config.max_source_tokens], target[: config.max_target_tokens]
        rows.append({"input_ids": prompt + target, "labels": [IGNORED] * len(prompt) + target})
        counts["tokens"] += len(prompt) + len(target)
        counts["target_tokens"] += len(target)
    return rows, counts


def _trainer(cell: Cell, rows: list[dict[str, list[int]]], tokenizer: Any, steps: int, folder: Path) -> Any:
    import torch
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import set_seed

    from lema.models.huggingface import load_trainable

    config, backbone = cell.config.train, cell.config.backbone
    set_seed(cell.config.seed)  # draws LoRA's initial weights

    class Track(TrainerCallback):
        """Sends the training curve to the tracker as it comes."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                values = {f"train/{name}": logs[name] for name in ("loss", "grad_norm", "learning_rate")}
                cell.tracker.log(values, step=state.global_step)

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        optim=config.optimizer,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        bf16=backbone.precision is Precision.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=cell.config.seed,
        save_steps=config.save_steps,
        save_total_limit=2,  # the newest may be cut short by a kill; the one before it is whole
        logging_steps=1,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    trainer = Trainer(
        model=load_trainable(cell.base, backbone, config),
        args=arguments,
        train_dataset=rows,  # pyright: ignore[reportArgumentType]
        data_collator=DataCollatorForSeq2Seq(tokenizer),  # pads by position: no token is masked for what it is
        callbacks=[Track()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _newest_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; a kill while one was saved leaves it without (all of) its last-written file."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        with suppress(FileNotFoundError, json.JSONDecodeError):
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            return str(checkpoint)
    return None
