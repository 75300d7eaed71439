"""What a job asks of its node follows from the cell."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf
from small import ROOT
from tables import some

from lema.cluster.resources import resources
from lema.config import Config
from lema.types import UserError

CARDS: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/hydra/launcher/slurm.yaml")["cards"])  # pyright: ignore
MADE = ["backbone=llama2", "task=gsm8k"]
LARGE = ["backbone.size=70b", "engine.tensor_parallel=2"]


ASKED = [
    ("a100", MADE, 2, 13),
    ("h100", MADE, 1, 9),
    ("a100", [*MADE, "backbone.size=13b"], 4, 13),
    ("h100", [*MADE, "backbone.size=13b"], 1, 17),
    ("a100", ["backbone=codellama", "backbone.size=34b", "task=math"], 8, 23),
    ("a100", [*MADE, "train.max_steps=20"], 1, 2),
    ("a100", [*MADE, "train.processes=1"], 1, 24),
    ("a100", [*MADE, "train.processes=8"], 8, 4),
    ("a100", [*MADE, "engine.tensor_parallel=4"], 4, 7),
    ("a100", [*MADE, "train=full"], 2, 5),  # 121 GB of weights and moments
    ("a100", [*MADE, *LARGE, "train=lora"], 8, 24),
    ("h100", [*MADE, *LARGE, "train=lora"], 4, 23),
]


@pytest.mark.parametrize(
    ("card", "overrides", "gpus", "hours"),
    some(ASKED, 3),
)
def test_gpus_and_hours(
    make_config: Callable[..., Config], card: str, overrides: list[str], gpus: int, hours: int
) -> None:
    asked = resources(make_config(*overrides), CARDS[card], 12, 24)
    assert (asked["gpus_per_node"], asked["timeout_min"] / 60) == (gpus, hours)
    assert asked["mem_gb"] == gpus * CARDS[card]["ram_gb"]


def test_a_backbone_that_is_built_here_takes_no_gpu(make_config: Callable[..., Config]) -> None:
    assert "gpus_per_node" not in resources(make_config(), CARDS["a100"], 12, 24)


@pytest.mark.parametrize(("most", "minutes"), [(24, 780), (12.5, 750), (0.5, 30), (0.001, 1)])
def test_a_time_limit_is_at_most_most_hours(make_config: Callable[..., Config], most: float, minutes: int) -> None:
    assert resources(make_config(*MADE), CARDS["a100"], 12, most)["timeout_min"] == minutes
    assert resources(make_config(), CARDS["a100"], 12, most)["timeout_min"] == min(60, minutes)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.size=70b"], "a GPU of 80 GB cannot hold 138 GB of weights to serve"),
        ([*LARGE, "train=full"], "of weights on each of 8 ranks, which has 80 GB: train=lora, or 36 GPUs"),
        (["engine.tensor_parallel=16"], "a node has 8 GPUs, too few for engine.tensor_parallel=16"),
    ],
)
def test_what_no_node_holds_is_said(make_config: Callable[..., Config], overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resources(make_config(*MADE, *overrides), CARDS["a100"], 12, 24)
