"""What W&B refuses, in one line: its settings, before anything is made, and a run, when it starts.

W&B's own words are shown on one line, without secrets and without control characters.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lema.config import Config
from lema.privacy import secrets, shown

_MAX_WORDS = 300
# (pattern of an error's words, what happened, the remedy); the first that matches counts.
_KINDS = [
    (r"\b(?:HTTP|error) (?:429|5\d\d)\b", "W&B's server fails", "it may be well again later"),
    (
        r"\b(?:HTTP|error) 4\d\d\b|api.?key|permission|denied|log ?in|not found|\bdeleted\b",
        "W&B refused the run",
        "check the login (wandb login --relogin), WANDB_ENTITY and tracker.project",
    ),
    (
        r"dial|connect|deadline|time[d -]*out|no such host|\bEOF\b|certificate|\btls\b|proxy",
        "W&B cannot be reached",
        "check the network and WANDB_BASE_URL",
    ),
]
# wandb's own process only logs this when a part of a run has not arrived or is not on the disk.
_LOST = r"filestream: fatal error|sender: failed to log artifact|file transfer: upload: failed|writer: failed to save"
_SETTINGS = "correct tracker.project or the WANDB_ variable of that name, or set tracker=none"


def settings(config: Config) -> Iterator[str]:
    """The tracker's settings that W&B would refuse: `tracker: …`, with the remedy. No server is asked."""
    if not config.tracker.project:
        yield "tracker: tracker.project is empty, and W&B files runs by it: name one, or set tracker=none"
        return
    try:
        import wandb
    except Exception as error:  # a broken package raises anything
        yield f"tracker: the package wandb cannot be imported ({words(error)}): pip install wandb, or set tracker=none"
        return
    for name, value in os.environ.items():
        held = [where for secret, where in secrets().items() if secret in value and not where.endswith(f" {name}")]
        if name.startswith("WANDB_") and name != "WANDB_API_KEY" and held:
            yield f"tracker: {name} holds the secret of {held[0]}, and W&B keeps it with the run: {_SETTINGS}"
            return
    try:
        found = wandb.Settings(project=config.tracker.project, run_group=config.tracker.group)
        found.update_from_env_vars(dict(os.environ))
    except Exception as error:  # wandb's and pydantic's are of many kinds
        yield f"tracker: W&B refuses its settings ({words(error)}): {_SETTINGS}"


def happened(error: Exception) -> str:
    """Why a run did not start: `W&B cannot be reached (its words): the remedy`."""
    text = words(error)
    for pattern, what, remedy in _KINDS:
        if re.search(pattern, text, re.IGNORECASE):
            return f"{what} ({text}): {remedy}"
    return f"W&B started no run ({text}): mend that, or set tracker=none"


def lost(run: Path) -> Exception | None:
    """The part of a finished run that W&B has lost, by wandb's own log in the run's folder; None when it has all."""
    log = run / "logs" / "debug-internal.log"
    text = log.read_text("utf-8", "replace") if log.is_file() else ""
    found = re.search(rf'"msg":("(?:{_LOST})(?:[^"\\]|\\.)*")', text)
    return RuntimeError(json.loads(found[1], strict=False)) if found else None


def words(error: Exception) -> str:
    """An error's own words on one line."""
    errors = getattr(error, "errors", None)
    if callable(errors):  # pydantic's text repeats the value, which may be a key
        found = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in errors())  # pyright: ignore
    else:
        found = str(error) or type(error).__name__
    return shown(" ".join(found.split()))[:_MAX_WORDS]
