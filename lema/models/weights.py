"""Which weights a config names, without loading them: a local folder or a Hub id, a digest of it; bytes they take."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from lema.config import Method, ModelConfig
from lema.models.files import DAMAGE as DAMAGE, count, quantised as quantised, weight_files
from lema.types import UserError

# NF4 with double quantisation takes 4.127 bits a parameter (QLoRA, arXiv 2305.14314, section 3).
NF4_BYTES = 4.127 / 8
# Weight, gradient and AdamW's two moments of a trained parameter, 32-bit each.
TRAINED_BYTES = 16
CHECKPOINTS = "checkpoints"  # the folder of a training's artifact
MERGED = "merged"  # of a merge's


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
