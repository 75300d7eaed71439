"""What W&B refuses is said, before anything is made where it can be known; nothing is said to be logged that is not."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small import SMALL
from tables import table
from tracked import curve, track
from wandb_log import offline_runs
from wandb_server import KEY, WandbServer

from lema import pipeline
from lema.config import Config
from lema.tracking.runs import Tracker, run_id
from lema.types import UserError

# What is set, and what of W&B's own words is shown.
REFUSED_SETTINGS = table(__file__, "refused settings")


@pytest.mark.parametrize(("settings", "words"), REFUSED_SETTINGS, ids=[str(each) for each, _ in REFUSED_SETTINGS])
def test_settings_that_wandb_refuses_are_refused_before_anything_is_made(
    settings: dict[str, str],
    words: str,
    tmp_path: Path,
    make_config: Callable[..., Config],
    wandb_in: Callable[..., None],
) -> None:
    project = [f"tracker.project={settings['project']}"] if "project" in settings else []
    wandb_in(**{name: value for name, value in settings.items() if name.startswith("WANDB_")})
    overrides = [*SMALL, "tracker=wandb", *project, f"runs_dir={tmp_path}"]
    with pytest.raises(UserError) as said:
        pipeline.run(make_config(*overrides), overrides)
    [line] = [line for line in str(said.value).splitlines() if line.startswith("  - tracker: ")]
    assert words in line
    assert "set tracker=none" in line
    assert KEY not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["online", "offline", "shared", "disabled", "dryrun", "run"])
def test_modes_that_wandb_knows_are_taken(mode: str, tracker: Callable[..., Tracker]) -> None:
    assert not list(tracker(WANDB_MODE=mode, WANDB_SOMETHING_ELSE="x").missing())


def test_a_key_that_is_also_that_of_the_login_is_where_it_belongs(
    tmp_path: Path, tracker: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert not list(tracker(WANDB_API_KEY=KEY, WANDB_MODE="offline").missing())
    [line] = tracker(WANDB_API_KEY=KEY, WANDB_MODE="offline", WANDB_NOTES=f"asked with {KEY}").missing()
    assert "WANDB_NOTES holds the secret of " in line


def test_without_the_package_there_is_one_line_and_the_remedy(
    tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    [line] = Tracker(make_config(*SMALL, "tracker=wandb"), tmp_path).missing()
    assert "pip install wandb, or set tracker=none" in line
    assert not list(Tracker(make_config(*SMALL, "tracker=none"), tmp_path).missing())


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        *((401, "W&B refused the run"), (404, "W&B refused the run"), (None, "W&B cannot be reached")),
        pytest.param(500, "W&B's server fails", marks=pytest.mark.slow),  # asked again for 20 seconds
    ],
)
def test_what_the_server_refuses_is_said_in_its_words_and_logged_offline(
    refusal: int | None,
    said: str,
    tmp_path: Path,
    server: WandbServer,
    tracker: Callable[..., Tracker],
    warned: Callable[[], list[str]],
) -> None:
    server.refusal = refusal
    if refusal is None:
        server.close()
    track(tracker(**server.environment, WANDB_INIT_TIMEOUT="2" if refusal is None else "20"), range(1, 4))
    [line] = [line for line in warned() if "upload it later" in line]
    assert line.startswith(f"{said} (")
    assert f"train is logged offline; upload it later with wandb sync -n 1 {tmp_path}/wandb/offline-run-*" in line
    assert line.isprintable()
    [run] = offline_runs(tmp_path)
    assert curve(run["history"]) == [(step, 1 / step) for step in range(1, 4)]


def test_what_is_not_logged_is_not_said_to_be(
    server: WandbServer,
    tracker: Callable[..., Tracker],
    warned: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    tracked = tracker(**server.environment)
    tracked.config.tracker.project = "a/b"  # which a config that is composed cannot be
    track(tracked, range(1, 4))
    [line] = warned()
    assert line.startswith("W&B started no run (Invalid project name 'a/b'")
    assert line.endswith("train is not logged at all")
    assert "offline" not in caplog.text
    assert not tracked.ids
    assert not server.runs
    assert not list((tracked.root / "wandb").glob("*run-*"))


def test_a_run_whose_id_was_deleted_can_still_be_uploaded(
    tmp_path: Path, server: WandbServer, tracker: Callable[..., Tracker]
) -> None:
    first, *later = (tracker(**server.environment, WANDB_INIT_TIMEOUT="2") for _ in range(3))
    track(first, range(1, 3))
    deleted = first.ids["train"]
    server.deleted.add(deleted)
    for each in later:
        track(each, range(1, 4))
    ids = {run["id"] for run in offline_runs(tmp_path)}
    assert len(ids) == 1, "it is the same when it is made again"
    assert deleted not in ids
    assert run_id(tmp_path, "train", "key") not in ids
