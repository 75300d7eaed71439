"""Several ranks make the step of one process: its loss, its gradient, its weights; and a control that must not."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import token_rows
from transformers import AutoModelForCausalLM

from lema.config import Method
from lema.models.batches import StepCollator, TokenizedExample, even, mean_loss
from lema.models.processes import fit_by

STEPS = 20  # of `job`


def weights(folder: Path) -> dict[str, torch.Tensor]:
    [file] = folder.glob("*model.safetensors")
    return load_file(file)


def first_gradient(run: Path) -> torch.Tensor:
    """AdamW's first moment after one step: a tenth of the gradient, as it was cut."""
    state = torch.load(run / "checkpoint-1/optimizer.pt", weights_only=True)["state"]
    return torch.cat([state[number]["exp_avg"].flatten() for number in sorted(state)])


# Two of them, and all of them by hand.
SOME = [
    ("mistral", "lora", "packed", 3, False),
    ("llama", "full", "padded", 2, True),
]
ALL = itertools.product(("llama", "mistral"), ("lora", "full"), ("packed", "padded"), (2, 3), (False, True))


@pytest.mark.parametrize(
    ("name", "method", "batches", "count", "sharded"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SOME else pytest.mark.full) for case in ALL],
)
def test_ranks_train_as_one_process_does(name, method, batches, count: int, sharded, job, tmp_path: Path) -> None:
    rows: dict[int, list[dict[str, float]]] = {1: [], count: []}
    jobs = {1: job(name, method, batches, "1"), count: job(name, method, batches, str(count), count, sharded)}
    curves = {each: fit_by(jobs[each], lambda row, _, each=each: rows[each].append(row)) for each in rows}
    losses = {each: [row["loss"] for row in curve] for each, curve in curves.items()}
    assert len(losses[1]) == STEPS
    assert losses[count] == pytest.approx(losses[1], rel=1e-5)
    assert [row["train/loss"] for row in rows[count]] == losses[count], "each row of the curve is tracked once"
    one, several = (first_gradient(tmp_path / str(each)) for each in (1, count))
    assert float((several - one).norm() / one.norm()) < 1e-5
    begin, end, found = (
        weights(tmp_path / run / f"checkpoint-{step}") for run, step in (("1", 1), ("1", STEPS), (str(count), STEPS))
    )
    if method == "full":
        begin = weights(tmp_path / "base")
    for tensor, value in end.items():
        moved = (value - begin[tensor]).norm()
        assert float((found[tensor] - value).norm() / moved) < 1e-4, tensor
    for folder in (tmp_path / "1", tmp_path / str(count)):
        assert json.loads((folder / f"checkpoint-{STEPS}/contents.json").read_text())


def gradient(model: Any, batches: list[dict[str, Any]], shares: list[float]) -> torch.Tensor:
    model.zero_grad()
    for batch, share in zip(batches, shares, strict=True):
        for one_pass, weight in zip(batch["passes"], batch["weights"], strict=True):
            (mean_loss(model, one_pass) * weight * share).backward()
    return torch.cat([each.grad.flatten() for each in model.parameters()])


def test_ranks_that_weigh_by_their_own_tokens_make_another_gradient(job, tmp_path: Path) -> None:
    """So the test above would see it."""
    fit = job("llama", "full", "packed", "control")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    layout = StepCollator(replace(fit.settings.train, method=Method.full), None)
    rows: list[TokenizedExample] = sorted(fit.rows[:12], key=lambda row: len(row["labels"]))
    whole, halves = layout(rows), [layout(rows[:6]), layout(rows[6:])]
    right = gradient(model, [whole], [1.0])
    by_all = gradient(model, halves, [each["target_tokens"] / whole["target_tokens"] for each in halves])
    by_own = gradient(model, halves, [0.5, 0.5])
    assert float((by_all - right).norm() / right.norm()) < 1e-5
    assert float((by_own - right).norm() / right.norm()) > 1e-2


@pytest.mark.parametrize("multiple", [2, 3, 4, 8])
def test_packed_rows_can_be_shared_evenly(multiple: int) -> None:
    lengths = [len(row["input_ids"]) for row in token_rows(96)]
    rows = even(lengths, 128, multiple)
    held = [sum(lengths[index] for index in row) for row in rows]
    assert sorted(index for row in rows for index in row) == list(range(96))
    assert len(rows) % multiple == 0
    assert max(held) <= 128
    assert max(held) - min(held) <= max(lengths)
