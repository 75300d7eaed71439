"""What must be there before anything is downloaded, sent or paid: all that is missing, in one message.

Only what the steps to be made need is asked for: a cached cell needs neither GPU nor key.
"""

import importlib.util
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from lema.cell import Cell
from lema.config import Attention, Config, CorrectionMethod, Method, Stage
from lema.models.weights import Weights, weights
from lema.types import UserError

# Weights in 4-bit NF4 with double quantisation take 4.127 bits a parameter (QLoRA, arXiv 2305.14314, section 3).
BYTES_NF4 = 4.127 / 8
BYTES_BF16 = 2.0
# Below this a CPU is slow but possible; ours.
CPU_PARAMETERS = 500_000_000
HUB_SECONDS = 10.0


def check_runs_dir(folder: Path) -> None:
    """The runs folder exists and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"runs_dir={folder}: cannot be written ({reason}); choose a folder with runs_dir=") from None


def check(cell: Cell, stages: set[Stage]) -> None:
    """Raise one `UserError` naming everything that these stages lack, each with its remedy."""
    config, missing, models = cell.config, [], _models(cell, stages)
    if Stage.data in stages and config.task.dataset and config.task.dataset.path is None:
        dataset = config.task.dataset
        missing += _unreachable("dataset", dataset.hub_id, dataset.revision, "task.dataset.path=FOLDER")
    for name, source in models.items():
        if not source.is_local:
            missing += _unreachable("model", source.location, source.revision, f"{name}.path=FOLDER")
    missing += _gpu(config, models)
    if Stage.correct in stages and config.corrector.method is CorrectionMethod.api:
        missing += _paid(config)
    if missing:
        command = f"backbone={config.backbone.name} task={config.task.name}"
        raise UserError("\n".join([f"{command} cannot start; missing:", *(f"  - {line}" for line in missing)]))


def _models(cell: Cell, stages: set[Stage]) -> dict[str, Weights]:
    """The models that these stages load, by the config key that names them; a base built here is not one."""
    models = {}
    if Stage.sample in stages and cell.config.sampler.model is not None:
        models["sampler.model"] = weights(cell.config.sampler.model)
    if not cell.builds_base and stages - {Stage.data, Stage.correct}:
        models["backbone"] = weights(cell.config.backbone)
    return models


def _gpu(config: Config, models: dict[str, Weights]) -> list[str]:
    """Large models need a CUDA GPU with room for their weights; flash-attention needs its package."""
    lines = []
    for name, source in models.items():
        model = config.backbone if name == "backbone" else config.sampler.model
        count = _parameters(source, model.parameters if model else None)
        if count <= CPU_PARAMETERS:
            continue
        import torch

        four_bit = name == "backbone" and config.train.method is Method.qlora
        need = count * (BYTES_NF4 if four_bit else BYTES_BF16) / 1e9
        have = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 0.0
        if need > have:
            machine = f"a GPU of {have:.0f} GB" if have else "no CUDA GPU"
            lines.append(
                f"GPU: {source.location} has {count / 1e9:.1f} billion parameters, {need:.0f} GB of weights, and this "
                f"machine has {machine}: run on a larger one, or choose a smaller {name}"
            )
    if config.backbone.attention is Attention.flash_attention_2 and not importlib.util.find_spec("flash_attn"):
        install = "pip install flash-attn --no-build-isolation"
        lines.append(f"package: backbone.attention=flash_attention_2 needs flash-attn: {install}, or attention=auto")
    return lines


def _parameters(source: Weights, stated: int | None) -> int:
    """How many parameters a model has: as stated for its Hub id; of a folder, two bytes of weights each."""
    if not source.is_local:
        return stated or 0
    files = [file for kind in ("safetensors", "bin") for file in Path(source.location).glob(f"*.{kind}")]
    return int(sum(file.stat().st_size for file in files) / BYTES_BF16)


def _paid(config: Config) -> list[str]:
    lines = []
    if not os.environ.get("OPENAI_API_KEY"):
        lines.append(
            "key: corrector=gpt4 sends requests; set OPENAI_API_KEY (any text for a local server), "
            "or correct from the reference solutions with corrector=reference"
        )
    if config.corrector.budget_usd is None:
        lines.append(
            "budget: nothing is sent without a limit in dollars; set one, corrector.budget_usd=20, "
            "or use corrector=reference"
        )
    return lines


def _unreachable(kind: str, hub_id: str, revision: str | None, remedy: str) -> list[str]:
    """Why the Hub would not give this, if it would not; what is in the local cache needs no Hub."""
    from huggingface_hub import constants, get_token, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    what = f"{kind}: {hub_id}" + (f" at {revision[:8]}" if revision else "")
    try:
        snapshot_download(hub_id, repo_type=kind, revision=revision, local_files_only=True)
        return []
    except LocalEntryNotFoundError:
        if constants.is_offline_mode():
            return [f"{what} is not in the cache and HF_HUB_OFFLINE is set: unset it, or {remedy}"]
    # A file, not the repository's page: the page of gated weights is public.
    repository, file = (hub_id, "config.json") if kind == "model" else (f"datasets/{hub_id}", "README.md")
    token = get_token()
    request = urllib.request.Request(
        f"{constants.ENDPOINT}/{repository}/resolve/{revision or 'main'}/{file}",
        headers={"Authorization": f"Bearer {token}"} if token else {},
        method="HEAD",
    )
    try:
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return [
                f"{what} is refused by the Hub (HTTP {error.code}): accept its licence on its page and run "
                f"hf auth login (or set HF_TOKEN), or {remedy}"
            ]
        return [f"{what} is not on the Hub (HTTP {error.code}): check the id and the revision, or {remedy}"]
    except OSError as error:
        return [f"{what} cannot be reached ({error}): check the network, or {remedy}"]
    return []
