"""A sharded model is slices of the plain one, computes what it does, and is saved and resumed as it is."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sharded
import torch
from small import ROOT
from tables import some

from lema.config import Precision
from lema.models.fitting import Fit
from lema.models.processes import fit_by

STEPS = 20  # of `job`


def by_ranks(job: Fit, folder: Path, count: int) -> list[dict[str, Any]]:
    """What each of so many ranks has of the model."""
    folder.mkdir()
    (folder / "job").write_bytes(pickle.dumps(job))
    about = [[str(folder), str(number), str(count)] for number in range(count)]
    ranks = [subprocess.Popen([sys.executable, str(ROOT / "tests/sharded.py"), *each]) for each in about]
    assert [rank.wait(120) for rank in ranks] == [0] * count
    return [json.loads((folder / f"facts-{number}.json").read_bytes()) for number in range(count)]


def in_precision(job: Fit, precision: Precision) -> Fit:
    computation = replace(job.settings.computation, precision=precision)
    return replace(job, settings=replace(job.settings, computation=computation))


@pytest.mark.parametrize(
    ("name", "method", "precision"),
    some([("llama", "lora", Precision.bf16), ("tied", "full", Precision.fp32)], 2, pytest.mark.slow),
)
def test_each_rank_has_a_slice_of_every_tensor(name: str, method: str, precision: Precision, job, tmp_path) -> None:
    fit = in_precision(job(name, method, "padded", "plain", 2, True), precision)
    plain = sharded.loaded(fit)
    facts = by_ranks(fit, tmp_path / "ranks", 2)
    parameters = dict(plain.named_parameters())
    for of_rank in facts:
        assert of_rank["sharded"] == of_rank["parameters"] == sorted(parameters), "all of them are DTensors"
        assert of_rank["numbers"] == pytest.approx(sum(each.numel() for each in parameters.values()) / 2, rel=0.01)
        assert of_rank["dtypes"] == {name: str(each.dtype) for name, each in parameters.items()}
        assert of_rank["buffers"] == {name: each.tolist() for name, each in plain.named_buffers()}
        assert of_rank["loss"] == pytest.approx(sharded.loss(plain).item(), rel=1e-6)
    trained = {name for name, each in parameters.items() if each.requires_grad}
    weights = torch.load(tmp_path / "ranks/weights", weights_only=True)
    assert trained <= set(weights)
    assert all(torch.equal(weights[name], plain.state_dict()[name]) for name in weights)


def interrupted(job: Fit, step: int) -> None:
    """Remove all that the training has left after a step."""
    for checkpoint in job.folder.glob("checkpoint-*"):
        if int(checkpoint.name.partition("-")[2]) > step:
            shutil.rmtree(checkpoint)


def losses(job: Fit, **changed: Any) -> list[float]:
    train = replace(job.settings.train, **changed)
    return [row["loss"] for row in fit_by(replace(job, settings=replace(job.settings, train=train)), lambda *_: None)]


@pytest.mark.parametrize(
    ("method", "batches"),
    [
        pytest.param("lora", "packed", marks=pytest.mark.slow),
        pytest.param("full", "padded", marks=pytest.mark.full),
    ],
)
def test_a_training_goes_on_to_the_bit_and_also_in_the_other_layout(method, batches, job, tmp_path: Path) -> None:
    fit = job(method=method, name="tied", batches=batches, run="one", ranks=2, sharded=True)
    whole = losses(fit)
    [weights] = (fit.folder / f"checkpoint-{STEPS}").glob("*model.safetensors")
    expected = weights.read_bytes()
    interrupted(fit, 12)
    assert losses(fit) == whole
    assert weights.read_bytes() == expected, "the same files"
    interrupted(fit, 12)
    alone = replace(fit, plan=replace(fit.plan, ranks=1, sharded=False))
    assert losses(alone) == pytest.approx(whole, rel=1e-5), "one process goes on with what two shards began"
    interrupted(fit, 16)
    assert losses(fit) == pytest.approx(whole, rel=1e-5), "and they with what it made"


@pytest.mark.full
def test_shards_compile_and_compute_activations_again(job) -> None:
    plain = losses(job("llama", "lora", "padded", "plain"), lora_dropout=0.1)
    fit = job("llama", "lora", "padded", "compiled", 2, True)
    fit = replace(fit, plan=replace(fit.plan, checkpointing=True))
    assert losses(fit, lora_dropout=0.1, compile=True) == pytest.approx(plain, rel=1e-5)
