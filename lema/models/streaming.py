"""Reading a model block by block, a decoder layer each, so that memory for one block is enough.

What stored tensors become, in a model's own names and forms, is transformers' to say, as when it reads a whole model.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
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
