"""One rank of a sharded model, which writes what it has of it: `python sharded.py FOLDER RANK COUNT`, the job in it."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional

from lema.models.fitting import Fit
from lema.models.huggingface import load_trainable
from lema.models.ranks import join, sharded, whole_weights


def loaded(job: Fit, device: str | None = None) -> Any:
    settings = job.settings
    again = job.plan.checkpointing
    return load_trainable(job.base, settings.computation, settings.train, settings.seed, again, device)


def loss(model: Any) -> torch.Tensor:
    tokens = torch.arange(4, 40, device=model.device)[None]
    logits = model(input_ids=tokens).logits[0]
    return functional.cross_entropy(logits[:-1].float(), tokens[0, 1:])


def main(folder: Path, number: int, count: int) -> None:
    job: Fit = pickle.loads((folder / "job").read_bytes())
    join(folder / "meeting", number, count)
    model = sharded(lambda device: loaded(job, device), number)
    parameters = dict(model.named_parameters())
    slices = {name: each.to_local() for name, each in parameters.items() if isinstance(each, DTensor)}
    facts = {
        "parameters": sorted(parameters),
        "sharded": sorted(slices),
        "numbers": sum(each.numel() for each in slices.values()),
        "dtypes": {name: str(each.dtype) for name, each in slices.items()},
        "buffers": {name: each.tolist() for name, each in model.named_buffers()},
        "loss": loss(model).item(),
    }
    weights = whole_weights(model)
    if number == 0:
        torch.save(weights, folder / "weights")
    (folder / f"facts-{number}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
