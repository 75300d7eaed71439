"""The report at W&B: of exactly these runs, the same one when made again, and in words where there is no server."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb_server import ENTITY, KEY, Run, WandbServer
from wandb_views import Views, add_views, found

from lema.tracking import service
from lema.tracking.reports import Content, Task, publish_report
from lema.types import UserError

TABLE = "| backbone | lema |\n| --- | --: |\n| tiny | 84.9 |"
METRICS = ["evaluate/accuracy"]
CONTENT = Content(
    "main_table",
    [
        Task("gsm8k", [("1,319 problems", TABLE)], ["train-a", "train-b"], ["evaluate-a", "evaluate-b"], METRICS),
        Task("math", [("5,000", TABLE), ("what follows", "- one seed")], ["train-c"], ["evaluate-c"], METRICS),
    ],
    "## Not compared\n\n- a run: it failed",
)
RUNS = [run for task in CONTENT.tasks for run in (*task.trained, *task.evaluated)]


@pytest.fixture
def server(server: WandbServer, wandb_in: Callable[..., None], tmp_path: Path) -> WandbServer:
    wandb_in(**server.environment, WANDB_DIR=str(tmp_path))
    server.runs |= {name: Run(name, "lema") for name in RUNS}
    return server


@pytest.fixture
def views(server: WandbServer) -> Views:
    return add_views(server)


def test_the_report_is_of_exactly_these_runs(views: Views, tmp_path: Path) -> None:
    url = publish_report(CONTENT, "lema", tmp_path / "state.json")
    assert url.endswith(f"/{ENTITY}/lema/reports/main_table--view1")
    [sent] = views.values()
    assert (sent["displayName"], sent["projectName"], sent["entityName"]) == ("main_table", "lema", ENTITY)
    sets = list(found(sent["spec"], "runSets"))
    leaves = [json.dumps(list(found(each, "filters"))) for grid in sets for each in grid]
    asked = [["evaluate-a", "evaluate-b"], ["train-a", "train-b"], ["evaluate-a", "evaluate-b"]]
    asked += [["evaluate-c"], ["train-c"], ["evaluate-c"]]
    assert len(leaves) == len(asked)
    for leaf, ids in zip(leaves, asked, strict=True):
        assert json.dumps(ids) in leaf
        assert '"IN"' in leaf
        assert '"name": "name"' in leaf  # what the server calls a run's id
        assert not [run for run in RUNS if run not in ids and f'"{run}"' in leaf]


def test_tables_words_and_panels_are_in_it(views: Views, tmp_path: Path) -> None:
    publish_report(CONTENT, "lema", tmp_path / "state.json")
    spec = views["view1"]["spec"]
    markdown = [block["content"] for block in spec["blocks"] if block["type"] == "markdown-block"]
    assert markdown == [TABLE, TABLE, "- one seed", "## Not compared\n\n- a run: it failed"]
    kinds = [
        panel for panel in found(spec, "viewType") if panel in ("Bar Chart", "Run History Line Plot", "Run Comparer")
    ]
    assert kinds == ["Bar Chart", "Run History Line Plot", "Run Comparer"] * 2
    assert ["backbone.value.name", "mix.value.name"] in [
        [key["name"] for key in each] for each in found(spec, "grouping") if each
    ]
    assert ["evaluate/accuracy"] in list(found(spec, "metrics"))
    assert "train/step" in list(found(spec, "xAxis"))


def test_made_again_it_is_the_same_report_updated(views: Views, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = publish_report(CONTENT, "lema", state)
    other = Content("main_table", CONTENT.tasks[:1], "")
    assert publish_report(other, "lema", state) == first
    assert list(views) == ["view1"]
    assert "math" not in json.dumps(views["view1"]["spec"])
    assert json.loads(state.read_text()) == {"id": "view1", "url": first, "entity": ENTITY, "project": "lema"}


@pytest.mark.parametrize("damage", ["deleted", "not found", "other project", "unreadable"])
def test_a_report_that_is_gone_is_made_anew(
    server: WandbServer, views: Views, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state.json"
    publish_report(CONTENT, "lema", state)
    if damage == "deleted":
        views["other"] = views.pop("view1")
    elif damage == "not found":
        server.handlers["SpecificReport"] = lambda _: {}["could not find view"]
    elif damage == "unreadable":
        state.write_text("{")
    else:
        for run in server.runs.values():
            run.project = "mine"
    url = publish_report(CONTENT, "mine" if damage == "other project" else "lema", state)
    assert url.endswith("--view2")
    assert ("the earlier one is not there any more" in caplog.text) == (damage in ("deleted", "not found"))


def test_runs_that_are_not_there_are_counted_in_words(
    server: WandbServer, views: Views, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del server.runs["train-c"]
    publish_report(CONTENT, "lema", tmp_path / "state.json")
    assert f"1 of 6 runs are not at W&B ({ENTITY}/lema): upload with wandb sync what was logged offline" in caplog.text
    assert "**1 of the runs below are not at W&B.**" in json.dumps(views["view1"]["spec"])
    server.runs.clear()
    with pytest.raises(UserError, match=r"6 of 6 runs are not at W&B .* upload with wandb sync"):
        publish_report(CONTENT, "lema", tmp_path / "state.json")


@pytest.mark.slow
def test_without_a_server_there_is_one_line(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.close()
    start = time.monotonic()
    with pytest.raises(UserError, match=r"did not take it .*: check the network, .* and WANDB_BASE_URL") as said:
        publish_report(CONTENT, "lema", tmp_path / "state.json")
    assert "\n" not in str(said.value)
    assert time.monotonic() - start < 60
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match="WANDB_MODE=offline, and a report is made at W&B's server: unset it"):
        publish_report(CONTENT, "lema", tmp_path / "state.json")
    assert not (tmp_path / "state.json").exists()


def test_without_a_login_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: WandbServer
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="not logged in to W&B: run wandb login, or set WANDB_API_KEY"):
        publish_report(CONTENT, "lema", tmp_path / "state.json")


def test_a_refusal_of_the_server_is_said(server: WandbServer, views: Views, tmp_path: Path) -> None:
    del server.handlers["upsertView"]
    with pytest.raises(UserError, match=r"did not take it .*unknown operation upsertView"):
        publish_report(CONTENT, "lema", tmp_path / "state.json")


@pytest.mark.parametrize("status", [401, 403])
def test_a_login_that_is_refused_is_named_and_how_to_renew_it(server: WandbServer, tmp_path: Path, status: int) -> None:
    server.refusal = status
    with pytest.raises(UserError, match=r"\[31mrefused\): .*wandb login --relogin") as said:
        publish_report(CONTENT, "lema", tmp_path / "state.json")
    assert KEY not in str(said.value)
    assert str(said.value).isprintable()


def test_nothing_in_it_names_who_made_it(server: WandbServer, views: Views, tmp_path: Path) -> None:
    viewer = server.handlers["Viewer"]({})["viewer"] | {"username": "someone", "email": "someone@example.org"}
    server.handlers["Viewer"] = lambda _: {"viewer": viewer}
    publish_report(CONTENT, "lema", tmp_path / "state.json")
    sent = json.dumps(views["view1"])
    assert not [secret for secret in (KEY, "someone", str(tmp_path)) if secret in sent]


def test_a_process_of_wandbs_that_never_ends_is_not_waited_for(
    server: WandbServer, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    wandb.Api(timeout=5).runs("team/lema", {"name": {"$in": ["train-a"]}}, per_page=5)[0]  # which starts it
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True)
    core = int(found.stdout.split()[-1])
    os.kill(core, signal.SIGSTOP)
    monkeypatch.setattr(service, "SECONDS", 1.0)
    start = time.monotonic()
    service.end()
    assert 0.9 < time.monotonic() - start < 10
    os.kill(core, signal.SIGKILL)
