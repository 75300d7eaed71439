"""The checkpoints of a training: signed once they are whole, pruned, found again, and put where they are chosen from.

A checkpoint counts once its list of contents is written: one cut short by a kill or a full disk, or damaged since, is
made again.
"""

import logging
import shutil
from pathlib import Path

from lema.artifacts import duplicate, fingerprint, keep, kept, own_folder

log = logging.getLogger(__name__)

CONTENTS = "contents.json"  # of a whole checkpoint: a fingerprint of each file
# What resuming needs beside the weights. The rest is a model, or an adapter, in Hugging Face format.
STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin")


def sign(checkpoint: Path) -> None:
    """Write the list of contents, once the files are on disk."""
    files = [file for file in sorted(checkpoint.iterdir()) if file.name != CONTENTS]
    keep(checkpoint / CONTENTS, {file.name: fingerprint(file, sync=True) for file in files})


def prune(folder: Path, newest: int, weights_too: bool) -> None:
    """Of checkpoints older than the so many `newest`, delete what only resuming needs; `weights_too`: delete them."""
    for old in saved(folder)[:-newest]:
        if weights_too:
            shutil.rmtree(old)
        for name in () if weights_too else STATE:
            (old / name).unlink(missing_ok=True)


def saved(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by their steps."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: int(steps[path]))


def newest_whole(folder: Path) -> str | None:
    """The checkpoint to go on from: the newest one with all that resuming needs, and none damaged before it.

    Those behind it are removed: nothing but training again can make them.
    """
    checkpoints, whole = saved(folder), 0
    for number, checkpoint in enumerate(checkpoints, 1):
        contents = kept(checkpoint / CONTENTS) or {}
        files = {name: checkpoint / name for name in contents}
        lacking = {name for name in files if not files[name].is_file() or fingerprint(files[name]) != contents[name]}
        if not contents or lacking - set(STATE):
            break
        whole = whole if lacking else number  # of older ones the weights alone were kept
    for checkpoint in checkpoints[whole:]:
        log.warning("train: %s is cut short or damaged, or follows one that is: it is made again", checkpoint)
        shutil.rmtree(checkpoint)
    if not whole:
        return None
    log.info("train: goes on from %s", checkpoints[whole - 1])
    return str(checkpoints[whole - 1])


def begun(folder: Path, count: int) -> str | None:
    """The checkpoint to go on from; says when another number of ranks made it."""
    newest, before = newest_whole(folder), kept(folder / "ranks.json")
    if newest and before not in (None, count):
        went_on = f"goes on with {count} rank{'s' * (count > 1)} what {before} began"
        log.info("train: %s: sums are rounded in another order, so losses may differ in their last digits", went_on)
    keep(folder / "ranks.json", count)
    return newest


def collect(folder: Path, target: Path, every: int | None) -> list[int]:
    """Put the weights of the last step, and of each `every`-th, below `target` as `step-N/`; returns the steps N."""
    steps, checkpoints = [], saved(folder)
    for checkpoint in checkpoints:
        step = int(checkpoint.name.split("-")[1])
        if checkpoint != checkpoints[-1] and (every is None or step % every):
            continue  # saved to go on from
        # Links, not moves: a kill here must leave the checkpoints whole. PEFT's README says nothing of the experiment.
        for file in (file for file in checkpoint.iterdir() if file.name not in (*STATE, CONTENTS, "README.md")):
            duplicate(file, own_folder(target / f"step-{step}") / file.name)
        steps.append(step)
    return steps
