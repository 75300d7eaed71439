"""What the steps to be made need before anything is downloaded, sent or paid: all that is missing, in one message."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lema import paying
from lema.cell import Cell
from lema.config import (
    Attention,
    Batches,
    Config,
    CotPart,
    Extra,
    Method,
    ModelConfig,
    Precision,
    Selection,
    SourceKind,
    Split,
    Stage,
)
from lema.models.weights import NF4_BYTES, TRAINED_BYTES, Weights, weights
from lema.types import UserError

BYTES = {Precision.bf16: 2.0, Precision.fp32: 4.0}  # a parameter
PUBLISHED_BYTES = 2.0  # a parameter, as the files of most models have it
ANSWERING = {Stage.sample, Stage.select, Stage.merge, Stage.evaluate}  # in which the backbone does
CPU_PARAMETERS = 500_000_000  # up to here a CPU is slow but possible; ours


@dataclass(frozen=True)
class Held:
    """A model on one device: in what form, its bytes a parameter, and the setting that does without it."""

    form: str
    width: float
    remedy: str | None = None


def check_runs_dir(folder: Path) -> None:
    """The runs folder exists and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"runs_dir={folder}: cannot be written ({reason}); choose a folder with runs_dir=") from None


def check(cell: Cell, stages: set[Stage], overrides: list[str]) -> None:
    """Raise one `UserError` naming everything that these stages lack, each with its remedy."""
    tracker = cell.tracker.missing() if stages else ()
    if missing := [*_missing(cell, stages), *tracker, *paying.missing(cell, stages, overrides)]:
        command = f"backbone={cell.config.backbone.name} task={cell.config.task.name}"
        raise UserError("\n  - ".join([f"{command} cannot start; missing:", *missing]))


def _missing(cell: Cell, stages: set[Stage]) -> Iterator[str]:
    config, task, models = cell.config, cell.config.task, {}
    for key, dataset in (("dataset", task.dataset), ("train_dataset", task.train_dataset)):
        if Stage.data in stages and dataset and dataset.path is None:
            yield from _unreachable("dataset", dataset.hub_id, dataset.revision, f"task.{key}.path")
    yield from _without_dev(config, stages)
    explained = task.trained_dataset is None or task.trained_dataset.solution
    if Stage.mix in stages and config.mix.cot is not CotPart.none and not explained and not config.rationales.requests:
        without = f"{task.name} has no reference solutions, so mix={config.mix.name} would have no CoT examples"
        field = "add some to the training rows and name their field, task.dataset.solution=FIELD"
        yield f"rationales: {without}; have a model write some, rationales=gpt4, or {field}"
    others = config.mix.extra is Extra.other_corrections
    own = [source for source in config.sampler.models.values() if source.kind is SourceKind.backbone]
    if others and not own:
        instead = f"run mix=lema, which trains on them; sampler=self mix=lema takes {config.backbone.name}'s own"
        yield f"mix: sampler={config.sampler.name} makes mistakes that are another model's already: {instead}"
    loaded = {f"sampler.models.{name}.weights": source.weights for name, source in config.sampler.models.items()}
    if others and not cell.builds_base and config.sampler.other:
        loaded["sampler.other.weights"] = config.sampler.other.weights
    models |= {
        name: (model, [Held("of weights", BYTES[model.precision])])
        for name, model in loaded.items()
        if model and Stage.sample in stages
    }
    for name, source in config.sampler.models.items():
        if Stage.sample in stages and source.recorded and not (file := Path(source.recorded).expanduser()).is_file():
            key, why = (
                f"sampler.models.{name}.recorded={source.recorded}",
                "a folder" if file.is_dir() else "no such file",
            )
            yield f"recorded: {key}: {why}; name a file of JSON lines, plain or .gz"
    if Stage.correct in stages and (corrector := config.corrector.weights):
        models["corrector.weights"] = (corrector, [Held("of weights", BYTES[corrector.precision])])
    if not cell.builds_base and stages - {Stage.data, Stage.correct, Stage.rationales}:
        models["backbone"] = (config.backbone, _held(config, stages))
    answers, trains = bool(stages & ANSWERING), Stage.train in stages
    for name, (model, held) in models.items():
        source, of_backbone = weights(model), name == "backbone"
        parameters = _parameters(source) or model.parameters or 0
        lines = [] if of_backbone and not answers and not trains else [*_unsupported(name, model)]
        lines += _unloadable(name, source)
        if parameters and held:
            lines += _too_large(name, source.location, parameters, held, *_memory())
        if of_backbone and Stage.merge in stages:
            lines += _too_little_disk(cell.store.root, parameters * BYTES[model.precision])
        layouts = [config.train.batches is Batches.packed] * (of_backbone and trains)
        layouts += [False] * (answers or not of_backbone)
        yield from lines or _unlike_eager(name, model, source, layouts)
    if cell.builds_base and (answers or trains):
        yield from _unsupported("backbone", config.backbone)
    if stages & {Stage.train, Stage.evaluate} and not find_spec("bitsandbytes"):
        if config.train.method is Method.qlora:
            yield "package: train.method=qlora needs bitsandbytes: pip install bitsandbytes, or train=lora"
        if not config.train.optimizer.startswith("adamw_torch"):
            setting, other = f"train.optimizer={config.train.optimizer}", "train.optimizer=adamw_torch"
            yield f"package: {setting} needs bitsandbytes: pip install bitsandbytes, or {other}"


