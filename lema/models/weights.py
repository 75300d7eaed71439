"""Which weights a config names, without loading them: where they lie, a digest, their files, how many numbers."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open

from lema.config import Method, ModelConfig
from lema.types import UserError

# NF4 with double quantisation takes 4.127 bits a parameter (QLoRA, arXiv 2305.14314, section 3).
NF4_BYTES = 4.127 / 8
# Weight, gradient and AdamW's two moments of a trained parameter, 32-bit each.
TRAINED_BYTES = 16
CHECKPOINTS = "checkpoints"  # the folder of a training's artifact
MERGED = "merged"  # of a merge's
# All that truncated, empty, replaced and misfitting files were seen to raise when they are read.
DAMAGE = (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, UnpicklingError, SafetensorError)

# The first that is there is read. What lies beside it (`consolidated.safetensors`, `original/`) is a second copy.
_CHOICES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Of what quantised weights are read with, and which is no parameter: a part of the tensor's name.
_BESIDE = ("scale", "zero", "g_idx", "absmax", "quant_map", "quant_state", "SCB", "weight_shape", "weight_format")
_PACKED = ("qweight", "weight_packed")  # several numbers in one integer of 32 bits: GPTQ, AWQ, compressed-tensors


@dataclass(frozen=True)
class Weights:
    """A model to load, and the digest that stands for its contents."""

    name: str
    location: str  # a folder or a Hub id
    revision: str | None
    digest: str

    @property
    def folder(self) -> Path | None:
        """Where the files lie: the folder itself, or the Hub's cache; None before anything is downloaded."""
        if Path(self.location).is_dir():
            return Path(self.location)
        from huggingface_hub import errors, try_to_load_from_cache

        try:
            config = try_to_load_from_cache(self.location, "config.json", revision=self.revision)
        except errors.HFValidationError:
            return None
        return Path(config).parent if isinstance(config, str) else None

    @property
    def files(self) -> list[Path]:
        """The files that hold the weights, as transformers chooses them; none before anything is downloaded."""
        return weight_files(self.folder) if self.folder else []

    @property
    def parameters(self) -> int:
        """The parameters that the headers of these files count; 0 when they cannot be read."""
        return count(self.folder) if self.folder else 0


def weights(model: ModelConfig) -> Weights:
    """The weights that a config names: those in `path` if it is set, else the Hub id at its revision."""
    location, revision = (model.path, None) if model.path else (model.hub_id, model.revision)
    if location is None:
        raise UserError(f"{model.name} has neither a path nor a hub_id: set one, path=FOLDER or hub_id=ORG/NAME")
    folder = Path(location)
    if not folder.is_dir():
        return Weights(model.name, location, revision, f"{location}@{revision}")
    sha = hashlib.sha256()  # contents of small files, size and time of large ones
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in file.relative_to(folder).parent.parts):
            continue  # `.git`, or what `hf download` keeps of its own in `.cache`, with the hour
        facts = file.stat()
        content = file.read_bytes() if facts.st_size < 16 << 20 else str((facts.st_size, facts.st_mtime_ns)).encode()
        sha.update(file.relative_to(folder).as_posix().encode() + b"\0" + content + b"\0")
    return Weights(model.name, location, None, sha.hexdigest()[:12])


def checkpoint(train: Path, step: int) -> Path:
    """The folder of a checkpoint in a training's artifact."""
    return train / CHECKPOINTS / f"step-{step}"


def whole(base: Weights, folder: Path) -> Weights:
    """A model made of `base`, with all its weights in a folder."""
    return replace(base, location=str(folder), revision=None)


def chosen(
    base: Weights | None, method: Method | None, train: Path | None, step: int | None, merge: Path | None
) -> tuple[Weights | None, Path | None]:
    """What answers, as weights and adapter: the base, or a checkpoint; the merged model, where that was merged."""
    if not (base and method and train and step is not None):
        return base, None
    return (whole(base, merge / MERGED), None) if merge else tuned(base, checkpoint(train, step), method)


def tuned(base: Weights, folder: Path, method: Method) -> tuple[Weights, Path | None]:
    """A checkpoint as weights and adapter: full fine-tuning makes a whole model, the other methods an adapter."""
    return (whole(base, folder), None) if method is Method.full else (base, folder)


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
