"""A run's model in the layout of the Hugging Face Hub, with a model card.

An artifact never changes, but its scores come later. So the run's own folder has `hub/adapter`, `hub/merged` or (all
weights trained) `hub/model`: links to the files of the artifact, and a `README.md` that is written again when more is
known. `hf upload me/my-model runs/cells/NAME-KEY/hub/merged` uploads it; no path of this machine is in it.
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lema.artifacts import own_folder, point, write_json, write_text
from lema.cell import Cell
from lema.config import Merge, Method, Selection
from lema.identity import portable

ADAPTER = "adapter_config.json"  # names the base it was loaded from


def write_card(cell: Cell) -> None:
    """Write the folders of the selected checkpoint: the adapter and the merged model, or the whole model."""
    step = cell.artifacts["select"].summary["step"]
    checkpoint = cell.artifacts["train"].path / "checkpoints" / f"step-{step}"
    whole = cell.config.train.method is Method.full
    _write(cell, checkpoint, "model" if whole else "adapter")
    if "merge" in cell.artifacts:
        _write(cell, cell.artifacts["merge"].path / "merged", "merged")


def _write(cell: Cell, source: Path, kind: str) -> None:
    folder = own_folder(own_folder(cell.folder / "hub") / kind)
    for file in sorted(source.iterdir()):
        if file.name == ADAPTER:
            base = {"base_model_name_or_path": _base(cell), "revision": cell.base.revision}
            write_json(folder / ADAPTER, json.loads(file.read_text(encoding="utf-8")) | base)
        elif file.name != "README.md":
            point(folder / file.name, file)
    write_text(folder / "README.md", _card(cell, kind))


def _card(cell: Cell, kind: str) -> str:
    """The model card, https://huggingface.co/docs/hub/model-cards: YAML front matter, then Markdown."""
    config, base = cell.config, cell.base
    on_hub = not Path(base.location).is_dir()
    revision = f"at revision `{base.revision or 'main'}`" if on_hub else f"with contents `{base.digest}`"
    front: dict[str, Any] = {"base_model": base.location} if on_hub else {}
    front |= {"library_name": "peft" if kind == "adapter" else "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["lema", config.train.method.value, config.task.trained.name]
    what = {
        "adapter": "A LoRA adapter, to be loaded over its base",
        "merged": "A whole model, a LoRA adapter merged into its base",
        "model": "A whole model",
    }
    step = cell.artifacts["select"].summary["step"]
    inputs = {"problems": "data", "mix": "mix", "training": "train"}
    made = [f"- {label}: `{cell.artifacts[name].digest}`" for label, name in inputs.items()]
    merging = []
    if kind == "merged":
        onto, found = "the weights that it was trained on", cell.artifacts["merge"].summary
        if config.train.method is Method.qlora:
            original = config.train.merge is Merge.original
            onto = "the original weights of its base" if original else f"{onto}, NF4 dequantised"
        measured = "It was not compared with the adapter unmerged on its base, as it did not fit on one device."
        if found["prompts"]:
            measured = (
                f"Against the adapter unmerged on its base, on {found['prompts']} prompts: "
                f"{found['equal_outputs']:.1%} of the greedy outputs are equal, and the largest difference of logits "
                f"is {found['largest_logit_difference']:.2g}."
            )
        merging.append(f"## Merging\n\nThe adapter was merged into {onto}. {measured}")
    parts = [
        f"# {cell.name}",
        f"{what[kind]}, `{_base(cell)}` {revision}. Trained with `{config.train.method}` on the mix "
        f"`{config.mix.name}` of {config.task.trained.name}, seed {config.seed}; the checkpoint at step {step}, "
        f"{_chosen(cell)}.",
        "Digests of what it was made from:\n\n" + "\n".join(made),
        *merging,
        _scores(cell),
        f"## Configuration\n\n```yaml\n{_yaml(portable(cell.identity))}```",
    ]
    return f"---\n{_yaml(front)}---\n\n" + "\n\n".join(parts) + "\n"


def _scores(cell: Cell) -> str:
    if "evaluate" not in cell.artifacts:
        return "## Scores\n\nNot evaluated yet."
    scores = [each.summary for name, each in cell.artifacts.items() if name == "evaluate" or name.endswith("_evaluate")]
    columns = "| task | split | problems | accuracy, % | symbolic, % |\n|---|---|--:|--:|--:|"
    rows = "".join(
        f"\n| {score['task']} | {score['split']} | {score['num_problems']} | {100 * score['accuracy']:.1f} | "
        f"{100 * score['accuracy_symbolic']:.1f} |"
        for score in scores
    )
    merged = " of the merged model" if "merge" in cell.artifacts else ""
    words = f"Greedy answers{merged}. Accuracy is by the rules of the paper's code, symbolic by a careful reader's."
    return f"## Scores\n\n{columns}{rows}\n\n{words} The checkpoint is {_chosen(cell)}."


def _chosen(cell: Cell) -> str:
    found = cell.artifacts["select"].summary
    best = f"the best of {len(found['accuracies'])} on the {found['split']} problems"
    if found["selection"] == Selection.paper:
        return f"{best}, which are also those it is scored on, as in the paper: an optimistic number"
    return best if found["selection"] == Selection.dev else "the last"


def _base(cell: Cell) -> str:
    """The base's id on the Hub; the backbone's name where the base is a folder of this machine."""
    location = cell.base.location
    return cell.backbone_label if Path(location).is_dir() else location


def _yaml(value: Any) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(value))
