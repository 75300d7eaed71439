"""Reading a model's files: what is damaged, or could run code, ends in one line; nothing of it is ever run."""

import importlib.util
import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.modeling_utils import load_state_dict

from lema.artifacts.faults import explained
from lema.models.weights import DAMAGE as FILES_DAMAGE, Weights
from lema.types import UserError

DAMAGE = (*FILES_DAMAGE, StrictDataclassError)
# What an architecture raises where its config names what it has not, or where a package is missing.
MISFITS = (AttributeError, AssertionError, ImportError)
# What the libraries say of a model that is no causal language model, and the names of the options by which they would
# run a repository's code. All these options are off here.
REFUSED = {
    "Unrecognized configuration class": "writes no text: choose a causal language model",
    "trust_remote_code": "needs code of its own, which is never run: choose a model that transformers itself knows",
    "weights_only": "holds more than weights, or is damaged; it could run code and is not read: "
    "take one in safetensors, or download it again",
}


@contextmanager
def reading(source: Weights, part: str) -> Iterator[None]:
    """`UserError`, in one line, when a part of a model (`tokenizer`, `model`, `adapter`) cannot be read."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        remedy = "free it of other processes, or choose a smaller model or train=qlora"
        raise UserError(f"{source.location}: the GPU has too little memory for the {part}: {remedy}") from error
    except Exception as error:
        # Exception itself: tokenizers raises no class of its own.
        if not isinstance(error, (*DAMAGE, *MISFITS)) and type(error) is not Exception:
            raise
        if found := explained(error, Path(source.location)):  # of a disk or its rights: to copy it again is no remedy
            raise found from error
        damaged = _first_damaged(source.folder) if source.folder else None
        what = f"{source.location}: the {part}{f' ({damaged})' if damaged else ''}"
        raise UserError(f"{what} {_why(source, error, damaged)}") from error


def _why(source: Weights, error: Exception, damaged: str | None) -> str:
    """What is wrong with files that raised this error, and the remedy."""
    for option, why in REFUSED.items():
        if option in str(error):
            return why
    names = {file.name for file in source.folder.iterdir()} if source.folder else set()
    if "tokenizer.model" in names and "tokenizer.json" not in names and not importlib.util.find_spec("sentencepiece"):
        return "is in SentencePiece's format: pip install sentencepiece protobuf"
    if isinstance(error, ImportError):
        return f"needs a package that is not installed ({textwrap.shorten(str(error), 200)}): install it"
    again, folder = "check the id, the revision and the network", Path(source.location)
    made = next((each for each in (folder, *folder.parents) if (each / "record.json").is_file()), None)
    if made:
        again = f"delete {made} to make it again"
    elif folder.is_dir():
        again = "copy or download it again"
    elif damaged:
        again = f"hf cache rm model/{source.location}, and it is downloaded again"
    return f"cannot be read, {textwrap.shorten(f'{type(error).__name__}: {error}', 200)}: {again}"


def _first_damaged(folder: Path) -> str | None:
    """The first file that cannot be read by itself."""
    for kind in ("*.json", "model*.safetensors", "pytorch_model*.bin"):
        for file in sorted(folder.glob(kind)):
            try:
                if file.suffix == ".json":
                    json.loads(file.read_bytes())
                else:
                    load_state_dict(file, map_location="meta")
            except DAMAGE:
                return file.name
    return None
