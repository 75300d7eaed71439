"""Reading a model block by block, a decoder layer each, and writing it file by file: neither needs all of its memory.

What stored tensors become, in a model's own names and forms, is transformers' to say, as when it reads a whole model.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig, load_state_dict

from lema.models.reading import reading
from lema.models.weights import Weights

_BLOCK = re.compile(r".*?\.\d+(?=\.)")  # `model.layers.12` of `model.layers.12.mlp.up_proj.weight`


def stored_blocks(source: Weights, model: Any) -> dict[str, dict[str, Path]]:
    """The stored tensors of each block of a model on the meta device, by name, with their files.

    Block "" has what is in no layer, and all that is tied to something. Raises `UserError` for damaged files.
    """
    renamings = [each for each in model._weight_conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in model._weight_conversions if isinstance(each, WeightConverter)]
    shapes = model.state_dict()

    def block(name: str) -> str:
        found = _BLOCK.match(name)
        return found[0] if found else ""

    tied = {block(name) for pair in model.all_tied_weights_keys.items() for name in pair}
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in source.files:
        with reading(source, "model"):
            stored = load_state_dict(file, map_location="meta")
        for name in stored:
            of = block(rename_source_key(name, renamings, converters, model.base_model_prefix, shapes)[0])
            found["" if of in tied else of][name] = file
    return found


def load(source: Weights, model: Any, block: str, files: dict[str, Path], device: str) -> list[str]:
    """Read a block's tensors into a model on the meta device; the names of what is no longer there.

    Raises `UserError` for damaged files, and for tensors that do not fit.
    """
    conversions = model._weight_conversions
    how = LoadStateDictConfig(
        device_map={"": device},
        dtype=model.dtype,
        hf_quantizer=getattr(model, "hf_quantizer", None),
        weight_mapping=conversions,
    )
    with reading(source, "model"):
        found, _ = convert_and_load_state_dict_in_model(model, _tensors(files), how)
        if wrong := [*found.conversion_errors, *(name for name, *_ in found.mismatched_keys)]:
            raise ValueError(f"{wrong[0]} is of another shape")
    model._weight_conversions = conversions  # else those of this block alone
    if not block:
        model.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
    return [name for name in model.state_dict() if name not in found.missing_keys]


def _tensors(files: dict[str, Path]) -> dict[str, Any]:
    """Tensors of a model's files by name: those of safetensors are read when they are used."""
    found = {}
    for file in sorted(set(files.values())):
        if file.suffix == ".safetensors":
            opened = safe_open(file, "pt")
            found |= {name: opened.get_slice(name) for name, of in files.items() if of == file}
        else:
            found |= {name: each for name, each in load_state_dict(file).items() if name in files}
    return found


class Shards:
    """The files of one folder, as transformers writes them, each of at most `most` bytes unless one tensor has more."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.held: dict[str, torch.Tensor] = {}
        self.parameters = self.size = 0
        self.names: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor; what is held is written first where a file has no room for both."""
        if self.held and tensor.nbytes + sum(each.nbytes for each in self.held.values()) > self.most:
            self._write()
        self.held[name] = tensor.cpu().contiguous()

    def _write(self) -> None:
        self.names.append(list(self.held))
        self.parameters += sum(each.numel() for each in self.held.values())
        self.size += sum(each.nbytes for each in self.held.values())
        save_file(self.held, self.folder / f"{len(self.names)}.safetensors", metadata={"format": "pt"})
        self.held = {}

    def close(self) -> None:
        """Write the rest, give the files the names that transformers looks for, and write the index of several."""
        self._write()
        number = len(self.names)
        files = [f"model-{each + 1:05}-of-{number:05}.safetensors" for each in range(number)]
        if number == 1:
            files = ["model.safetensors"]
        for place, file in enumerate(files, 1):
            (self.folder / f"{place}.safetensors").rename(self.folder / file)
        if number > 1:
            of = {name: file for names, file in zip(self.names, files, strict=True) for name in names}
            index = {"metadata": {"total_parameters": self.parameters, "total_size": self.size}, "weight_map": of}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (self.folder / "model.safetensors.index.json").write_text(text)
