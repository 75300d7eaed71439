"""A W&B server of one's own, wandb's variables in this process, and what is said of its runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small import SMALL
from wandb_server import WandbServer, serving

from lema.config import Config
from lema.tracking import service
from lema.tracking.runs import Tracker


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serving() as server:
        yield server


@pytest.fixture
def wandb_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`wandb_in(WANDB_MODE="online")`: these variables for wandb in this process, until the test ends."""

    def use(**variables: str) -> None:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        for name in ("DATA_DIR", "CACHE_DIR", "SILENT", "INIT_TIMEOUT", "FINISH_TIMEOUT", "FINISH_TIMEOUT_RAISES"):
            monkeypatch.setenv(f"WANDB_{name}", "")  # so that it is taken back
            monkeypatch.delenv(f"WANDB_{name}")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        service.end()

    yield use
    service.end()


@pytest.fixture
def tracker(
    tmp_path: Path, make_config: Callable[..., Config], wandb_in: Callable[..., None]
) -> Callable[..., Tracker]:
    """`tracker(WANDB_MODE="online")`: of the small cell, in the test's own folder, with these variables for wandb."""

    def made(**variables: str) -> Tracker:
        wandb_in(**variables)
        return Tracker(make_config(*SMALL, "tracker=wandb"), tmp_path)

    return made


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings so far, less what is said once a process of its folder."""

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        return [line for line in found if not line.startswith("W&B is shown the path ")]

    return lines