def _without_dev(config: Config, stages: set[Stage]) -> Iterator[str]:
    """What asks dev questions, when none are held out."""
    train, more = config.train, "or hold questions out with task.num_dev="
    if config.task.num_dev:
        return
    # With epochs alone the number of steps is known only once the mix is made.
    several = train.max_steps is None or train.max_steps > train.save_steps
    if Stage.train in stages and config.selection is Selection.dev and several:
        yield f"dev: selection=dev task.num_dev=0 leaves nothing to choose a checkpoint by: selection=last, {more}"
    if Stage.evaluate in stages and config.evaluation.split is Split.dev:
        yield f"dev: evaluation.split=dev task.num_dev=0 leaves nothing to evaluate on: evaluation.split=test, {more}"


def _held(config: Config, stages: set[Stage]) -> list[Held]:
    """The forms in which these stages hold the backbone; of those of one size the first: its remedy serves all."""
    method, whole = config.train.method, BYTES[config.backbone.precision]
    forms = []
    if stages & {Stage.train, Stage.select, Stage.evaluate}:
        forms.append(Held("of weights", NF4_BYTES if method is Method.qlora else whole))
    if Stage.sample in stages and any(each.kind is SourceKind.backbone for each in config.sampler.models.values()):
        forms.append(Held("of weights to sample with", whole))
    if Stage.train in stages and method is Method.full:
        form, width = "of weights, gradients and moments to train them all", TRAINED_BYTES
        if config.train.optimizer.startswith("paged"):  # the moments, half of it, may lie in the machine's memory
            form, width = "of weights and gradients to train them all", TRAINED_BYTES / 2
        forms.append(Held(form, width, "train=lora"))
    if Stage.merge in stages:
        forms.append(Held("of merged weights", whole, "train.merge=null"))
    held: dict[float, Held] = {}
    for each in forms:
        held.setdefault(each.width, each)
    return list(held.values())


def _parameters(source: Weights) -> int:
    """The number by the size of a local folder's weights; 0 when there are none."""
    folder = Path(source.location)
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return int(sum(file.stat().st_size for file in files) / PUBLISHED_BYTES)


def _memory() -> tuple[bool, int]:
    """Whether there is a CUDA GPU, and its memory in bytes, else the machine's."""
    import torch

    if torch.cuda.is_available():
        return True, torch.cuda.get_device_properties(0).total_memory
    return False, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _too_large(name: str, location: str, parameters: int, held: list[Held], on_gpu: bool, memory: int) -> Iterator[str]:
    """A model needs room in each form: a large one on a CUDA GPU, a small one at least in the machine's memory."""
    possible = on_gpu or parameters <= CPU_PARAMETERS
    lacking = [each for each in held if parameters * each.width > memory or not possible]
    if lacking:
        needs = ", ".join(f"{parameters * each.width / 1e9:.0f} GB {each.form}" for each in lacking)
        found = f"a GPU of {memory / 1e9:.0f} GB" if on_gpu else f"no CUDA GPU, and {memory / 1e9:.0f} GB of memory"
        remedies = [each.remedy for each in lacking if each.remedy]
        if len(remedies) < len(lacking):  # they would not do
            remedies = []
        size = f"{location} has {parameters / 1e9:.1f} billion parameters, {needs}"
        remedy = ", ".join([*remedies, "run on a larger one"])
        yield f"GPU: {size}, and this machine has {found}: {remedy}, or choose a smaller {name}"


def _too_little_disk(root: Path, need: float) -> Iterator[str]:
    """The merged model, of `need` bytes, is written below the runs folder."""
    free = shutil.disk_usage(root).free
    if need > free:
        short = f"the merged model takes {need / 1e9:.0f} GB, and runs_dir={root} has {free / 1e9:.0f} GB free"
        yield f"disk: {short}: free some, choose another folder with runs_dir=, or train.merge=null"


def _unsupported(name: str, model: ModelConfig) -> Iterator[str]:
    """What a model's attention and precision need of the packages and the GPU, and do not find."""
    setting = f"{name}.attention={model.attention}"
    flash = model.attention is Attention.flash_attention_2
    if flash and not find_spec("flash_attn"):
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


def _unloadable(name: str, source: Weights) -> Iterator[str]:
    """Where a model is not."""
    if not Path(source.location).is_dir():
        yield from _unreachable("model", source.location, source.revision, f"{name}.path")
    elif not (Path(source.location) / "config.json").is_file():
        yield f"model: {name}.path={source.location} holds no config.json: choose a model in Hugging Face format"


def _unlike_eager(name: str, model: ModelConfig, source: Weights, layouts: list[bool]) -> Iterator[str]:
    """What a model's architecture asks of attention and its kernel does not compute, on rows packed (True) or not.

    Only the model's small files are read for that; a damaged one is named here too.
    """
    if not layouts:
        return
    from lema.models.generating import own_settings
    from lema.models.huggingface import load_architecture
    from lema.models.kernels import choose

    try:
        own_settings(source)
        architecture = load_architecture(source)
        for packed in layouts:
            choose(model.attention, model.precision, architecture, packed, name)
    except UserError as error:
        yield f"model: {error}"


def _without_bf16(name: str, capability: tuple[int, int]) -> Iterator[str]:
    """CUDA cards compute in bfloat16 from compute capability 8.0 (Ampere) on; older ones only emulate it."""
    if capability < (8, 0):
        card = f"this GPU has compute capability {capability[0]}.{capability[1]}, bf16 needs 8.0 (an A100 or newer)"
        yield f"precision: {name}.precision=bf16, and {card}: {name}.precision=fp32"


def _unreachable(kind: str, hub_id: str, revision: str | None, path: str) -> Iterator[str]:
    """Why the Hub would not give this, if it would not; what is in the local cache needs no Hub."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, snapshot_download

    if Path(hub_id).is_dir():  # which the Hub's own libraries would take for the repository
        yield f"{kind}: {hub_id} is a folder here, not a repository on the Hub: name it {path}={hub_id}"
        return
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
