"""A model's weight files, as transformers chooses them, and how many parameters their own headers count."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open

# All that truncated, empty, replaced and misfitting files were seen to raise when they are read.
DAMAGE = (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, UnpicklingError, SafetensorError)

# The first that is there is read. What lies beside it (`consolidated.safetensors`, `original/`) is a second copy.
_CHOICES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Of what quantised weights are read with, and which is no parameter: a part of the tensor's name.
_BESIDE = ("scale", "zero", "g_idx", "absmax", "quant_map", "quant_state", "SCB", "weight_shape", "weight_format")
_PACKED = ("qweight", "weight_packed")  # several numbers in one integer of 32 bits: GPTQ, AWQ, compressed-tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, of which some may be missing; none where transformers finds none.

    Raises `ValueError`, `LookupError` or `TypeError` for an index that is damaged.
    """
    for name in _CHOICES:
        if (folder / name).is_file():
            if not name.endswith(".index.json"):
                return [folder / name]
            return sorted({folder / file for file in json.loads((folder / name).read_bytes())["weight_map"].values()})
    return []


def quantised(config: dict[str, Any]) -> str | None:
    """How the weights of a `config.json` are quantised, as `gptq` or `fp8`; None where they are plain numbers."""
    found = config.get("quantization_config") or config.get("compression_config")
    return str(found.get("quant_method") or "quantised") if isinstance(found, dict) else None


def count(folder: Path) -> int:
    """The parameters of a folder's weights, whatever their type; 0 when they cannot be read.

    A tensor that two names share counts once, and of packed weights each number that they hold.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        settings = json.dumps(config.get("quantization_config")) if quantised(config) else None
        return sum(_parameters(*tensor, settings) for file in weight_files(folder) for tensor in _tensors(file))
    except (*DAMAGE, AttributeError):  # what is wrong is said by who loads them
        return 0


def _tensors(file: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of each tensor of a file; no number of it is read."""
    if file.suffix == ".safetensors":
        with safe_open(file, "np") as opened:
            for name in opened.keys():  # noqa: SIM118 # it is no mapping
                found = opened.get_slice(name)
                yield name, found.get_dtype(), tuple(found.get_shape())
        return
    import torch

    shared = set()
    for name, tensor in torch.load(file, map_location="meta", weights_only=True).items():
        if (storage := tensor.untyped_storage()._cdata) not in shared:
            shared.add(storage)
            yield name, str(tensor.dtype), tuple(tensor.shape)


def _parameters(name: str, dtype: str, shape: tuple[int, ...], settings: str | None) -> int:
    """How many parameters a tensor holds; `settings` are those of the weights' quantisation."""
    numbers = prod(shape)
    if name.endswith("bias") and len(shape) in (0, 4):  # a mask that older models keep among their weights
        return 0
    if settings is None:
        return numbers
    if any(part in name for part in _BESIDE):
        return 0
    if name.endswith(_PACKED) and dtype in ("I32", "torch.int32"):
        return numbers * (4 if '"bits": 8' in settings or '"num_bits": 8' in settings else 8)
    # Two numbers of 4 bits in a byte: bitsandbytes, MXFP4.
    return numbers * (2 if dtype in ("U8", "torch.uint8") else 1)
