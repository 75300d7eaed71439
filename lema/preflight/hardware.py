"""What models need of this machine: memory, disk, packages, a GPU that computes in their precision."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lema.config import Attention, BackboneConfig, Config, Method, ModelConfig, Precision, TrainConfig
from lema.models.weights import NF4_BYTES, Weights, weights

BYTES = {Precision.bf16: 2.0, Precision.fp32: 4.0}  # a parameter
_OTHER_SIZE = 0.1  # from which share of difference on a model is another one, not one with a few more tokens
_CPU_PARAMETERS = 500_000_000  # up to here a CPU is slow but possible; ours


@dataclass(frozen=True)
class MemoryNeed:
    """One way to hold a model in memory: its form, its bytes a parameter, and the setting that avoids it."""

    form: str
    width: float
    remedy: str | None = None


def held(config: Config, stages: set[str], several: bool) -> list[MemoryNeed]:
    """The ways in which these stages hold the backbone, one for each size in bytes: the first one's remedy is shown.

    What a training holds beside weights, or on each of `several` GPUs, is `lema.models.layout`'s.
    """
    whole, vllm = BYTES[config.backbone.precision], config.engine.name == "vllm"
    served, wider = whole / shares(config), "a larger engine.tensor_parallel" if vllm else None
    asked, four_bit, forms = stages & {"select", "evaluate"}, config.train.method is Method.qlora, []
    trains = "train" in stages and (four_bit or not several)  # else `lema.models.layout` says what fits
    if trains or (asked and not vllm):
        forms.append(MemoryNeed("of weights", NF4_BYTES if four_bit else whole))
    if asked and vllm:  # which serves 16 bits, also of the base that qlora trains on
        forms.append(MemoryNeed("of weights to serve", served, wider))
    if "sample" in stages and any(each.is_own for each in config.sampler.models.values()):
        forms.append(MemoryNeed("of weights to sample with", served, wider))
    if {"merge", "evaluate"} <= stages and not vllm:  # a merge itself takes one block of it at a time
        forms.append(MemoryNeed("of merged weights", whole, "train.merge=null"))
    held: dict[float, MemoryNeed] = {}
    for each in forms:
        held.setdefault(each.width, each)
    return list(held.values())


def shares(config: Config) -> int:
    """On how many GPUs a model lies that answers."""
    return config.engine.tensor_parallel if config.engine.name == "vllm" else 1


def parameters(model: ModelConfig) -> int:
    """The number that the files' own headers count, else of a published model its config's; 0 when it is not known."""
    return weights(model).parameters or (0 if model.path else model.parameters or 0)


def misnamed(name: str, model: ModelConfig, source: Weights) -> Iterator[str]:
    """Weights of another size than the published model has whose name they would bear in every table."""
    published, found = model.parameters, source.parameters
    if published and found and abs(found - published) > _OTHER_SIZE * published:
        sizes = f"has {found:,} parameters, and {model.name} has {published:,}"
        own = re.sub(r"[^A-Za-z0-9_.-]", "-", Path(source.location).name)[:40] or "NAME"
        unsized = f"{name}.size=own" if isinstance(model, BackboneConfig) and model.sizes else f"{name}.parameters=null"
        remedy = f"give it a name of its own, {name}.name={own} {unsized}"
        yield f"model: {source.location} {sizes}, so it is another model: {remedy}"


def gpus() -> int:
    """How many CUDA GPUs are visible."""
    import torch

    return torch.cuda.device_count()


def memory() -> tuple[bool, int]:
    """Whether there is a CUDA GPU, and its memory in bytes, else the machine's."""
    import torch

    if torch.cuda.is_available():
        return True, torch.cuda.get_device_properties(0).total_memory
    return False, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def too_large(
    name: str, location: str, parameters: int, held: list[MemoryNeed], on_gpu: bool, memory: int
) -> Iterator[str]:
    """A model needs room in each form: a large one on a CUDA GPU, a small one at least in the machine's memory."""
    possible = on_gpu or parameters <= _CPU_PARAMETERS
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


def without_bitsandbytes(train: TrainConfig) -> Iterator[str]:
    """What of a training needs that package, where it is not installed."""
    if find_spec("bitsandbytes"):
        return
    if train.method is Method.qlora:
        yield "package: train.method=qlora needs bitsandbytes: pip install bitsandbytes, or train=lora"
    if not train.optimizer.startswith("adamw_torch"):
        setting, other = f"train.optimizer={train.optimizer}", "train.optimizer=adamw_torch"
        yield f"package: {setting} needs bitsandbytes: pip install bitsandbytes, or {other}"


def too_few_gpus(processes: int) -> Iterator[str]:
    """A rank of a training takes a GPU of its own, where there are any."""
    if 0 < gpus() < processes:
        yield f"GPU: train.processes={processes}, and {gpus()} are visible: null takes all of them"


def too_little_disk(root: Path, need: float) -> Iterator[str]:
    """The merged model, of `need` bytes, is written below the runs folder."""
    free = shutil.disk_usage(root).free
    if need > free:
        short = f"the merged model takes {need / 1e9:.0f} GB, and runs_dir={root} has {free / 1e9:.0f} GB free"
        yield f"disk: {short}: free some, choose another folder with runs_dir=, or train.merge=null"


def unsupported(name: str, model: ModelConfig) -> Iterator[str]:
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
            yield from without_bf16(name, torch.cuda.get_device_capability())


def without_bf16(name: str, capability: tuple[int, int]) -> Iterator[str]:
    """CUDA cards compute in bfloat16 from compute capability 8.0 (Ampere) on; older ones only emulate it."""
    if capability < (8, 0):
        card = f"this GPU has compute capability {capability[0]}.{capability[1]}, bf16 needs 8.0 (an A100 or newer)"
        yield f"precision: {name}.precision=bf16, and {card}: {name}.precision=fp32"
