"""What a W&B server answers when a report is made: beside `wandb_server.py`, which knows runs."""

import json
from collections.abc import Iterator
from typing import Any

from wandb_server import ENTITY, WandbServer

Views = dict[str, dict[str, Any]]


def add_views(server: WandbServer) -> Views:
    """Have a server keep reports; returns them by id, as they were last sent, `spec` read."""
    views: Views = {}

    def upsert(sent: dict[str, Any]) -> dict[str, Any]:
        view = sent.get("id") or f"view{len(views) + 1}"
        views[view] = {**sent, "spec": json.loads(sent["spec"])}
        answer = {"id": view, "type": "runs", "name": sent["name"], "displayName": sent["displayName"]}
        answer |= {"description": sent["description"], "spec": sent["spec"], "updatedAt": "2026-11-26T12:00:00"}
        answer["project"] = {"id": "p-1", "name": sent["projectName"], "entityName": sent["entityName"]}
        return {"upsertView": {"view": answer, "inserted": not sent.get("id")}}

    def runs(sent: dict[str, Any]) -> dict[str, Any]:
        asked = json.loads(sent["filters"])["name"]["$in"]
        here = [run for run in asked if run in server.runs and server.runs[run].project == sent["project"]]
        if not any(run.project == sent["project"] for run in server.runs.values()):
            return {"project": None}
        nodes = [{"node": _run(run), "cursor": run} for run in here]
        page = {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": page}}

    def projects(_: dict[str, Any]) -> dict[str, Any]:
        names = sorted({run.project for run in server.runs.values()})
        facts = {"entityName": ENTITY, "createdAt": "2026-11-26T12:00:00", "isBenchmark": False, "user": None}
        nodes = [{"node": {"id": f"p-{name}", "name": name, **facts}} for name in names]
        return {"models": {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    server.handlers |= {
        "GetDefaultEntity": lambda _: {"viewer": {"id": "user-1", "entity": ENTITY}},
        "ProjectInternalId": lambda _: {"project": {"id": "p-1", "internalId": "1"}},
        "GetProjects": projects,
        "Runs": runs,
        "upsertView": upsert,
        "SpecificReport": lambda sent: {"view": {"id": sent["reportId"]} if sent["reportId"] in views else None},
    }
    return views


def _run(name: str) -> dict[str, Any]:
    """A run as the listing has it, in which only its name is read."""
    nothing = dict.fromkeys(["sweepName", "group", "jobType", "commit", "heartbeatAt", "description", "notes"])
    facts = {"id": name, "name": name, "displayName": name, "state": "finished", "projectId": "1", "tags": []}
    user = {"name": "someone", "username": "someone"}
    return nothing | facts | {"createdAt": "2026-11-26T12:00:00", "readOnly": False, "config": "{}", "user": user}


def found(value: Any, key: str) -> Iterator[Any]:
    """All values of a key, however deep."""
    if isinstance(value, dict):
        yield from ([value[key]] if key in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from found(part, key)
