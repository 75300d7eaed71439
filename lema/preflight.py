"""What the steps to be made need before anything is downloaded, sent or paid: all that is missing, in one message."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from lema.cell import Cell
from lema.config import Attention, CorrectionMethod, Method, ModelConfig, Precision, Stage
from lema.models.weights import Weights, weights
from lema.types import UserError

# Weights in 4-bit NF4 with double quantisation take 4.127 bits a parameter (QLoRA, arXiv 2305.14314, section 3).
BYTES_NF4, BYTES_BF16 = 4.127 / 8, 2.0
CPU_PARAMETERS = 500_000_000  # up to here a CPU is slow but possible; ours


def check_runs_dir(folder: Path) -> None:
    """The runs folder exists and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"runs_dir={folder}: cannot be written ({reason}); choose a folder with runs_dir=") from None


def check(cell: Cell, stages: set[Stage]) -> None:
    """Raise one `UserError` naming everything that these stages lack, each with its remedy."""
    if missing := list(_missing(cell, stages)):
        command = f"backbone={cell.config.backbone.name} task={cell.config.task.name}"
        raise UserError("\n  - ".join([f"{command} cannot start; missing:", *missing]))


def _missing(cell: Cell, stages: set[Stage]) -> Iterator[str]:
    config, task, models = cell.config, cell.config.task, {}
    for key, dataset in (("dataset", task.dataset), ("train_dataset", task.train_dataset)):
        if Stage.data in stages and dataset and dataset.path is None:
            yield from _unreachable("dataset", dataset.hub_id, dataset.revision, f"task.{key}.path")
    if Stage.mix in stages and task.trained_dataset and task.trained_dataset.solution is None:
        without = f"{task.name} has no reference solutions, so mix={config.mix.name} would have no CoT examples"
        yield f"rationales: {without}; add some to the training rows and name their field, task.dataset.solution=FIELD"
    if Stage.sample in stages and config.sampler.model:
        models["sampler.model"] = (config.sampler.model, BYTES_BF16)
        yield from _unsupported("sampler.model", config.sampler.model)
    if not cell.builds_base and stages - {Stage.data, Stage.correct}:
        width = BYTES_NF4 if config.train.method is Method.qlora else BYTES_BF16
        models["backbone"] = (config.backbone, width)
    for name, (model, width) in models.items():
        source = weights(model)
        if not Path(source.location).is_dir():
            yield from _unreachable("model", source.location, source.revision, f"{name}.path")
        elif not (Path(source.location) / "config.json").is_file():
            yield f"model: {name}.path={source.location} holds no config.json: choose a model in Hugging Face format"
        yield from _too_large(name, source, model.parameters, width)
    if stages & {Stage.sample, Stage.train, Stage.evaluate}:
        yield from _unsupported("backbone", config.backbone)
    if stages & {Stage.train, Stage.evaluate} and not find_spec("bitsandbytes"):
        if config.train.method is Method.qlora:
            yield "package: train.method=qlora needs bitsandbytes: pip install bitsandbytes, or train=lora"
        if config.train.optimizer.startswith("paged"):
            setting, other = f"train.optimizer={config.train.optimizer}", "train.optimizer=adamw_torch"
            yield f"package: {setting} needs bitsandbytes: pip install bitsandbytes, or {other}"
    if Stage.correct in stages and config.corrector.method is CorrectionMethod.api:
        if not os.environ.get("OPENAI_API_KEY"):
            free = "or correct from the reference solutions with corrector=reference"
            yield f"key: corrector=gpt4 sends requests; set OPENAI_API_KEY (any text for a local server), {free}"
        if config.corrector.budget_usd is None:
            free = "or use corrector=reference"
            yield f"budget: nothing is sent without a limit in dollars; set one, corrector.budget_usd=20, {free}"


def _too_large(name: str, source: Weights, parameters: int | None, width: float) -> Iterator[str]:
    """Weights, of `width` bytes a parameter, need room: large ones on a CUDA GPU, small ones at least in memory."""
    if Path(source.location).is_dir():  # two bytes of weights each, as they are published
        folder = Path(source.location)
        files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
        parameters = int(sum(file.stat().st_size for file in files) / BYTES_BF16)
    if not parameters:
        return
    import torch

    on_gpu = torch.cuda.is_available()
    need, have = parameters * width, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if on_gpu:
        have = torch.cuda.get_device_properties(0).total_memory
    if need > have or not (on_gpu or parameters <= CPU_PARAMETERS):
        size = f"{source.location} has {parameters / 1e9:.1f} billion parameters, {need / 1e9:.0f} GB of weights"
        found = f"a GPU of {have / 1e9:.0f} GB" if on_gpu else f"no CUDA GPU, and {have / 1e9:.0f} GB of memory"
        yield f"GPU: {size}, and this machine has {found}: run on a larger one, or choose a smaller {name}"


def _unsupported(name: str, model: ModelConfig) -> Iterator[str]:
    """What a model's attention and precision need of the packages and the GPU, and do not find."""
    setting = f"{name}.attention={model.attention}"
    flash = model.attention in (Attention.flash_attention_2, Attention.varlen)
    if model.attention is Attention.flash_attention_2 and not find_spec("flash_attn"):
        install = "pip install flash-attn --no-build-isolation"
        yield f"package: {setting} needs flash-attn: {install}, or {name}.attention=auto"
    if flash and model.precision is Precision.fp32:
        yield f"precision: {setting} computes in 16 bits: {name}.precision=bf16, or {name}.attention=sdpa"
    if flash or model.precision is Precision.bf16:
        import torch

        if not torch.cuda.is_available():
            if flash:
                yield f"GPU: {setting} needs a CUDA GPU, and this machine has none: {name}.attention=auto"
        elif model.precision is Precision.bf16:
            yield from _without_bf16(name, torch.cuda.get_device_capability())


def _without_bf16(name: str, capability: tuple[int, int]) -> Iterator[str]:
    """CUDA cards compute in bfloat16 from compute capability 8.0 (Ampere) on; older ones only emulate it."""
    if capability < (8, 0):
        card = f"this GPU has compute capability {capability[0]}.{capability[1]}, bf16 needs 8.0 (an A100 or newer)"
        yield f"precision: {name}.precision=bf16, and {card}: {name}.precision=fp32"


def _unreachable(kind: str, hub_id: str, revision: str | None, path: str) -> Iterator[str]:
    """Why the Hub would not give this, if it would not; what is in the local cache needs no Hub."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, snapshot_download

    try:
        with suppress(errors.LocalEntryNotFoundError):
            snapshot_download(hub_id, repo_type=kind, revision=revision, local_files_only=True)
            return
        # A file, not the repository's page: the page of gated weights is public.
        file = "config.json" if kind == "model" else "README.md"
        get_hf_file_metadata(hf_hub_url(hub_id, file, repo_type=kind, revision=revision))
        return
    except errors.HFValidationError:
        why = "is neither a folder nor the id of a repository on the Hub: correct it"
    except errors.OfflineModeIsEnabled:
        why = "is not in the cache and HF_HUB_OFFLINE is set: unset it"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        why = f"is not on the Hub (HTTP {status}): check the id and the revision"
        if status in (401, 403):
            licence = "accept its licence on its page and run hf auth login (or set HF_TOKEN)"
            why = f"is refused by the Hub (HTTP {status}): {licence}"
    except errors.HTTPError as error:  # pyright: ignore[reportPrivateImportUsage] # of the Hub's own client
        why = f"cannot be reached ({error}): check the network"
    yield f"{kind}: {hub_id}{f' at {revision[:8]}' if revision else ''} {why}, or {path}=FOLDER"
