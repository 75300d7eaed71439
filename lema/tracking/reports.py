"""A report at W&B: our tables and words, and W&B's live panels of exactly the runs that they are about.

Making it again updates it. It exists only at W&B's server, so nothing of it can be written offline.
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import DAMAGED, read, write_json
from lema.tracking import refusals, service
from lema.types import UserError

log = logging.getLogger(__name__)

_TIMEOUT = 20  # seconds, of each request
_MAX_TITLE = 128  # W&B's limit
_HEIGHT = 8  # of a panel, in W&B's grid of 24 columns


@dataclass(frozen=True)
class Task:
    """The part of a task: Markdown sections, and the W&B ids of its runs."""

    name: str
    sections: list[tuple[str, str]]  # heading, Markdown
    trained: list[str]  # runs with a curve
    evaluated: list[str]  # runs with a score
    metrics: list[str]  # what they call it: "evaluate/accuracy", or of a further test "svamp_evaluate/accuracy"


@dataclass(frozen=True)
class Content:
    """A whole report."""

    title: str
    tasks: list[Task]
    closing: str  # Markdown


def publish_report(content: Content, project: str, state: Path) -> str:
    """Make the report, or update the one that `state` names; returns its address. `UserError` without a server."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in ("online", "shared", "run"):
        raise UserError(f"do=wandb_report: WANDB_MODE={mode}, and a report is made at W&B's server: unset it")
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb

        if not wandb.login(prompt=False, verify=False):
            raise UserError("do=wandb_report: not logged in to W&B: run wandb login, or set WANDB_API_KEY")
        return _published(content, project, state)
    except UserError:
        raise
    except Exception as error:  # the client and the server raise many kinds
        where, why = os.environ.get("WANDB_BASE_URL", "W&B"), refusals.words(error)
        remedy = "check the network, the login (wandb login --relogin) and WANDB_BASE_URL, then again"
        raise UserError(f"do=wandb_report: {where} did not take it ({why}): {remedy}") from None
    finally:
        service.end()


def _published(content: Content, project: str, state: Path) -> str:
    import wandb
    import wandb_workspaces.reports.v2 as workspaces  # slow to import

    api = wandb.Api(timeout=_TIMEOUT)
    wr: Any = workspaces  # whose types do not name all that it has
    entity = os.environ.get("WANDB_ENTITY") or api.default_entity
    if not entity:
        raise UserError("do=wandb_report: W&B names no entity for this login: set WANDB_ENTITY")
    asked = {run for task in content.tasks for run in (*task.trained, *task.evaluated)}
    try:
        runs = api.runs(f"{entity}/{project}", {"name": {"$in": sorted(asked)}}, per_page=500)
        missing = len(asked.difference(run.id for run in runs))
    except ValueError as error:
        if "Could not find project" not in str(error):
            raise
        missing = len(asked)
    lacking = f"{missing} of {len(asked)} runs are not at W&B ({entity}/{project})"
    lacking += ": upload with wandb sync what was logged offline, then again"
    if missing == len(asked):
        raise UserError(f"do=wandb_report: {lacking}")
    if missing:
        log.warning("%-16s %s", "W&B report", lacking)
    report = wr.Report(project=project, entity=entity, title=content.title[:_MAX_TITLE], width="fluid")
    blocks = [wr.MarkdownBlock(f"**{missing} of the runs below are not at W&B.**")] if missing else []
    for task in content.tasks:
        blocks.append(wr.H1(task.name))
        for heading, text in task.sections:
            blocks += [wr.H2(heading), wr.MarkdownBlock(text)]
        blocks += [wr.H2(f"{task.name}: runs"), *_panels(wr, task, project, entity)]
    report.blocks = [*blocks, wr.MarkdownBlock(content.closing)] if content.closing else blocks
    before = _read(state)
    if before.get("entity") == entity and before.get("project") == project and _exists(api, before["id"]):
        report.id = before["id"]
    report.save()
    write_json(state, {"id": report.id, "url": report.url, "entity": entity, "project": project})
    return report.url


def _panels(wr: Any, task: Task, project: str, entity: str) -> list[Any]:
    """Accuracy by backbone and arm, the curves, and the comparer of runs, each over the runs of the task."""
    layout = wr.Layout(x=0, y=0, w=24, h=_HEIGHT)

    def runs(name: str, ids: Sequence[str], **options: Any) -> Any:
        # `in`: the report's own editor drops an equality.
        return wr.Runset(entity=entity, project=project, name=name, filters=f"ID in {list(ids)}", **options)

    arms = ["config.backbone.name", "config.mix.name"]
    by_arm = runs("evaluations by backbone and arm", task.evaluated, groupby=arms)
    accuracy = wr.BarPlot(
        title=f"{task.name}: accuracy (mean over seeds)",
        metrics=task.metrics,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_bars_to_show=100,
        layout=layout,
    )
    curves = wr.LinePlot(
        title=f"{task.name}: training loss",
        x="train/step",
        y=["train/loss"],
        groupby="config.mix.name",
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        layout=layout,
    )
    grids = [wr.PanelGrid(runsets=[by_arm], panels=[accuracy])] if task.evaluated else []
    if task.trained:
        grids.append(wr.PanelGrid(runsets=[runs("trainings", task.trained)], panels=[curves]))
    if task.evaluated:
        comparer = wr.RunComparer(diff_only="split", layout=layout)
        grids.append(wr.PanelGrid(runsets=[runs("evaluations", task.evaluated)], panels=[comparer]))
    return grids


def _read(state: Path) -> dict[str, str]:
    try:
        found = json.loads(read(state))
        return found if isinstance(found, dict) and "id" in found else {}
    except (OSError, *DAMAGED):
        return {}


def _exists(api: Any, report: str) -> bool:
    """Whether the report is still there; a deleted one is made anew, with another address."""
    from wandb_workspaces.reports.v2 import gql, interface

    client: Any = interface
    try:
        found = client.execute_graphql(api, gql.view_report, {"reportId": report}).get("view")
    except Exception as error:  # of many kinds, one of which says that there is no such report
        if not re.search("find|found|exist|deleted", str(error), re.IGNORECASE):
            raise
        found = None
    if not found:
        log.warning("%-16s the earlier one is not there any more; this is another", "W&B report")
    return bool(found)
