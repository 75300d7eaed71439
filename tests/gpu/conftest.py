"""What a GPU computes, against the CPU's numbers or a plain reference: `pytest -n 0 -m gpu`, minutes on one card.

Every model here has random weights, so nothing is downloaded. A table of what was measured ends the output.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

_ROWS = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(lacking)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`measured("loss, relative", 1e-6, "at most 1e-5")`: a row of the table that ends the output."""

    def add(what: str, value: float | str, bound: str = "") -> None:
        told = value if isinstance(value, str) else f"{value:.3g}"
        request.config.stash.setdefault(_ROWS, []).append(f"| {request.node.name} | {what} | {told} | {bound} |")

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash.get(_ROWS, []):
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        terminalreporter.write_line(f"{name}, torch {torch.__version__}")
        for row in ("| test | what | measured | bound |", "|---|---|---|---|", *rows):
            terminalreporter.write_line(row)


def pytest_unconfigure() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
