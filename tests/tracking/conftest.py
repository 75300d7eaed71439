"""A W&B server of one's own, and wandb's variables in this process."""

import os
from collections.abc import Callable, Iterator

import pytest
from wandb_server import WandbServer, serving

from lema.tracking import service


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
